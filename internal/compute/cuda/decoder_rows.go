package cuda

import "afterimage/internal/compute"

// This file cuts passes into smaller ones and needs no GPU.

// takeRows takes up to n rows off the front of segments. Trees stay whole.
func takeRows(segs []compute.Segment, n int) (part, rest []compute.Segment) {
	for i, g := range segs {
		rows := g.Rows()
		if rows <= n {
			part, n = append(part, g), n-rows
			continue
		}
		if g.Parents != nil || n == 0 {
			return part, segs[i:]
		}
		rest = append([]compute.Segment{cutRows(g, n, rows)}, segs[i+1:]...)
		return append(part, cutRows(g, 0, n)), rest
	}
	return part, nil
}

// cutRows is rows [from, to) of a segment without parents, with the draws that are theirs.
func cutRows(g compute.Segment, from, to int) compute.Segment {
	rows := g.Rows()
	first := max(from, rows-len(g.Draws))
	a := min(first, to) - (rows - len(g.Draws)) // draws [a, b)
	b := max(to-(rows-len(g.Draws)), a)
	out := compute.Segment{Past: g.Past + from, Pages: g.Pages}
	if b > a && a >= 0 {
		out.Draws, out.Drawn = g.Draws[a:b], g.Drawn[a:b]
		if g.Logits != nil {
			l := *g.Logits
			out.Logits = &compute.Matrix{Rows: b - a, Cols: l.Cols, Data: l.Data[a*l.Cols : b*l.Cols]}
		}
	}
	if g.Positions != nil {
		out.Positions = g.Positions[from:to]
	}
	at := 0
	for _, in := range g.Inputs {
		n := in.Rows()
		lo, hi := max(from-at, 0), min(to-at, n)
		at += n
		switch {
		case lo >= hi:
		case in.IDs != nil:
			out.Inputs = append(out.Inputs, compute.Input{IDs: in.IDs[lo:hi]})
		default:
			v := in.Visual
			if v.Data != nil {
				v.Data = v.Data[lo*v.Cols : hi*v.Cols]
			}
			v.Rows = hi - lo
			out.Inputs = append(out.Inputs, compute.Input{Visual: v})
		}
	}
	return out
}
