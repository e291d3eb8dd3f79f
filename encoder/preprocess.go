package encoder

import (
	"fmt"

	"afterimage/ingest"
	"afterimage/internal/compute"
)

// check refuses a frame that is malformed or that the model cannot take.
func (p *processor) check(f ingest.Frame) error {
	if err := compute.CheckPicture(picture(f)); err != nil {
		return err
	}
	_, err := p.args(f.W, f.H)
	return err
}

// patches returns what writes the patches of frames, checked before, to rows of a device: those of one frame, or of one pair, after those
// of another, in the order of compute.PatchArgs. Frames of a pair are of one size.
func (p *processor) patches(frames []ingest.Frame) (func(ops compute.Ops, dst compute.Tensor), error) {
	type call struct {
		pics []compute.Picture
		args compute.PatchArgs
		rows int
	}
	pair := max(p.of.Pair, 1)
	var calls []call
	for i := 0; i < len(frames); i += pair {
		if len(frames)-i < pair {
			return nil, fmt.Errorf("%d frames make no pairs", len(frames))
		}
		for _, f := range frames[i+1 : i+pair] {
			if f.W != frames[i].W || f.H != frames[i].H {
				return nil, fmt.Errorf("a pair of frames of %dx%d and %dx%d", frames[i].W, frames[i].H, f.W, f.H)
			}
		}
		if n := len(calls); n == 0 || calls[n-1].pics[0].W != frames[i].W || calls[n-1].pics[0].H != frames[i].H {
			args, err := p.args(frames[i].W, frames[i].H)
			if err != nil {
				return nil, err
			}
			calls = append(calls, call{args: args})
		}
		last := &calls[len(calls)-1]
		for _, f := range frames[i : i+pair] {
			last.pics = append(last.pics, picture(f))
		}
		w, h := last.args.Size()
		last.rows += w / last.args.Patch * (h / last.args.Patch)
	}
	return func(ops compute.Ops, dst compute.Tensor) {
		at := 0
		for _, c := range calls {
			ops.Patches(dst.Slice(at, at+c.rows), c.pics, c.args)
			at += c.rows
		}
	}, nil
}

func picture(f ingest.Frame) compute.Picture { return compute.Picture{W: f.W, H: f.H, Pix: f.Pix} }
