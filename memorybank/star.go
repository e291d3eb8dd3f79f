package memorybank

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"afterimage/internal/compute"
)

// Star is the STAR memory of Flash-VStream's first version (Zhang et al., "Flash-VStream: Memory-Based Real-Time Understanding for Long
// Video Streams", arXiv 2406.08085, 2024). It has four parts, shown in this order:
//
//   - abstract: Abstract slots (25) of 1 row, the mean of a frame's rows. The first frames fill them; after that, every frame is
//     written into them by attention.
//   - temporal: Temporal clusters (25) of frames averaged 2x2.
//   - retrieved: one whole frame each of the Retrieved (3) heaviest clusters.
//   - spatial: the newest frame, whole.
//
// On the paper's grid of 8x8 that is 25*1 + 25*16 + 3*64 + 64 = 681 visual tokens; on one of 4x8 it is 25*1 + 25*8 + 3*32 + 32 = 353. Zero
// fields mean the defaults.
//
// Clusters: every frame is one of weight 1 at first; over Temporal, the two that cost least are merged, by Ward's cost of all their rows
// w1*w2/(w1+w2)*|x1-x2|^2 (ties: the pair whose later cluster stands first, then whose earlier does): rows become the weighted mean,
// weights add, and of the two exemplar frames that one stays whose averaged rows lie nearer the mean (ties: that of the earlier). Clusters
// stand in the order of their first frames. Their spans may overlap, as a cluster is what looked alike, whenever it was: there
// Flash, which merges neighbours in time only, differs.
//
// Attention: the share of slot j in frame x is softmax over slots of (q m_j) . (k x) / sqrt(width of q m_j), and m_j moves by Rate * share
// towards x; shares below 1/1000 leave a slot as it is. Without Attention, q and k take out the mean of the slots and scale what is left to
// unit mean square, which makes the score sqrt(width) * cosine: frames of one camera are so alike that without this every slot would have
// the same share, and all would become one. A slot's weight counts the frames in which its share was the greatest (ties: the first), its
// picture is the last of these, and its span reaches from its first frame to the last one that moved it: spans overlap. So weights of slots
// add up to the frames, and those of clusters do too.
//
// Where it departs from the paper and its released code, and why; Compat reproduces the code's streaming path but for what is said below:
//   - Merging the cheapest pair instead of k-means: deterministic, weighted, in float64. The code's streaming k-means starts from all rows
//     but a random one, so that it merges that one into its nearest (the globally closest pair in 6 % of simulated updates); it forgets
//     weights after every frame; and clusters come out in random order. The paper's weighted k-means is none of this, and has no order
//     either.
//   - Attention over slots. The paper's is over new frames, of which a stream has one at a time: the softmax of one number is 1, every slot
//     becomes (1-Rate)*slot + Rate*frame, and all slots converge to one running mean within some twenty frames.
//   - Retrieved frames are exemplars, one a cluster, so the bank is bounded, and shown in time order. In the paper they are the nearest of
//     the last 300 frames. The code looks up frames by the numbers of clusters, so that they are for ever among the first Temporal+1.
//
// In Compat, which has at most 100 clusters and 32 retrieved frames, k-means' unseeded permutation is one made of the frame's ID, equal
// weights are ranked by cluster number (torch leaves that open), distances are in float64 (half precision over 16,384 dimensions may overflow
// there), and only the frames that can be retrieved are kept (there: all). For the first three of these, bits cannot be equal to the code's.
// Compat's weights count frames but choose nothing; an empty cluster (rows that are equal) becomes a copy of a random row, of weight 1.
//
// With a budget below the strategy's own size, the newest frame comes first, then retrieved frames by weight, then as much of abstract and
// temporal memory as fits: what is nearest to the question, or spread evenly where there is no query.
type Star struct {
	Temporal  int        // clusters; 25; at least 1
	Abstract  int        // slots; 25; below 0 none; at most 100
	Retrieved int        // whole frames of the past shown; 3; below 0 none
	Rate      float32    // of a slot's change; 0.2; at most 1
	Attention *Attention // a checkpoint's projections; nil: see above
	Compat    bool
}

// Attention is the learned part of Star's abstract memory: q_proj and k_proj of a Flash-VStream checkpoint (attention_model.q_proj...).
// It must not change once it is set. One whose shapes do not fit together (see Check) or do not fit the rows counts as none.
type Attention struct {
	Query, Key         compute.Matrix // [out, in]: 32 x 1024 in the released checkpoint
	QueryBias, KeyBias []float32      // [out], or nil
}

// Check says what is wrong with the shapes.
func (a *Attention) Check() error {
	for name, m := range map[string]compute.Matrix{"query": a.Query, "key": a.Key} {
		if m.Rows != a.Query.Rows || m.Cols != a.Query.Cols || len(m.Data) != m.Rows*m.Cols || m.Rows == 0 {
			return fmt.Errorf("memorybank: attention: %s projection is %dx%d with %d values, the query's %dx%d",
				name, m.Rows, m.Cols, len(m.Data), a.Query.Rows, a.Query.Cols)
		}
	}
	for name, b := range map[string][]float32{"query": a.QueryBias, "key": a.KeyBias} {
		if b != nil && len(b) != a.Query.Rows {
			return fmt.Errorf("memorybank: attention: %s bias has %d values, want %d", name, len(b), a.Query.Rows)
		}
	}
	return nil
}

// GoString names the weights by a hash: a saved bank goes with them.
func (a *Attention) GoString() string {
	if a == nil {
		return "nil"
	}
	h := sha256.New()
	for _, v := range [][]float32{a.Query.Data, a.Key.Data, a.QueryBias, a.KeyBias} {
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(v)))
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
		h.Write(b)
	}
	return fmt.Sprintf("%dx%d:%x", a.Query.Rows, a.Query.Cols, h.Sum(nil)[:8])
}

// project returns m*x + bias.
func project(m compute.Matrix, bias, x []float32) []float64 {
	out := make([]float64, m.Rows)
	for r := range out {
		sum := 0.0
		for c, w := range m.Row(r) {
			sum += float64(w) * float64(x[c])
		}
		if bias != nil {
			sum += float64(bias[r])
		}
		out[r] = sum
	}
	return out
}

const mostSlots = 100

func (s Star) sizes() Star {
	s.Temporal, s.Abstract, s.Retrieved = max(orElse(s.Temporal, 25), 1), min(orElse(s.Abstract, 25), mostSlots), orElse(s.Retrieved, 3)
	if s.Compat {
		s.Temporal, s.Retrieved = min(s.Temporal, mostSlots), min(s.Retrieved, 32)
	}
	if !(s.Rate > 0) {
		s.Rate = 0.2
	}
	s.Rate = min(s.Rate, 1)
	if s.Attention != nil && s.Attention.Check() != nil {
		s.Attention = nil
	}
	return s
}

// The lists of a Star, in the order in which they stand in its entries.
const (
	abstractPart  = iota
	temporalPart  // and near is the cluster before it that ward is about
	retrievedPart // Compat only: the first frames; bit r of merges: it is number r of the retrieved
)

// abstractID is the first of the IDs for slots that a frame changed, after those for clusters.
const abstractID = 128

// Update implements Strategy. Entries are slots, then clusters.
func (s Star) Update(old []Entry, e Entry) []Entry {
	s = s.sizes()
	slots := old[:listLength(old, abstractPart)]
	clusters := old[len(slots):]
	clusters = clusters[:listLength(clusters, temporalPart)]
	frames := old[len(slots)+len(clusters):]
	entries := make([]Entry, 0, len(old)+3)
	entries = append(entries, slots...)
	if len(slots) < s.Abstract {
		entries = append(entries, slotOf(e))
	} else if s.Compat {
		s.fade(entries, e)
	} else {
		s.attend(entries, e)
	}
	n := len(entries)
	if s.Compat {
		frame := pooled(e)
		frame.part = temporalPart
		rows := append(append(make([]Entry, 0, len(clusters)+1), clusters...), frame)
		next, heavy := s.random(rows, e.ID)
		entries = append(entries, next...)
		return append(entries, s.remember(frames, e, rows, heavy)...)
	}
	c := clusterOf(e)
	c.part = temporalPart
	entries = append(append(entries, clusters...), c)
	return entries[:n+len(s.merge(entries[n:], e.ID+mergedID))]
}

// slotOf returns a frame as a slot of its own.
func slotOf(e Entry) Entry {
	slot := e
	slot.ID, slot.Role, slot.part = e.ID+abstractID, Synopsis, abstractPart
	slot.Level, slot.Grid = e.Level+uint8(bits.Len(uint(max(e.Grid.H, e.Grid.W)-1))), Grid{1, 1}
	slot.Tokens = compute.Matrix{Rows: 1, Cols: e.Tokens.Cols, Data: gist(e.Tokens)}
	return slot
}

// attend writes a frame into the slots, which belong to the caller.
func (s Star) attend(slots []Entry, e Entry) {
	x := slotOf(e)
	scores, best := s.scores(slots, x.Tokens.Data), -1
	for j, score := range scores {
		if math.IsNaN(score) || math.IsInf(score, 0) {
			scores[j] = math.Inf(-1)
		} else if best < 0 || score > scores[best] {
			best = j
		}
	}
	if best < 0 {
		if len(slots) > 0 {
			slots[0].Weight++ // nothing can be made of it, but it was seen
		}
		return
	}
	top, sum := scores[best], 0.0
	for j := range scores {
		scores[j] = math.Exp(scores[j] - top)
		sum += scores[j]
	}
	for j := range slots {
		if share := scores[j] / sum; share >= 1e-3 {
			slots[j] = blend(slots[j], x, s.Rate*float32(share), e.ID+abstractID+uint64(j))
		}
	}
	slots[best].Weight++
	slots[best].At, slots[best].Thumb, slots[best].End = e.At, e.Thumb, e.At
}

// scores says how much each slot attends to x, before the softmax; not a number where it cannot be compared.
func (s Star) scores(slots []Entry, x []float32) []float64 {
	scores := make([]float64, len(slots))
	if a := s.Attention; a != nil && a.Query.Cols == len(x) {
		key := project(a.Key, a.KeyBias, x)
		for j, m := range slots {
			scores[j] = math.NaN()
			if m.Tokens.Cols == len(x) {
				scores[j] = 0
				for i, q := range project(a.Query, a.QueryBias, m.Tokens.Data) {
					scores[j] += q * key[i]
				}
				scores[j] /= math.Sqrt(float64(len(key)))
			}
		}
		return scores
	}
	centre, n := make([]float64, len(x)), 0.0
	for _, m := range slots {
		if m.Tokens.Cols == len(x) {
			n++
			for c, v := range m.Tokens.Data {
				centre[c] += float64(v)
			}
		}
	}
	less := func(row []float32) []float64 {
		out := make([]float64, len(row))
		for c, v := range row {
			out[c] = float64(v) - centre[c]/n
		}
		return out
	}
	y := less(x)
	for j, m := range slots {
		scores[j] = math.NaN()
		if m.Tokens.Cols == len(x) {
			scores[j] = math.Sqrt(float64(len(x))) * cosine(less(m.Tokens.Data), y)
		}
	}
	return scores
}

// blend moves a slot by rate towards x.
func blend(slot, x Entry, rate float32, id uint64) Entry {
	m := slot
	m.ID, m.End = id, x.End
	m.Tokens = mean(x.Tokens, rate, slot.Tokens, 1-rate)
	m.Indicator = mixIndicators(slot.Indicator, 1-rate, x.Indicator, rate)
	m.merges++
	return m
}

// fade is what the released code's attention comes to on a stream.
func (s Star) fade(slots []Entry, e Entry) {
	x := slotOf(e)
	for j, slot := range slots {
		if !clusterable([]Entry{slot, x}) {
			continue
		}
		slots[j] = blend(slot, x, s.Rate, e.ID+abstractID+uint64(j))
		slots[j].At, slots[j].Thumb = e.At, e.Thumb
	}
	if len(slots) > 0 {
		slots[0].Weight++ // so that weights count the frames
	}
}

// starCost is Ward's cost of all rows.
func starCost(a, b Entry) float64 {
	if !alike(a, b) {
		return math.Inf(1)
	}
	wa, wb := float64(a.Weight), float64(b.Weight)
	cost := wa * wb / (wa + wb) * distance(a.Tokens, b.Tokens)
	if math.IsNaN(cost) {
		return math.Inf(1)
	}
	return cost
}

// findNear works out which of the clusters before it cluster i would merge with.
func findNear(clusters []Entry, i int) {
	c := &clusters[i]
	c.ward, c.near = math.Inf(1), 0
	for _, b := range clusters[:i] {
		if cost := starCost(b, *c); c.near == 0 || cost < c.ward {
			c.ward, c.near = cost, b.ID
		}
	}
}

// merge takes in the last of the clusters, which belong to the caller, and merges two if there are too many.
func (s Star) merge(clusters []Entry, id uint64) []Entry {
	findNear(clusters, len(clusters)-1)
	if len(clusters) <= s.Temporal {
		return clusters
	}
	b := 1
	for i := 2; i < len(clusters); i++ {
		if clusters[i].ward < clusters[b].ward {
			b = i
		}
	}
	a := 0
	for clusters[a].ID != clusters[b].near {
		a++
	}
	gone := [2]uint64{clusters[a].ID, clusters[b].ID}
	m := merge(clusters[a], clusters[b], id)
	m.End = max(clusters[a].End, clusters[b].End)
	clusters[a] = m
	clusters = append(clusters[:b], clusters[b+1:]...)
	findNear(clusters, a)
	for i := a + 1; i < len(clusters); i++ {
		c := &clusters[i]
		if c.near == gone[0] || c.near == gone[1] {
			findNear(clusters, i)
			continue
		}
		cost := starCost(m, *c)
		if cost < c.ward || cost == c.ward && a < place(clusters, c.near) {
			c.ward, c.near = cost, m.ID
		}
	}
	return clusters
}

func place(clusters []Entry, id uint64) int {
	for i, c := range clusters {
		if c.ID == id {
			return i
		}
	}
	return len(clusters)
}

// random is one step of the released code's streaming k-means. It returns the clusters, and how many rows each has.
func (s Star) random(rows []Entry, id uint64) (next []Entry, heavy []Entry) {
	k := s.Temporal
	if len(rows) <= k {
		return rows, rows
	}
	if !clusterable(rows) { // nothing there would be defined: the oldest row goes
		return rows[1:], rows[1:]
	}
	weights := make([]float64, len(rows))
	for i := range weights {
		weights[i] = 1
	}
	x := wide(rows)
	centroids, labels := kmeans(x, weights, permutation(len(rows), id)[:k], spares(len(rows), id))
	next = make([]Entry, k)
	heavy = make([]Entry, k) // Weight is the number of rows
	for j := range next {
		var members []Entry
		for i, l := range labels {
			if l == j {
				members = append(members, rows[i])
			}
		}
		heavy[j].Weight = float32(len(members))
		newID := id + mergedID + uint64(j)
		if len(members) == 0 { // a copy of a row
			from := 0
			for i := range x {
				if squares(x[i], centroids[j]) < squares(x[from], centroids[j]) {
					from = i
				}
			}
			c := rows[from]
			c.ID, c.Weight = newID, 1
			next[j] = c
			continue
		}
		next[j] = cluster(members, centroids[j], newID)
	}
	return next, heavy
}

// remember keeps the frames that the released code can retrieve, and marks those that it does: for each of the heaviest clusters, the first
// of the rows before clustering that is equal to the row with the cluster's number; and the number of that row is taken for that of a
// frame.
func (s Star) remember(frames []Entry, e Entry, rows, heavy []Entry) []Entry {
	next := append(make([]Entry, 0, len(frames)+1), frames...)
	if len(next) <= s.Temporal {
		e.part = retrievedPart
		next = append(next, e)
	}
	for i := range next {
		next[i].merges = 0
	}
	if e.Frame() == 0 {
		return next
	}
	for rank, j := range heaviest(heavy, s.Retrieved) {
		i := 0
		for i < j && !(alike(rows[i], rows[j]) && distance(rows[i].Tokens, rows[j].Tokens) == 0) {
			i++
		}
		if i < len(next) {
			next[i].merges |= 1 << rank
		}
	}
	return next
}

// Select implements Strategy: abstract, temporal, retrieved, newest.
func (s Star) Select(snap *Snapshot, query []float32, budget int) []Entry {
	s = s.sizes()
	left := newBudget(budget)
	slots := listLength(snap.Entries, abstractPart)
	n := slots + listLength(snap.Entries[slots:], temporalPart)
	newest := snap.Newest.Tokens.Rows > 0 && left.take(snap.Newest)

	var retrieved []Entry
	if s.Compat {
		for rank := range s.Retrieved {
			for _, e := range snap.Entries[n:] {
				if e.merges>>rank&1 == 1 && left.take(e) {
					retrieved = append(retrieved, e)
				}
			}
		}
	} else {
		retrieved = exemplars(snap.Entries[slots:n], s.Retrieved, &left)
	}
	shown := append([]Entry(nil), choose(snap, snap.Entries[:n], query, &left)...)
	shown = append(shown, retrieved...)
	if newest {
		shown = append(shown, snap.Newest)
	}
	return shown
}

// restored implements restorer.
func (s Star) restored(entries []Entry) error {
	s = s.sizes()
	n := listLength(entries, abstractPart)
	slots, rest := entries[:n], entries[n:]
	n = listLength(rest, temporalPart)
	clusters, frames := rest[:n], rest[n:]
	if len(slots) > s.Abstract || n > s.Temporal || !s.Compat && len(frames) > 0 || len(frames) > s.Temporal+1 {
		return fmt.Errorf("%d slots, %d clusters, %d frames; at most %d and %d", len(slots), n, len(frames), s.Abstract, s.Temporal)
	}
	for i, e := range slots {
		if e.Grid != (Grid{1, 1}) || i > 0 && e.Start < slots[i-1].Start {
			return fmt.Errorf("slot %d is not one row, or older than the one before it", i)
		}
	}
	for i := range clusters {
		if s.Compat {
			break
		}
		if clusters[i].exemplar == nil || i > 0 && clusters[i].Start < clusters[i-1].Start {
			return fmt.Errorf("cluster %d has no exemplar, or is older than the one before it", i)
		}
		findNear(clusters, i)
	}
	for i, e := range frames {
		if e.part != retrievedPart || e.Level != 0 || i > 0 && e.Frame() <= frames[i-1].Frame() {
			return fmt.Errorf("frame %d is another one", i)
		}
	}
	return nil
}
