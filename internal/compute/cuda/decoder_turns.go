//go:build cuda

package cuda

import "afterimage/internal/compute"

// turns is the table by which kernels turn queries and keys: cosines of a position's angles and then their sines, by position. Where
// positions have three axes, rows that stand at another time than height or width, or beyond the context, have rows of their own behind
// those of the context, which every pass fills anew: to kernels a position is a row of the table, so they need not know.
type turns struct {
	c       *compute.DecoderConfig
	table   devptr // f32 [Context + len(own)/headDim][headDim]
	headDim int
	all     []float32 // the context's rows; kept where positions have three axes
	own     []float32 // rows of the pass being made; empty where positions have one axis
	used    int       // rows of own
}

// newTurns makes the table, for passes of at most so many rows.
func (m *decoder) newTurns(s *stream, rows int) (err error) {
	t := &m.turns
	*t = turns{c: &m.c, headDim: m.headDim}
	if m.c.Axes() == 3 {
		t.own = make([]float32, max(rows, stepRows)*m.headDim)
	}
	all := make([]float32, m.c.Context*m.headDim)
	for p := range m.c.Context {
		at := int32(p)
		m.c.Turns(all[p*m.headDim:(p+1)*m.headDim], [3]int32{at, at, at})
	}
	if t.table, err = m.alloc(int64(len(all)+len(t.own)) * 4); err == nil {
		s.upload(t.table, bytesOf(all))
	}
	if m.c.Axes() == 3 {
		t.all = all
	}
	return err
}

// begin forgets the rows of the pass before.
func (t *turns) begin() { t.used = 0 }

// row is the table's row for a position.
func (t *turns) row(at [3]int32) int32 {
	if at[0] == at[1] && at[1] == at[2] && int(at[0]) < t.c.Context {
		return at[0]
	}
	row := t.own[t.used*t.headDim : (t.used+1)*t.headDim]
	if int(max(at[0], at[1], at[2])) < t.c.Context {
		t.join(row, at)
	} else {
		t.c.Turns(row, at)
	}
	t.used++
	return int32(t.c.Context + t.used - 1)
}

// join is Turns, put together from the context's rows: an image's rows are many, and sines are slow.
func (t *turns) join(row []float32, at [3]int32) {
	half := t.headDim / 2
	from := 0
	for axis, n := range t.c.Sections {
		to := from + n
		if axis == 2 {
			to = half // what is wider than a head is the same in every row
		}
		of := t.all[int(at[axis])*t.headDim : (int(at[axis])+1)*t.headDim]
		copy(row[from:to], of[from:to])
		copy(row[half+from:half+to], of[half+from:half+to])
		from = to
	}
}

// send brings the rows that begin and row have made to the table, ahead of what is launched next and behind what was launched before.
func (t *turns) send(s *stream) {
	s.upload(t.table+devptr(4*t.c.Context*t.headDim), bytesOf(t.own[:t.used*t.headDim]))
}
