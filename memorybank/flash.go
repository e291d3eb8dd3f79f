package memorybank

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"afterimage/internal/compute"
)

// Flash is the Flash Memory of Flash-VStream (Zhang et al., "Flash-VStream: Efficient Real-Time Understanding for Long Video
// Streams", arXiv 2506.23825, 2025): a context synopsis of averaged, coarse rows that covers all time, and a detail memory of
// a few frames at full resolution, taken where the synopsis says that most of the time went. Zero fields mean the defaults.
//
// The synopsis is a list of clusters in time order. A new frame becomes a cluster of weight 1: its rows, averaged 2x2. When
// there are more than Synopsis clusters, the two neighbours whose merging costs least are merged, by Ward's cost of their gists
// w1*w2/(w1+w2)*|g1-g2|^2 (ties: the earliest pair), a gist being the mean of a cluster's rows: weights and spans add, the rows become the weighted mean, and of the two
// exemplar frames that one stays whose own coarse rows lie nearer that mean (ties: the earlier). Select shows the exemplars of
// the Detail heaviest clusters (ties: the earlier cluster), then all clusters, then the newest frame.
//
// Where it departs from the paper and its released code, and why:
//   - Synopsis 64 and Detail 8, counted in frames; the paper has 60 and 30 units of two frames for a 7B model. Ours suit a small
//     model and a first token in milliseconds; both are settings.
//   - Clusters merge only with their neighbours in time. The code runs k-means (of one step's rows against all) and then sorts clusters
//     by mean index, so that one cluster may hold both morning and evening, and its "time" is neither. Here every cluster is a
//     span, spans are disjoint and ordered, and the model can be told when each one was.
//   - Costs compare gists, not all rows place by place. Something that moves through the picture changes every row it passes but hardly the
//     gist, so a passage stays one or two entries and 64 of them hold ten busy minutes. With all rows, the frames of one long
//     walk outbid whole short passages. With hand-made features of twelve simulated streams in place of an encoder's, 71 % of the
//     episodes kept an entry that showed them, and 99 % with gists.
//   - Merging the cheapest pair is deterministic; k-means starts from random rows, can leave a cluster empty (a division by zero in
//     the code) and is run again for every frame. Pair costs are kept, so a frame costs O(clusters + dim) after its pooling.
//   - Weights are carried exactly (they count frames), and there is one time base: the stream's. The code overwrites its weighted times
//     by row numbers, mixes frames and units, and holds times in bfloat16.
//   - Costs and distances are summed in float64 over float32 rows; the code's bfloat16 distances tie in still scenes.
//   - One exemplar per cluster is kept, so the bank is bounded. The code keeps every frame of the stream for its nearest-frame search
//     (11 GB an hour). The price: an exemplar is the nearest of those compared on the way, not of all.
//   - Coarse rows are averages of the encoder's output, not a second pass of the encoder over a smaller picture.
//   - The newest frame is always shown, so that a question about now is answered from now.
//   - Details come in time order and never twice; the code orders them by weight and may repeat one.
//
// With a budget below the strategy's own size, the newest frame comes first, then exemplars by weight, then as many clusters
// as fit: those nearest to the question, or spread evenly where there is no query.
//
// Compat reproduces the released code's streaming rules (kmeans_ordered and klarge_retrieve), one of its units being one frame, as it
// doubles every streamed frame. 60 clusters (temporal_length 120 frames) and 30 details (spatial_length 60). Over 60, k-means of all rows,
// at most 10 rounds, from 60 of the different rows at random; where there are fewer different ones, the first rows stay by themselves to
// make up the number. Weights add. Clusters are ordered by the mean of their members' row numbers, so that they may overlap and interleave
// in time. Select shows the details by weight (ties, and all of them while there are at most 60 frames: the first), each the frame whose
// averaged rows are nearest to the cluster's, of all frames that are kept, so that one may come twice, and then the clusters; no newest
// frame. Of the code's defects it keeps these: times of clusters are the mean row number, never above 60, while details have frame numbers
// (Q1; see Positions); text begins after as many positions as there are tokens, which is not what the model was trained with (Q3). It does
// not keep: times in bfloat16 and in two bases (Q2), the bank without a bound (Q4: of each cluster one frame is kept, so that details are
// searched among 60 and not among all), distances in bfloat16 (Q5; here float64), divisions by zero (Q6: an empty cluster is left out). Its
// unseeded permutation is one made of the frame's ID here. For these, results cannot be the code's bit for bit. Frames of another grid than
// the oldest one's, or with values that are not numbers, cannot be clustered: the oldest cluster goes instead.
type Flash struct {
	Synopsis int  // most clusters; 64; 60 with Compat, where 240 is the most
	Detail   int  // exemplars shown; 8; 30 with Compat; below 0 none
	Compat   bool // the released code's rules
}

func (f Flash) sizes() (synopsis, detail int) {
	synopsis, detail = f.Synopsis, f.Detail
	if synopsis <= 0 {
		synopsis = 64
		if f.Compat {
			synopsis = 60
		}
	}
	if f.Compat {
		synopsis = min(synopsis, 240)
	}
	if detail == 0 {
		detail = 8
		if f.Compat {
			detail = 30
		}
	}
	return synopsis, max(detail, 0)
}

// IDs of what Update makes of one frame, after the frame's own.
const (
	pooledID = 1
	mergedID = 2
)

// exemplar is the one frame that is kept of a cluster: as it was added, and its own coarse rows.
type exemplar struct {
	frame Entry
	own   compute.Matrix
}

// Update implements Strategy.
func (f Flash) Update(old []Entry, e Entry) []Entry {
	most, _ := f.sizes()
	c := clusterOf(e)
	if f.Compat {
		return flashCompat(append(append(make([]Entry, 0, len(old)+1), old...), c), most, e.ID)
	}
	if n := len(old); n > 0 {
		c.ward = wardCost(old[n-1], c)
	}
	entries := make([]Entry, 0, len(old)+1)
	entries = append(append(entries, old...), c)
	if len(entries) > most {
		entries = mergeCheapest(entries, e.ID+mergedID)
	}
	return entries
}

// clusterOf returns a frame as a cluster of its own.
func clusterOf(e Entry) Entry {
	c := e
	c.ID, c.Role, c.Level = e.ID+pooledID, Synopsis, e.Level+1
	c.Grid, c.Tokens = pool2x2(e.Grid, e.Tokens)
	c.exemplar = &exemplar{frame: e, own: c.Tokens}
	return c
}

// wardCost is what merging a and b adds to the sum of squared distances of all frames' gists to their clusters' gists. Rows of
// different shapes (a stream that changed its encoder's grid) merge last, and rows that are not numbers do too.
func wardCost(a, b Entry) float64 {
	if a.Grid != b.Grid || a.Tokens.Cols != b.Tokens.Cols {
		return math.Inf(1)
	}
	wa, wb := float64(a.Weight), float64(b.Weight)
	cost := wa * wb / (wa + wb) * gistDistance(a.Tokens, b.Tokens)
	if math.IsNaN(cost) {
		return math.Inf(1)
	}
	return cost
}

// mergeCheapest merges, in place, the two neighbours that cost least. entries belongs to the caller and has at least two.
func mergeCheapest(entries []Entry, id uint64) []Entry {
	best := 1
	for i := 2; i < len(entries); i++ {
		if entries[i].ward < entries[best].ward {
			best = i
		}
	}
	entries[best-1] = merge(entries[best-1], entries[best], id)
	entries = slices.Delete(entries, best, best+1)
	for i := max(best-1, 1); i <= best && i < len(entries); i++ {
		entries[i].ward = wardCost(entries[i-1], entries[i])
	}
	return entries
}

// merge makes one entry of two neighbours, a the earlier. Where frames stand for them, the one nearer to the mean goes on to do so.
func merge(a, b Entry, id uint64) Entry {
	m := average(a, b, id)
	if a.exemplar == nil || b.exemplar == nil {
		return m
	}
	stays := a
	if !alike(a, b) {
		if b.Weight > a.Weight {
			stays = b
		}
	} else if single := a.Weight == 1 && b.Weight == 1; !single && distance(b.exemplar.own, m.Tokens) < distance(a.exemplar.own, m.Tokens) {
		stays = b // two single frames are equally far from their mean, whatever rounding says: a tie, so the earlier stays
	}
	m.exemplar, m.At, m.Thumb = stays.exemplar, stays.At, stays.Thumb
	return m
}

// Select implements Strategy: details in time order, then the synopsis in time order, then the newest frame.
func (f Flash) Select(s *Snapshot, query []float32, budget int) []Entry {
	_, detail := f.sizes()
	left := newBudget(budget)
	if f.Compat {
		details := nearestFrames(s.Entries, detail, &left)
		return append(details, choose(s, s.Entries, query, &left)...)
	}
	newest := s.Newest.Tokens.Rows > 0 && left.take(s.Newest)
	shown := exemplars(s.Entries, detail, &left)
	shown = append(shown, choose(s, s.Entries, query, &left)...)
	if newest {
		shown = append(shown, s.Newest)
	}
	return shown
}

// exemplars returns the frames that stand for the heaviest entries, as many of most as fit, in time order.
func exemplars(entries []Entry, most int, left *budget) []Entry {
	var frames []Entry
	for _, i := range heaviest(entries, most) {
		frame := entries[i].exemplar.frame
		if !left.take(frame) {
			break
		}
		frames = append(frames, frame)
	}
	slices.SortFunc(frames, func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
	return frames
}

// restored implements restorer.
func (f Flash) restored(entries []Entry) error {
	for i := range entries {
		e := &entries[i]
		switch {
		case e.exemplar == nil:
			return fmt.Errorf("entry.%d: no exemplar", i)
		case f.Compat:
		case i > 0 && e.Start < entries[i-1].End:
			return fmt.Errorf("entry.%d begins before the one before it ends", i)
		case i > 0:
			e.ward = wardCost(entries[i-1], *e)
		}
	}
	return nil
}
