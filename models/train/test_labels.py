import labels


def test_labels_say_what_the_caption_says():
    v = labels.of("night, rainy. door open, lamp off, gate closed, a parcel. red car facing right at 1 parked. person in blue facing left at 7 by the door with parcel.")
    cols, s = v[:8 * labels.ACTORS].reshape(8, labels.ACTORS), list(v[8 * labels.ACTORS:])
    assert s == [0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1]
    assert cols[1].nonzero()[0].tolist() == [2 * labels.KINDS["car", "red"] + 1, 2 * len(labels.KINDS)]
    assert cols[7].nonzero()[0].tolist() == [2 * labels.KINDS["person", "blue"], 2 * len(labels.KINDS) + 1, 2 * len(labels.KINDS) + 2]
    assert cols.sum() == 5
    assert labels.of("day, clear. door closed, lamp off, gate closed, no parcel. nobody.").sum() == 2
