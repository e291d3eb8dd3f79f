package memorybank

import "math"

// Segmenter finds where a stream falls into segments. Implementations are values without state: a strategy keeps the frames since the last
// boundary in its entries, and asks after each new one. The frames may be on any grid, averaged or not: what is compared is
// the cosine of two neighbours' mean rows. A frame of another grid, or with rows that are not numbers, is unlike its neighbours.
type Segmenter interface {
	// Cut returns how many of pending (oldest first; all frames since the last cut, the new one last) are a finished segment; 0 while none
	// is. It never returns more than there are, and never lets pending grow for ever. pending is read-only.
	Cut(pending []Entry) int
}

// Clips cuts the stream into segments of N frames each (16 when N is 0, as in VideoStreaming, arXiv 2405.16009), whatever they show.
type Clips struct{ N int }

// Cut implements Segmenter.
func (c Clips) Cut(pending []Entry) int {
	n := c.N
	if n <= 0 {
		n = 16
	}
	if len(pending) < n {
		return 0
	}
	return n
}

// Dips cuts where two neighbours are least alike: once Frames frames are pending (26), at the lowest of the first Within cosines (8; ties:
// the earliest). A segment has 1 to Within frames, and Frames-Within or more stay pending: the short-term memory of StreamForest (Zeng et
// al., "StreamForest: Efficient Online Video Understanding with Persistent Event Memory", arXiv 2509.24871, 2025).
type Dips struct{ Frames, Within int }

// Cut implements Segmenter.
func (d Dips) Cut(pending []Entry) int {
	frames, within := d.Frames, d.Within
	if frames <= 0 {
		frames = 26
	}
	if within <= 0 {
		within = 8
	}
	if len(pending) < frames {
		return 0
	}
	best, least := 1, math.Inf(1)
	for i := 1; i < min(within+1, len(pending)); i++ {
		if s := similarity(pending[i-1], pending[i]); s < least {
			best, least = i, s
		}
	}
	return best
}

// SceneTilling cuts in the valleys of the similarity between neighbours (VideoLLaMB, Wang et al., arXiv 2409.01071, 2024, after Hearst's
// TextTiling). With c[i] the cosine of frames i and i+1, climb from i to both sides as long as similarity does not fall, to the peaks l and
// r: the valley's depth is l+r-2c[i]. A valley is a boundary when its depth is above mean + Alpha * (unbiased) standard deviation
// of the depths. The released code does this over the whole video again for every frame, and keeps the 15 deepest. Zero fields mean the
// defaults. Here, for a stream without an end:
//   - Depths are those of the pending frames, at most Most (64), and a climb has at most Window (8) steps.
//   - A boundary is cut when Window more frames have come after it, so that its right side is known, and only where no valley within Window
//     is deeper (ties: the earliest).
//   - A boundary is deeper than Floor. The threshold knows no scale: among the frames of one still scene it finds boundaries in the
//     noise. On three simulated streams of five minutes, seen by the embedded default's encoder, 57 % of the episodes' starts and ends
//     lay within a second of a cut with a floor of 0.01 (by chance 38 %), and as many without one, from 31 % more cuts (by
//     chance 48 %). Below 0 there is no floor.
//   - At Most frames without a boundary, the deepest valley is cut (ties: the earliest) if it is above Floor, else all of them.
type SceneTilling struct {
	Alpha  float64 // 0.5
	Floor  float64 // 0.01
	Window int     // 8 frames
	Most   int     // 64 frames
}

// Cut implements Segmenter.
func (t SceneTilling) Cut(pending []Entry) int {
	alpha, window, most := t.Alpha, t.Window, t.Most
	if alpha == 0 {
		alpha = 0.5
	}
	floor := t.Floor
	if floor == 0 {
		floor = 0.01
	}
	if window <= 0 {
		window = 8
	}
	if most <= 0 {
		most = 64
	}
	gaps := len(pending) - 1
	if gaps <= window && len(pending) < most { // nothing has enough after it yet
		return 0
	}
	like := make([]float64, gaps)
	for i := range like {
		like[i] = similarity(pending[i], pending[i+1])
	}
	depth, sum := depths(like, window), 0.0
	for _, d := range depth {
		sum += d
	}
	avg, squares := sum/float64(max(gaps, 1)), 0.0
	for _, d := range depth {
		squares += (d - avg) * (d - avg)
	}
	threshold := max(avg+alpha*math.Sqrt(squares/float64(max(gaps-1, 1))), floor)
	for i := 0; i < gaps-window; i++ {
		if depth[i] > threshold && deepest(depth, max(i-window, 0), i+window+1) == i {
			return i + 1
		}
	}
	if len(pending) < most {
		return 0
	}
	if gaps > 0 {
		if i := deepest(depth, 0, gaps); depth[i] > max(floor, 0) {
			return i + 1
		}
	}
	return len(pending)
}

// depths returns the depth of each similarity's valley, with climbs of at most window steps.
func depths(like []float64, window int) []float64 {
	depth := make([]float64, len(like))
	for i, c := range like {
		l, r := i, i
		for l > 0 && i-l < window && like[l-1] >= like[l] {
			l--
		}
		for r+1 < len(like) && r-i < window && like[r+1] >= like[r] {
			r++
		}
		depth[i] = like[l] + like[r] - 2*c
	}
	return depth
}

// deepest returns the place of the greatest in depth[from:to], the earliest where several are.
func deepest(depth []float64, from, to int) int {
	best := from
	for i := from + 1; i < to; i++ {
		if depth[i] > depth[best] {
			best = i
		}
	}
	return best
}

// similarity is the cosine of a's and b's mean rows; -1 where they cannot be compared, 0 where one is all zero.
func similarity(a, b Entry) float64 {
	if !alike(a, b) {
		return -1
	}
	return cosine(gist(a.Tokens), gist(b.Tokens))
}

// cosine returns that between two vectors; 0 where one is all zero, -1 where their lengths differ or there is none.
func cosine[T float32 | float64](a, b []T) float64 {
	if len(a) != len(b) {
		return -1
	}
	var dot, aa, bb float64
	for i, v := range a {
		v, w := float64(v), float64(b[i])
		dot, aa, bb = dot+v*w, aa+v*v, bb+w*w
	}
	switch c := dot / math.Sqrt(aa*bb); {
	case aa == 0 || bb == 0:
		return 0
	case math.IsNaN(c):
		return -1
	default:
		return c
	}
}
