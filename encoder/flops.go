package encoder

import "slices"

// FLOPs counts the operations of the products and of attention that a unit of frames of w x h pixels takes, two for each multiplication
// with its addition. A join after the memory is no part of it. Pictures that Encode refuses take none.
func (e *Encoder) FLOPs(w, h int) float64 {
	p, err := e.picture(w, h)
	if err != nil {
		return 0
	}
	return e.c.flops(e.c.patchGrid(p))
}

func (c *Config) flops(g Size) float64 {
	v := c.Vision
	patches := float64(g.H * g.W)
	rows := patches
	if c.family.class {
		rows++
	}
	h, mlp := float64(v.Hidden), 2*float64(v.MLP)
	if v.Gated {
		mlp = 3 * float64(v.MLP)
	}
	within := rows * rows // pairs that attend in a layer within windows
	if v.Window > 0 {
		_, spans := c.windows(g)
		within = 0
		for _, s := range spans {
			within += float64((s.to - s.from) * s.segment)
		}
	}
	f := patches * 2 * float64(c.patchValues()) * h
	for i := range v.Run {
		pairs := rows * rows
		if v.Window > 0 && !slices.Contains(v.Full, i) {
			pairs = within
		}
		f += rows*2*(4*h*h+h*mlp) + 4*pairs*h
	}
	j := c.Join
	if j == nil || c.Late {
		return f
	}
	before := float64(g.H * g.W / (c.Pool.H * c.Pool.W * c.square() * c.square()))
	after := c.grid(g)
	in, inner, dim := float64(c.width()*j.Merge*j.Merge), float64(j.Inner), float64(j.Dim)
	if j.Inner == 0 {
		return f + before*2*in*dim
	}
	return f + before*2*in*inner + float64(after.H*after.W)*2*inner*dim
}
