//go:build cuda

package cuda

import "afterimage/internal/compute"

// The arguments of patches.cu.
type (
	axis struct{ unit, total uint32 }
	cut  struct {
		dst                   view
		w, h                  uint32
		patch, merge, pair, _ uint32
	}
	patchesAreaArgs struct {
		cut          cut
		src          devptr
		srcW, srcH   uint32
		x, y         axis
		scale, shift [3]float64
	}
	patchesArgs struct {
		cut         cut
		src, values devptr
	}
	resampleArgs struct {
		dst, src             devptr
		first, count, weight devptr
		w, h, srcW, srcH     uint32
		size, down           uint32
	}
	placeArgs struct {
		dst, src         devptr
		w, h, srcW, srcH uint32
		x, y             int32
		fill, _          uint32
	}
)

// pass is one kernel between a picture and the size at which it is cut: across or down by taps, or, without, what step places.
type pass struct {
	srcW, srcH, w, h int
	taps             *compute.Taps
	down             bool
	step             compute.Step
	at               int64 // of its taps among the tables, in bytes
}

func (s *stream) passes(w, h int, c compute.PatchArgs) (ps []pass) {
	if c.Area() {
		return nil
	}
	for _, st := range c.Steps {
		switch {
		case st.Filter == compute.Place:
			ps = append(ps, pass{srcW: w, srcH: h, w: st.W, h: st.H, step: st})
		default:
			if st.W != w {
				ps = append(ps, pass{srcW: w, srcH: h, w: st.W, h: h, taps: s.taps.Get(st.Filter, w, st.W)})
			}
			if st.H != h {
				ps = append(ps, pass{srcW: st.W, srcH: h, w: st.W, h: st.H, taps: s.taps.Get(st.Filter, h, st.H), down: true})
			}
		}
		w, h = st.W, st.H
	}
	return ps
}

// patches uploads pictures of one size, so many at a time as staging memory of a sensible size takes, and prepares them.
func (s *stream) patches(dst view, pics []compute.Picture, c compute.PatchArgs) {
	if len(pics) == 0 {
		return
	}
	w, h := c.Size()
	srcW, srcH, pair := pics[0].W, pics[0].H, max(c.Pair, 1)
	perUnit := uint32(w / c.Patch * (h / c.Patch))
	ps := s.passes(srcW, srcH, c)
	size := 3 * srcW * srcH
	var between int // the largest picture that a pass makes
	values := c.Values()
	tables := make([]byte, 0, len(values)*len(values[0])*4)
	for i := range values {
		tables = append(tables, bytesOf(values[i][:])...)
	}
	for i := range ps {
		p := &ps[i]
		between = max(between, 3*p.w*p.h)
		p.at = int64(len(tables))
		if t := p.taps; t != nil {
			for _, v := range [][]int32{t.First, t.Count, t.Weight} {
				tables = append(tables, bytesOf(v)...)
			}
		}
	}
	table := s.scratch(scratchTable, int64(len(tables)))
	s.upload(table, tables)

	const most = 64 << 20 // bytes of pictures: enough to keep a device busy
	units := min(max(most/(pair*max(size, between)), 1), 1<<15/pair)
	for from := 0; from < len(pics) && s.err == nil; from += units * pair {
		n := min(units*pair, len(pics)-from)
		src := s.scratch(scratchHost, int64(n)*int64(size))
		for i, p := range pics[from : from+n] {
			s.upload(src+devptr(i*size), p.Pix)
		}
		for i, p := range ps {
			kind := scratchX // and then the other, by turns
			if i%2 == 1 {
				kind = scratchSums
			}
			to := s.scratch(kind, int64(n)*int64(between))
			s.pass(p, to, src, table+devptr(p.at), n)
			src = to
		}
		k := cut{dst: dst, w: uint32(w), h: uint32(h), patch: uint32(c.Patch), merge: uint32(max(c.Merge, 1)), pair: uint32(pair)}
		k.dst.rows = uint32(n/pair) * perUnit
		k.dst.p += devptr(int64(from/pair) * int64(perUnit) * dst.stride * dst.size())
		if c.Area() {
			a := patchesAreaArgs{cut: k, src: src, srcW: uint32(srcW), srcH: uint32(srcH)}
			unitX, totalX := compute.Refine(srcW, w)
			unitY, totalY := compute.Refine(srcH, h)
			a.x, a.y = axis{uint32(unitX), uint32(totalX)}, axis{uint32(unitY), uint32(totalY)}
			a.scale, a.shift = c.Affine(totalX, totalY)
			start(s, "patches_area", pixels(w, h, n), threads256, 0, &a, 0)
		} else {
			a := patchesArgs{cut: k, src: src, values: table}
			start(s, "patches", pixels(w, h, n), threads256, 0, &a, 0)
		}
	}
}

// pixels is the grid for n pictures, a thread a pixel.
func pixels(w, h, n int) [3]uint32 { return [3]uint32{blocks(w, 32), blocks(h, 8), uint32(n)} }

// pass takes n pictures at src, of the pass's first size, to dst.
func (s *stream) pass(p pass, dst, src, taps devptr, n int) {
	if p.taps == nil {
		a := placeArgs{dst: dst, src: src, w: uint32(p.w), h: uint32(p.h), srcW: uint32(p.srcW), srcH: uint32(p.srcH)}
		a.x, a.y = int32(p.step.X), int32(p.step.Y)
		for c, v := range p.step.Fill {
			a.fill |= uint32(v) << (8 * c)
		}
		start(s, "place", pixels(p.w, p.h, n), threads256, 0, &a, 0)
		return
	}
	a := resampleArgs{dst: dst, src: src, w: uint32(p.w), h: uint32(p.h), srcW: uint32(p.srcW), srcH: uint32(p.srcH), size: uint32(p.taps.Size)}
	side := devptr(4 * len(p.taps.First))
	a.first, a.count, a.weight = taps, taps+side, taps+2*side
	if p.down {
		a.down = 1
	}
	start(s, "resample", pixels(p.w, p.h, n), threads256, 0, &a, 0)
}
