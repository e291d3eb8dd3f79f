"""What every memory shows of a stream at one moment, as entries: a table of int64 with a row for each of [role, level, first frame, frame after the
last, number]. Level 0 is a frame's 32 rows; 1, 2 and 3 are means of 8, 2 and 1 rows over the frames; the learned levels are a clip's summary, a
segment's memory, and a frame as the bridge changed it, and number says which. Frames count within the stream. All families share what is below
them: which entries, in which order, is all that they differ in."""

import dataclasses

import numpy as np

SEGMENT, DETAIL, NEWEST = 0, 1, 2
SUMMARY, MEMORY, BRIDGED = 4, 5, 6
ROWS = np.array([32, 8, 2, 1, 8, 8, 8])
HEAD = 4          # a role and three tokens of time before an entry's rows
LONGEST = 1790    # rows of a prompt
BUDGETS = np.array([128, 256, 512, 800, 1024])
ENOUGH = 4        # frames that show an episode: its looks, its way, its deed
FAMILIES = {"flash": .22, "recent": .05, "newest": .04, "nothing": .04, "frames": .09, "pyramid": .11, "spans": .10, "star": .05, "selected": .20,
            "propagated": .05, "bridge": .05}


@dataclasses.dataclass
class View:
    """A stream at a moment. small and fine: clusters [n,3] of first frame, frames, exemplar; ev, evn as in data.py; focus: the questions that a
    selection is for; scores [focus, snap+1]: how near a frame's indicator is to each of them, or None."""
    snap: int
    small: np.ndarray
    fine: np.ndarray
    ev: np.ndarray
    evn: np.ndarray
    clip0: int = 0        # number of the stream's first clip, and its clips that have ended
    clips: int = 0
    clip_frames: int = 8
    seg0: int = 0         # number of the stream's first segment; the ends of those that have ended
    seg_end: np.ndarray = None
    focus: np.ndarray = None
    scores: np.ndarray = None
    clip_scores: np.ndarray = None   # [focus, clips], [focus, segments]
    seg_scores: np.ndarray = None


def entries(level, lo, hi=None, number=0):
    lo = np.atleast_1d(np.asarray(lo, np.int64))
    e = np.zeros((len(lo), 5), np.int64)
    e[:, 1], e[:, 2], e[:, 3], e[:, 4] = level, lo, lo + 1 if hi is None else hi, number
    e[:, 0] = np.where(e[:, 1] == 0, DETAIL, SEGMENT)
    return e


def newest(v):
    e = entries(0, v.snap)
    e[:, 0] = NEWEST
    return e


def clusters(level, c):
    return entries(level, c[:, 0], c[:, 0] + c[:, 1])


def by_time(*parts):
    e = np.concatenate(parts)
    return e[np.lexsort((e[:, 0] == NEWEST, e[:, 2]))]


def size(e):
    return int(ROWS[e[:, 1]].sum())


def fit(e, budget, longest=LONGEST):
    """Thins e evenly, but for the newest frame, until it fits."""
    keep = e[:, 0] == NEWEST
    rest = np.nonzero(~keep)[0]
    n = len(rest)
    while True:
        at = (2 * np.arange(n) + 1) * len(rest) // (2 * max(1, n))
        out = e[np.sort(np.concatenate((rest[at], np.nonzero(keep)[0])))]
        k, rows = size(out), size(out) + HEAD * len(out)
        if n == 0 or k <= budget and rows <= longest:
            return out
        n = max(0, min(n - 1, int(n * min(budget / k, longest / rows)) + 1))


def cut(v, r, n):
    """Contiguous spans [<=n,3], at most n of them over all that was seen: cut where clusters end, or anywhere."""
    k = r.integers(3)
    ends = (v.small, v.fine)[k][1:, 0] if k < 2 else np.arange(1, v.snap + 1)
    at = np.sort(r.choice(ends, min(n - 1, len(ends)), replace=False)) if len(ends) and n > 1 else np.zeros(0, np.int64)
    lo = np.concatenate(([0], at))
    return np.stack((lo, np.diff(np.concatenate((lo, [v.snap + 1]))), lo), 1)


def doubling(v, unit, before):
    """Spans over the frames [0, before): of a unit, towards the past ever longer, two of a length."""
    ends, n, k = [before], unit, 0
    while ends[-1] > 0:
        ends.append(max(0, ends[-1] - n))
        k += 1
        if k % 2 == 0:
            n *= 2
    lo, hi = np.array(ends[:0:-1]), np.array(ends[-2::-1])
    return np.stack((lo, hi - lo, lo), 1)


# -- families: (view, generator, budget) -> entries

def flash(v, r, budget, details=None):
    details = (8 if r.random() < .7 else int(r.integers(0, 9))) if details is None else details
    heavy = np.sort(np.argsort(-v.small[:, 1], kind="stable")[:details])
    return np.concatenate((entries(0, v.small[heavy, 2]), clusters(1, v.small), newest(v)))


def recent(v, r, budget, n=None):
    n = int(r.integers(2, 17)) if n is None else n
    return np.concatenate((entries(0, np.arange(max(0, v.snap - n + 1), v.snap)), newest(v)))


def only_newest(v, r, budget):
    return newest(v)


def nothing(v, r, budget):
    return newest(v)[:0]


def frames(v, r, budget, level=None, even=None):
    level = int(r.choice(3, p=(.35, .4, .25))) if level is None else level
    even = r.random() < .5 if even is None else even
    n = min(v.snap, max(0, budget - 32) // ROWS[level])
    if n == 0:
        return newest(v)
    at = (2 * np.arange(n) + 1) * v.snap // (2 * n) if even else np.sort(r.choice(v.snap, n, replace=False))
    return np.concatenate((entries(level, at), newest(v)))


def pyramid(v, r, budget, caps=None):
    """A few frames whole, more of 8 rows, many of 2: of each level some of the latest, by its rate, and survivors of the past."""
    if caps is None:
        share = r.dirichlet((2, 3, 3)) * max(0, budget - 32)
        caps = (share / ROWS[:3]).astype(int)
    taken, parts = np.zeros(v.snap + 1, bool), [newest(v)]
    taken[v.snap] = True
    for level, cap in enumerate(caps):
        rate = (8, 4, 1)[level]
        late = np.arange(v.snap, max(-1, v.snap - rate * int(cap * r.uniform(.1, .7)) - 1), -rate)
        late = late[~taken[late]][:cap]
        taken[late] = True
        free = v.fine[:, 2] if r.random() < .6 else np.arange(v.snap)
        free = free[~taken[free]]
        past = r.choice(free, min(cap - len(late), len(free)), replace=False) if len(free) else late[:0]
        taken[past] = True
        parts.append(entries(level, np.concatenate((late, past))))
    return by_time(*parts)


def spans(v, r, budget, level=None, of=None):
    """Means over all of the past, a span each; at times the latest frames besides."""
    level = int(r.choice((1, 2, 3), p=(.6, .35, .05))) if level is None else level
    most = max(1, (budget - 32) // ROWS[level])
    if of is not None or r.random() < .5:
        c = v.small if of == "small" or of is None and len(v.fine) > most * 2 else v.fine
    else:
        c = cut(v, r, int(r.integers(2, max(3, min(most, 256) + 1))))
    parts = [clusters(level, c)]
    if of is None and r.random() < .4:
        k = min(v.snap, int(r.integers(1, 9)))
        parts.append(entries(int(r.integers(0, 2)), np.arange(v.snap - k, v.snap)))
    return np.concatenate((*parts, newest(v)))


def star(v, r, budget, level=None):
    """Spans averaged twice, more coarsely or less; some key frames; some of the latest."""
    level = int(r.integers(1, 3)) if level is None else level
    heavy = np.argsort(-v.small[:, 1], kind="stable")[:int(r.integers(1, 5))]
    late = np.arange(max(0, v.snap - int(r.integers(0, 4))), v.snap)
    parts = [clusters(level, cut(v, r, 25)), clusters(3, cut(v, r, 25)), entries(0, np.sort(v.small[heavy, 2])), entries(int(r.integers(0, 2)), late)]
    if r.random() < .3:
        return by_time(*parts, newest(v))
    return np.concatenate([parts[i] for i in r.permutation(4)] + [newest(v)])


def nearest(score, n):
    n = min(n, len(score))
    return np.argpartition(-score, n - 1)[:n] if n else np.zeros(0, np.int64)


def together(lists, n):
    """Takes from the lists in turn until there are n different ones."""
    out = dict.fromkeys(x for group in zip(*(l.tolist() for l in lists)) for x in group) if lists else {}
    return np.array(list(out)[:n], np.int64)


def evidence(v):
    return [(int(lo), int(hi)) for k in v.focus for lo, hi in v.ev[k, :abs(int(v.evn[k]))]]


def choose(v, r, lo, hi, n, scores, retrieve):
    """Which n of the things that cover the frames [lo, hi) a selection for the questions in focus shows: the nearest ones; or what the
    answers rest on, among others."""
    if retrieve and scores is not None:
        return np.sort(together([np.array(sorted(nearest(s, n), key=lambda i: -s[i])) for s in scores], n))
    want, late = [], []
    for a, b in evidence(v):
        hit = np.nonzero((lo < b) & (hi > a))[0]
        if len(hit) > ENOUGH and r.random() < .7:
            hit = r.choice(hit, int(r.integers(ENOUGH, min(len(hit), 3 * ENOUGH) + 1)), replace=False)
        want.append(hit)
        late.append(np.nonzero((lo < b + 90) & (hi > a - 90))[0])  # what was there shortly before and after
    want = np.unique(np.concatenate(want)) if want else np.zeros(0, np.int64)
    if len(want) >= n:
        return np.sort(r.choice(want, n, replace=False))
    n = len(want) + int((n - len(want)) * (1 if r.random() < .6 else r.random()))
    near = np.unique(np.concatenate(late)) if late else want
    if scores is not None and r.random() < .5:
        near = np.concatenate([near, *(nearest(s, n) for s in scores)])
    near = np.setdiff1d(near, want)
    other = r.choice(near, min(len(near), int((n - len(want)) * r.random())), replace=False)
    want = np.concatenate((want, other))
    rest = np.setdiff1d(np.arange(len(lo)), want)
    return np.sort(np.concatenate((want, r.choice(rest, min(len(rest), n - len(want)), replace=False))))


def cluster_scores(c, scores):
    if scores is None:
        return None
    s = np.concatenate((np.zeros((len(scores), 1)), scores.astype(np.float64).cumsum(1)), 1)
    return (s[:, c[:, 0] + c[:, 1]] - s[:, c[:, 0]]) / c[:, 1]


def selected(v, r, budget, standard=False):
    """[the past, coarsely] [the latest frames] [the newest] [what the questions selected], or all in time order."""
    late = 3 if standard else int(r.integers(0, 7))
    latest = entries(1 if standard or r.random() < .85 else 0, np.arange(max(0, v.snap - late), v.snap))
    left = budget - 32 - size(latest)
    parts = [newest(v)[:0]]
    if standard or r.random() < .8:
        past = doubling(v, 16 if standard else int(r.integers(6, 40)), max(0, v.snap - late))
        parts = [fit(clusters(1 if standard or r.random() < .7 else 2, past), max(0, min(budget // 4, left)))]
        left -= size(parts[0])
    level = 1 if standard else int(r.choice(3, p=(.08, .82, .1)))
    n = max(0, left) // ROWS[level]
    if not standard and r.random() < .3:
        n = int(n * r.random())
    n = min(n, 160)
    if standard or r.random() < .6:
        c = v.fine[v.fine[:, 0] + v.fine[:, 1] <= v.snap + 1]
        scores = cluster_scores(c, v.scores)
    else:
        at = np.arange(v.snap + 1)
        c, scores = np.stack((at, np.ones_like(at), at), 1), v.scores
    pick = choose(v, r, c[:, 0], c[:, 0] + c[:, 1], n, scores, standard or r.random() < .5)
    chosen = clusters(level, c[pick]) if level else entries(0, c[pick, 2])
    shown = np.concatenate((latest, newest(v), chosen))
    if standard or r.random() < .75:
        return np.concatenate((*parts, shown)), shown
    return by_time(*parts, shown), shown


def learned(v, r, budget, level, number, lo, hi, scores, last, standard):
    """Some of the learned entries, then what is latest."""
    n = max(0, budget - 32 - size(last)) // 8
    some = len(lo) > n
    pick = np.arange(len(lo))
    if some:
        pick = choose(v, r, lo, hi, n, scores, standard or r.random() < .4)
    elif not standard and r.random() < .3:
        some, pick = True, choose(v, r, lo, hi, int(len(lo) * r.random()), scores, False)
    e = np.concatenate((entries(level, lo[pick], hi[pick], number[pick]), last, newest(v)))
    return (e, e) if some else (e, None)


def propagated(v, r, budget, standard=False):
    k = np.arange(v.clips)
    done = v.clips * v.clip_frames
    last = entries(1, np.arange(done, v.snap) if not standard and r.random() < .4 else np.zeros(0, np.int64))
    return learned(v, r, budget, SUMMARY, v.clip0 + k, k * v.clip_frames, (k + 1) * v.clip_frames, v.clip_scores, last, standard)


def bridge(v, r, budget, standard=False):
    k = np.nonzero(v.seg_end <= v.snap + 1)[0]
    lo, hi = np.concatenate(([0], v.seg_end[:-1]))[k], v.seg_end[k]
    last = newest(v)[:0]
    if len(k):
        m = hi[-1] - lo[-1]
        at = (2 * np.arange(min(m, 8)) + 1) * m // (2 * min(m, 8))
        last = entries(BRIDGED, lo[-1] + at, number=(v.seg0 + k[-1]) * 8 + np.arange(len(at)))
    return learned(v, r, budget, MEMORY, v.seg0 + k, lo, hi, v.seg_scores, last, standard)


BUILD = {"flash": flash, "recent": recent, "newest": only_newest, "nothing": nothing, "frames": frames, "pyramid": pyramid, "spans": spans, "star": star,
         "selected": selected, "propagated": propagated, "bridge": bridge}
SELECTING = ("selected", "propagated", "bridge")


def shows(v, e):
    """Which questions the entries answer: all that they rest on is shown, or one of it where that will do."""
    seen = np.zeros(v.snap + 2, np.int64)
    np.add.at(seen, e[:, 2], 1)
    np.add.at(seen, np.minimum(e[:, 3], v.snap + 1), -1)
    covered = np.concatenate(([0], (seen.cumsum()[:-1] > 0).cumsum()))
    lo, hi = v.ev[..., 0], np.minimum(v.ev[..., 1], v.snap + 1)
    ok = covered[hi] - covered[lo] >= np.minimum(hi - lo, ENOUGH)
    real = np.arange(v.ev.shape[1]) < abs(v.evn[:, None])
    return np.where(v.evn < 0, (ok & real).any(1), (ok | ~real).all(1))


def build(name, v, r, budget=None, **options):
    """Entries of a family, and which questions count behind them."""
    budget = int(r.choice(BUDGETS, p=(.15, .25, .3, .15, .15))) if budget is None else budget
    out = BUILD[name](v, r, budget, **options)
    e, judge = out if isinstance(out, tuple) else (out, None)
    if name not in ("flash", "nothing", "newest", "recent"):
        e = fit(e, max(budget, 32))
    return e, np.ones(len(v.evn), bool) if judge is None else shows(v, judge)
