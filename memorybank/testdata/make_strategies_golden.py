"""An independent reference for the strategies, in NumPy, that remembers every frame: writes strategies_golden.json.

    python make_strategies_golden.py

It needs flash_golden.json, whose frames it takes: 160 frames of 4x4 rows of 6, nine scenes some of which come back. Everything is worked out
again at every step in float64 from the frames that an entry stands for, where the Go code carries rows, costs and neighbours along. What
papers leave open (ties, the random numbers, how a stream is cut) is as the strategies' documentation says.
"""

import json
import math

import numpy as np

source = json.load(open("flash_golden.json"))
TIMES, DIM = source["times"], source["dim"]
FRAMES = np.array(source["frames"], dtype=np.float32).reshape(len(TIMES), 4, 4, DIM).astype(np.float64)
N = len(FRAMES)
STEPS = set(range(14)) | set(range(14, N, 5)) | {N - 1}
ROWS = {2, 9, 79, N - 1}


def halve(x):
    return (x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]) / 4


LEVELS = [FRAMES]
while LEVELS[-1].shape[1] > 1:
    LEVELS.append(np.stack([halve(f) for f in LEVELS[-1]]))
MEANS = FRAMES.mean(axis=(1, 2))


def cos(a, b):
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


margins = {}


def least(name, costs):
    """The place of the least cost, the first of several; how clear the choice was is noted, exact ties aside."""
    costs = np.array(costs, dtype=float)
    i = int(np.argmin(costs))
    others = costs[(costs != costs[i]) & np.isfinite(costs)]
    if len(others):
        margins[name] = min(margins.get(name, np.inf), float(others.min() - costs[i]))
    return i


def entry(first, last, at, weight, level, rows):
    return {"span": [TIMES[first], TIMES[last], TIMES[at]], "weight": weight, "level": level, "rows": rows}


def single(f, level):
    return entry(f, f, f, 1, level, LEVELS[level][f])


def record(entries, shown, step):
    """entries as the bank's; shown: what a prompt shows, as [time at, level] in order."""
    out = {"span": [e["span"] for e in entries], "weight": [e["weight"] for e in entries], "level": [e["level"] for e in entries]}
    if shown is not None:
        out["shown"] = shown
    if step in ROWS:
        out["rows"] = [np.round(e["rows"], 6).ravel().tolist() for e in entries]
    return out


def evenly(items, n):
    n = min(n, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * n)] for i in range(n)]


MASK = (1 << 64) - 1


def splitmix(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def random(seed, x):
    return splitmix(splitmix((seed * 0x9E3779B97F4A7C15 + x) & MASK))


def frame_id(f):
    return (f + 1) << 8


def shuffle(n, f):
    p = list(range(n))
    for i in range(n):
        j = i + random(frame_id(f), i) % (n - i)
        p[i], p[j] = p[j], p[i]
    return p


# --- the baselines


def uniform(n):
    for f in range(N):
        stride = 1
        while f // stride + 1 > 2 * n:
            stride *= 2
        held = list(range(0, f + 1, stride))
        past = [h for h in held if h != f]
        shown = (past if len(past) <= n - 1 else evenly(past, n - 1)) + [f]
        yield [single(h, 0) for h in held], [[TIMES[h], 0] for h in shown]


def reservoir(n, seed, even):
    held = []
    for f in range(N):
        if len(held) < n:
            held.append(f)
        else:
            slot = random(seed, frame_id(f)) % (f + 1 if even else n)
            if slot < n:
                del held[slot]
                held.append(f)
        past = [h for h in held if h != f]
        shown = (past if len(past) <= n - 1 else evenly(past, n - 1)) + [f]
        yield [single(h, 0) for h in held], [[TIMES[h], 0] for h in shown]


# --- pyramid


def pyramid(capacity, every, evict, compat, name):
    lists = [[], [], []]  # of [frame, how many it has outlived]

    def victim(level, f):
        held = lists[level]
        if len(held) == 1 or evict == "fifo":
            return 0
        if evict == "uniform":
            if len(held) == 2:
                return 0
            return 1 + least(name, [TIMES[c[0]] - TIMES[a[0]] for a, c in zip(held, held[2:])])
        pairs = list(zip(held, held[1:]))
        unlike = [1 - cos(MEANS[a[0]], MEANS[b[0]]) for a, b in pairs]
        if evict == "similarity":
            return least(name, unlike)
        merges = [(a[1] + b[1]) / 2 + 1 for a, b in pairs]
        return least(
            name,
            [0.4 * u + 0.2 * ((a[0] + b[0]) / 2 / (f + 1)) + 0.4 * (m / max(merges)) for u, (a, b), m in zip(unlike, pairs, merges)],
        )

    def leave(level, i):
        frame, outlived = lists[level].pop(i)
        if i < len(lists[level]):
            lists[level][i][1] += outlived + 1
        return frame

    def put(level, frame, f):
        lists[level] = sorted(lists[level] + [[frame, 0]])
        if len(lists[level]) > capacity[level]:
            out = leave(level, victim(level, f))
            if level < 2:
                put(level + 1, out, f)

    def put_released(level, frame, f, cascade):
        if capacity[level] and len(lists[level]) >= capacity[level]:
            j = victim(level, f)
            if cascade and level < 2:
                put_released(level + 1, lists[level][j][0], f, False)
            leave(level, j)
        lists[level].append([frame, 0])

    for f in range(N):
        level = next((r for r in range(3) if f % every[r] == 0), None)
        if level is not None:
            put_released(level, f, f, True) if compat else put(level, f, f)
        held = [(frame, level) for level, l in enumerate(lists) for frame, _ in l]
        shown = [[TIMES[frame], level] for frame, level in sorted(held) if compat or frame != f]
        yield [single(frame, level) for frame, level in held], shown if compat else shown + [[TIMES[f], 0]]


# --- segments


def clips(n):
    return lambda pending: n if len(pending) >= n else 0


def dips(frames, within):
    def cut(pending):
        if len(pending) < frames:
            return 0
        return 1 + least("dips", [cos(MEANS[a], MEANS[b]) for a, b in list(zip(pending, pending[1:]))[:within]])

    return cut


def scene_tilling(alpha, floor, window, most):
    def cut(pending):
        c = [cos(MEANS[a], MEANS[b]) for a, b in zip(pending, pending[1:])]
        depth = []
        for i in range(len(c)):
            left = right = i
            while left > 0 and i - left < window and c[left - 1] >= c[left]:
                left -= 1
            while right + 1 < len(c) and right - i < window and c[right + 1] >= c[right]:
                right += 1
            depth.append(c[left] + c[right] - 2 * c[i])
        if len(depth) > 1:
            threshold = max(np.mean(depth) + alpha * np.std(depth, ddof=1), floor)
            for i in range(len(depth) - window):
                near = depth[max(i - window, 0) : i + window + 1]
                if depth[i] > threshold and depth[i] >= max(near) and i - max(i - window, 0) == int(np.argmax(near)):
                    return i + 1
        if len(pending) < most:
            return 0
        if depth and max(depth) > max(floor, 0):
            return 1 + int(np.argmax(depth))
        return len(pending)

    return cut


def segments(cut):
    pending, lengths = [], []
    for f in range(N):
        pending.append(f)
        while n := cut(pending):
            lengths.append(n)
            pending = pending[n:]
    return lengths


# --- forest


def picture(frames):
    return LEVELS[1][frames].mean(axis=0)


def condense(pictures, most, name):
    pictures = list(pictures)
    while len(pictures) > most:
        i = least(
            name,
            [
                len(a) * len(b) / (len(a) + len(b)) * np.sum((MEANS[a].mean(axis=0) - MEANS[b].mean(axis=0)) ** 2)
                for a, b in zip(pictures, pictures[1:])
            ],
        )
        pictures[i : i + 2] = [pictures[i] + pictures[i + 1]]
    return pictures


def forest(quota, cut, name):
    events, short = [], []  # an event: [pictures, how many events it was]
    # which frame's picture stands for a mean is remembered, as the heavier of two keeps it: (frames) -> frame
    stands = {}

    def condensed(pictures, most):
        pictures = [list(p) for p in pictures]
        while len(pictures) > most:
            before = pictures
            pictures = condense(pictures, len(pictures) - 1, name)
            for p in pictures:
                if p not in before:
                    i = next(i for i, (a, b) in enumerate(zip(before, before[1:])) if a + b == p)
                    a, b = before[i], before[i + 1]
                    stands[tuple(p)] = stands[tuple(b)] if len(b) > len(a) else stands[tuple(a)]
        return pictures

    for f in range(N):
        short.append(f)
        stands[(f,)] = f
        n = cut(short)
        if n:
            events.append([condensed([[g] for g in short[:n]], (n + 1) // 2), 1])
            short = short[n:]
            while sum(len(e[0]) for e in events) > quota:
                if len(events) == 1:
                    events[0][0] = condensed(events[0][0], (len(events[0][0]) + 1) // 2)
                    continue
                flat = [sum(e[0], []) for e in events]
                middle = [(g[0] + g[-1] + 1) / 2 for g in flat]
                merges = [(a[1] + b[1]) / 2 for a, b in zip(events, events[1:])]
                i = least(
                    name,
                    [
                        0.4 * (1 - cos(MEANS[flat[k]].mean(axis=0), MEANS[flat[k + 1]].mean(axis=0)))
                        + 0.2 * ((middle[k] + middle[k + 1]) / 2 / (f + 1))
                        + 0.4 * (merges[k] / max(merges))
                        for k in range(len(events) - 1)
                    ],
                )
                (a, na), (b, nb) = events[i], events[i + 1]
                events[i : i + 2] = [[condensed(a + b, (len(a) + len(b) + 1) // 2), na + nb]]
        entries = [entry(p[0], p[-1], stands[tuple(p)], len(p), 1, picture(p)) for e in events for p in e[0]] + [single(g, 1) for g in short]
        yield entries, [[e["span"][2], 1] for e in entries if e["span"][0] != TIMES[f]] + [[TIMES[f], 0]]


# --- star


def star(temporal, slots, retrieved, rate, attention, name):
    memory, span, won = [], [], []
    clusters = []  # [frames, exemplar]
    for f in range(N):
        x = MEANS[f]
        if len(memory) < slots:
            memory.append(x.copy())
            span.append([f, f, f])
            won.append(1)
        elif slots:
            if attention:
                q, qb, k, kb = attention
                scores = np.array([(q @ m + qb) @ (k @ x + kb) / math.sqrt(len(q)) for m in memory])
            else:
                scores = np.array([math.sqrt(DIM) * cos(m - np.mean(memory, axis=0), x - np.mean(memory, axis=0)) for m in memory])
            share = np.exp(scores - scores.max())
            share /= share.sum()
            margins[name + " share"] = min(margins.get(name + " share", np.inf), float(np.abs(share - 1e-3).min()))
            for j in range(slots):
                if share[j] >= 1e-3:
                    memory[j] += rate * share[j] * (x - memory[j])
                    span[j][1] = f
            j = least(name + " score", -scores)
            won[j] += 1
            span[j][2] = f
        clusters.append([[f], f])
        if len(clusters) > temporal:
            mean = [LEVELS[1][c[0]].mean(axis=0) for c in clusters]
            pairs = [(i, j) for j in range(len(clusters)) for i in range(j)]
            costs = []
            for i, j in pairs:
                a, b = len(clusters[i][0]), len(clusters[j][0])
                costs.append(a * b / (a + b) * np.sum((mean[i] - mean[j]) ** 2))
            i, j = pairs[least(name, costs)]
            (a, ea), (b, eb) = clusters[i], clusters[j]
            members = sorted(a + b)
            centre = LEVELS[1][members].mean(axis=0)
            da, db = np.sum((LEVELS[1][ea] - centre) ** 2), np.sum((LEVELS[1][eb] - centre) ** 2)
            clusters[i] = [members, ea if da <= db * (1 + 1e-9) else eb]
            del clusters[j]
        entries = [entry(s[0], s[1], s[2], w, 2, m.copy()) for m, s, w in zip(memory, span, won)]
        entries += [entry(c[0][0], c[0][-1], c[1], len(c[0]), 1, LEVELS[1][c[0]].mean(axis=0)) for c in clusters]
        heavy = sorted(range(len(clusters)), key=lambda i: -len(clusters[i][0]))[:retrieved]
        shown = [[e["span"][2], e["level"]] for e in entries]
        shown += [[TIMES[e], 0] for e in sorted(clusters[i][1] for i in heavy)] + [[TIMES[f], 0]]
        yield entries, shown


def kmeans(x, w, start, spare):
    x = x.reshape(len(x), -1)
    c = x[start].copy()
    for _ in range(10):
        d = ((x[:, None] - c[None]) ** 2).sum(axis=2)
        labels = d.argmin(axis=1)
        new = np.empty_like(c)
        for j in range(len(c)):
            m = labels == j
            new[j] = (w[m, None] * x[m]).sum(axis=0) / w[m].sum() if m.any() else x[spare()]
        if np.sqrt(((c - new) ** 2).sum(axis=1)).sum() < 1e-4:
            break
        c = new
    return c, labels


def spares(n, f):
    k = n
    while True:
        yield random(frame_id(f), k) % n
        k += 1


def star_released(temporal, slots, retrieved, rate):
    memory, rows, frames = [], [], []  # rows: [values, frames, picture]
    for f in range(N):
        x = MEANS[f]
        if len(memory) < slots:
            memory.append([x.copy(), f, f, f, 1])
        else:
            memory = [[(1 - rate) * m[0] + rate * x, m[1], f, f, m[4]] for m in memory]
            memory[0][4] += 1
        if len(frames) <= temporal:
            frames.append(f)
        before = rows + [[LEVELS[1][f], [f], f]]
        if len(before) <= temporal:
            rows, sizes = before, [1] * len(before)
        else:
            x = np.stack([r[0] for r in before])
            c, labels = kmeans(x, np.ones(len(x)), shuffle(len(x), f)[:temporal], spares(len(x), f).__next__)
            rows, sizes = [], []
            for j in range(temporal):
                members = [before[i] for i in np.flatnonzero(labels == j)]
                assert members, "the stream has no equal rows"
                heavy = max(members, key=lambda m: len(m[1]))
                rows.append([c[j].reshape(x[0].shape), sorted(sum((m[1] for m in members), [])), heavy[2]])
                sizes.append(len(members))
        chosen = sorted(range(len(sizes)), key=lambda j: -sizes[j])[:retrieved] if f > 0 else []
        entries = [entry(m[1], m[2], m[3], m[4], 2, m[0]) for m in memory]
        entries += [entry(r[1][0], r[1][-1], r[2], len(r[1]), 1, r[0]) for r in rows]
        shown = [[e["span"][2], e["level"]] for e in entries] + [[TIMES[frames[j]], 0] for j in chosen] + [[TIMES[f], 0]]
        yield entries + [single(g, 0) for g in frames], shown


# --- flash as released


def flash_released(synopsis, detail, positions):
    rows = []  # [values, frames, exemplar]
    low = LEVELS[1]
    for f in range(N):
        rows.append([low[f], [f], f])
        times = list(range(len(rows)))
        if len(rows) > synopsis:
            x = np.stack([r[0].ravel() for r in rows])
            unique = sorted(range(len(x)), key=lambda i: tuple(x[i]))
            assert len({tuple(v) for v in x}) == len(x), "the stream has no equal rows"
            start = [unique[p] for p in shuffle(len(unique), f)[:synopsis]]
            w = np.array([len(r[1]) for r in rows], dtype=float)
            c, labels = kmeans(x, w, start, spares(len(x), f).__next__)
            new = []
            for j in range(synopsis):
                m = np.flatnonzero(labels == j)
                if len(m) == 1:
                    new.append((m[0], rows[m[0]]))
                    continue
                members = sorted((rows[i] for i in m), key=lambda r: r[1][0])
                centre = c[j].reshape(low[0].shape)
                near = members[least("flash exemplar", [np.sum((low[r[2]] - centre) ** 2) for r in members])][2]
                new.append((m.mean(), [centre, sorted(sum((r[1] for r in members), [])), near]))
            new.sort(key=lambda t: t[0])
            rows = [r for _, r in new]
            times = [int(np.round(t)) for t, _ in new]
        entries = [entry(r[1][0], r[1][-1], r[2], len(r[1]), 1, r[0]) for r in rows]
        if len(rows) <= detail:
            details = [r[2] for r in rows]
        else:
            heavy = sorted(range(len(rows)), key=lambda i: -len(rows[i][1]))[:detail]
            details = [rows[least("flash detail", [np.sum((low[r[2]] - rows[i][0]) ** 2) for r in rows])][2] for i in heavy]
        if f in positions:
            s, tokens = 7, 16 * len(details)
            at = [[s + d, s + y, s + x] for d in details for y in range(4) for x in range(4)]
            at += [[s + tokens + q, s + tokens + y, s + tokens + x] for q in times for y in range(2) for x in range(2)]
            positions[f] = {"start": s, "rows": at, "text": s + tokens + 4 * len(rows)}
        yield entries, [[TIMES[d], 0] for d in details] + [[e["span"][2], 1] for e in entries]


def run(states):
    return {str(f): record(e, s, f) for f, (e, s) in enumerate(states) if f in STEPS}


rng = np.random.default_rng(11)
projections = [np.round(4 * rng.normal(size=s), 3) for s in [(4, DIM), (4,), (4, DIM), (4,)]]
projections[2] = np.round(projections[0] + 0.5 * projections[2], 3)  # alike, as trained ones would be: what is similar attends
positions = {5: None, 40: None, N - 1: None}
out = {
    "frames": "flash_golden.json",
    "attention": {n: p.ravel().tolist() for n, p in zip(["query", "queryBias", "key", "keyBias"], projections)},
    "segments": {
        "clips": segments(clips(7)),
        "dips": segments(dips(12, 5)),
        "scenes": segments(scene_tilling(0.5, 0.01, 4, 24)),
        "scenes without a floor": segments(scene_tilling(0.5, -1, 3, 40)),
    },
    "states": {
        "uniform": run(uniform(5)),
        "reservoir": run(reservoir(6, 9, False)),
        "reservoir even": run(reservoir(6, 9, True)),
        "forest dips": run(forest(9, dips(10, 5), "forest dips")),
        "forest clips": run(forest(12, clips(6), "forest clips")),
        "forest scenes": run(forest(6, scene_tilling(0.5, 0.01, 3, 12), "forest scenes")),
        "forest of one": run(forest(1, clips(4), "forest of one")),
        "star": run(star(7, 5, 3, 0.2, None, "star")),
        "star attention": run(star(4, 3, 2, 0.3, projections, "star attention")),
        "star compat": run(star_released(7, 5, 3, 0.2)),
        "flash compat": run(flash_released(12, 5, positions)),
    },
    "positions": {str(f): p for f, p in positions.items()},
}
for evict in ["similarity", "fifo", "uniform", "penalty"]:
    out["states"]["pyramid " + evict] = run(pyramid([2, 4, 6], [8, 4, 1], evict, False, "pyramid " + evict))
    out["states"]["pyramid compat " + evict] = run(pyramid([3, 2, 6], [8, 4, 1], evict, True, "pyramid compat " + evict))
out["states"]["pyramid narrow"] = run(pyramid([1, 0, 3], [3, 2, 1], "similarity", False, "pyramid narrow"))
out["states"]["pyramid rare"] = run(pyramid([2, 1, 2], [6, 3, 2], "penalty", False, "pyramid rare"))
for name, m in sorted(margins.items()):
    print(f"{name}: the closest choice was {m:.1e} apart")
with open("strategies_golden.json", "w") as file:
    json.dump(out, file, separators=(",", ":"))
    file.write("\n")
