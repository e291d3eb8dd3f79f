package encoder

// FLOPs counts the operations of the products and of attention that one frame takes, two for each multiplication with its addition.
func (e *Encoder) FLOPs() float64 { return e.c.flops() }

func (c *Config) flops() float64 {
	v, g := c.Vision, c.patchGrid()
	patches := float64(g.H * g.W)
	rows := patches
	if c.family.class {
		rows++
	}
	h, mlp := float64(v.Hidden), float64(v.MLP)
	layer := rows * (2*(4*h*h+2*h*mlp) + 4*rows*h)
	f := patches*2*3*float64(v.PatchSize*v.PatchSize)*h + float64(v.Run)*layer
	if p := c.Projector; p != nil {
		cells, dim := c.grid(), float64(p.Dim)
		f += float64(cells.H*cells.W) * 2 * (h*dim + dim*dim)
	}
	return f
}
