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
	own     []float32 // of the pass being made; empty where positions have one axis
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
	return err
}

// begin forgets the rows of the pass before.
func (t *turns) begin() { t.used = 0 }

// row is the table's row for a position.
func (t *turns) row(at [3]int32) int32 {
	if at[0] == at[1] && at[1] == at[2] && int(at[0]) < t.c.Context {
		return at[0]
	}
	t.c.Turns(t.own[t.used*t.headDim:(t.used+1)*t.headDim], at)
	t.used++
	return int32(t.c.Context + t.used - 1)
}

// send brings the rows that begin and row have made to the table, ahead of what is launched next and behind what was launched before.
func (t *turns) send(s *stream) {
	s.upload(t.table+devptr(4*t.c.Context*t.headDim), bytesOf(t.own[:t.used*t.headDim]))
}
