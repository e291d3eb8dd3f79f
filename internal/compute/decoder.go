package compute

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// Decoders is implemented by a Device that runs a language model better whole than op by op: with K/V in its own layout, drawing
// tokens itself, and without a launch for every op. On other devices the same Decoder is built from Ops.
type Decoders interface {
	// NewDecoder makes a decoder of the weights that w hands out, each asked for once; w nil makes random ones on the device from
	// c.Seed, for timing. The caller closes it before the Device. An error that wraps errors.ErrUnsupported says that the device has
	// none for such a config, and that one made from its Ops will do.
	NewDecoder(ctx context.Context, c DecoderConfig, w DecoderWeights) (Decoder, error)
}

// DecoderConfig is a decoder of the Llama kind: RMSNorm, rotary attention with grouped queries, SwiGLU.
type DecoderConfig struct {
	Hidden, Layers, Heads, KVHeads, HeadDim, MLP, Vocab int

	Context int // positions a sequence may take
	Pages   int // of K/V to hold, PageRows rows each; 0: what the device thinks best, at least one Context
	Eps     float32
	QKVBias bool
	Tied    bool      // the embedding table is the head
	InvFreq []float32 // HeadDim/2
	// Sections, where not zero, says that a row stands at a position of three axes: of the HeadDim/2 angles the first Sections[0] turn by
	// its time, the next by its height and the last by its width (M-RoPE).
	Sections [3]int
	Turn     float32 // factor on cosines and sines (longrope's attention factor); 0 is 1
	Weights  DType   // of all products; the embedding table is BF16 where this is less, and norms and biases are F32
	Seed     uint64  // of random weights
	// Lean keeps memory for others: weights are held once, Pages 0 is one Context, and buffers are for passes of moderate size.
	Lean bool
}

// Axes is 3 where positions have three axes, else 1.
func (c *DecoderConfig) Axes() int {
	if c.Sections != [3]int{} {
		return 3
	}
	return 1
}

// CheckTurns refuses frequencies, sections and a factor that do not fit a head.
func (c *DecoderConfig) CheckTurns() error {
	s := c.Sections
	switch {
	case len(c.InvFreq) != c.HeadDim/2:
		return fmt.Errorf("%d rotary frequencies for heads of %d", len(c.InvFreq), c.HeadDim)
	case c.Axes() == 3 && (min(s[0], s[1], s[2]) < 0 || s[0]+s[1]+s[2] != c.HeadDim/2):
		return fmt.Errorf("sections %v of %d rotary angles", s, c.HeadDim/2)
	case !(c.Turn >= 0) || math.IsInf(float64(c.Turn), 0):
		return fmt.Errorf("factor %g on cosines and sines", c.Turn)
	}
	return nil
}

// CheckPositions refuses a segment's positions that the decoder cannot have.
func (c *DecoderConfig) CheckPositions(s *Segment) error {
	switch {
	case s.Positions == nil:
		return nil
	case c.Axes() != 3:
		return errors.New("positions of three axes, the decoder's have one")
	case len(s.Positions) != s.Rows():
		return fmt.Errorf("%d positions of %d rows", len(s.Positions), s.Rows())
	}
	for i, at := range s.Positions {
		if min(at[0], at[1], at[2]) < 0 {
			return fmt.Errorf("row %d stands at %v", i, at)
		}
	}
	return nil
}

// Turns writes what turns a row at a position into dst, of headDim values, at least HeadDim: cosines of the angles, and from headDim/2 on
// their sines. What is wider than a head turns by nothing. The angle is rounded to float32 first, as the models' own code has it.
func (c *DecoderConfig) Turns(dst []float32, at [3]int32) {
	half := len(dst) / 2
	turn := c.Turn
	if turn == 0 {
		turn = 1
	}
	for j := range half {
		if j >= len(c.InvFreq) {
			dst[j], dst[half+j] = 1, 0
			continue
		}
		axis := 0
		if c.Axes() == 3 && j >= c.Sections[0] {
			axis = 1
			if j >= c.Sections[0]+c.Sections[1] {
				axis = 2
			}
		}
		sin, cos := math.Sincos(float64(float32(at[axis]) * c.InvFreq[j]))
		dst[j], dst[half+j] = float32(cos)*turn, float32(sin)*turn
	}
}

// DecoderPart names a tensor of a decoder.
type DecoderPart uint8

const (
	PartEmbed   DecoderPart = iota // [Vocab, Hidden]
	PartNorm1                      // [1, Hidden], of a layer, before attention
	PartQKV                        // [(Heads+2*KVHeads)*HeadDim, Hidden]: q, k, v
	PartQKVBias                    // [1, (Heads+2*KVHeads)*HeadDim], if QKVBias
	PartOut                        // [Hidden, Heads*HeadDim]
	PartNorm2                      // [1, Hidden], before the MLP
	PartGateUp                     // [2*MLP, Hidden]: gate, then up
	PartDown                       // [Hidden, MLP]
	PartNorm                       // [1, Hidden], the last one
	PartHead                       // [Vocab, Hidden], unless Tied
)

// DecoderWeights hands out a checkpoint's tensors by part and layer (0 for parts of no layer). The matrix is read before the next call.
type DecoderWeights interface {
	Part(p DecoderPart, layer int) (Matrix, error)
}

// Decoder is a language model on a device, with K/V in pages that its owner deals out. It keeps no account of sequences: a page
// holds what was last written to it. One caller at a time.
type Decoder interface {
	Limits() DecoderLimits
	// Forward runs the new rows of several sequences in one pass: it writes their K/V to their pages and draws the tokens that are
	// wanted. In a pass of at most Limits().StepRows rows the result of a row, to the bit, depends on its own sequence only: neither
	// on the sequences beside it nor on how many of its own rows run at once. An error of ctx is returned before anything runs.
	Forward(ctx context.Context, pass []Segment) error
	// CopyPages copies whole pages of K/V, all layers: page from[i] to page to[i].
	CopyPages(ctx context.Context, to, from []int32) error
	Close() error
}

// DecoderLimits are what one pass and all sequences together may take.
type DecoderLimits struct {
	Pages     int   // numbered from 0
	StepRows  int   // rows of a pass that are exact, see Forward
	ChunkRows int   // rows of any pass
	Segments  int   // of one pass
	Bytes     int64 // of device memory held, all together
	Weights   int64 // of that, weights
	KV        int64 // and K/V; the rest is buffers
}

// Segment is one sequence's part of a pass.
type Segment struct {
	Inputs []Input // its new rows, in order
	Past   int     // rows of it in K/V already
	Pages  []int32 // where its K/V lives: row r in row r%PageRows of page Pages[r/PageRows]; enough for Past and the new rows

	// Parents, when not nil, makes the new rows a tree instead of a chain: row i follows row Parents[i] < i of the new rows, or the
	// last past row when that is -1. A row sees the past and its ancestors and stands at position Past + its depth; its K/V is
	// written at row Past+i all the same. At most 32 rows.
	Parents []int32

	// Positions, where the decoder's have three axes, are those of the new rows: time, height, width, none negative. nil: row i stands at
	// Past+i (in a tree at Past + its depth) on all axes.
	Positions [][3]int32

	Draws []Draw // how to draw a token after each of the last len(Draws) new rows; none: nothing is drawn
	// Drawn receives the tokens, one for each of Draws. A row whose logits are not finite gives -1.
	Drawn []int32
	// Logits, when not nil, receives the logits of the drawn rows [len(Draws), Vocab].
	Logits *Matrix
	// Shares, when not nil, asks what the last new row attends to; the segment has Draws then. A decoder that cannot tell leaves it alone.
	Shares *Shares
}

// Shares are what a row attends to: how much of its attention falls on each range of its sequence's rows.
type Shares struct {
	Bounds []int32 // where ranges begin and end, see ShareArgs.Bounds
	From   int     // the first layer that is wanted
	Layers Matrix  // what Forward found, [layers from From on, len(Bounds)-1], means over heads; without rows: nothing
}

// Rows is the number of new rows.
func (s *Segment) Rows() int {
	n := 0
	for _, in := range s.Inputs {
		n += in.Rows()
	}
	return n
}

// Input is consecutive rows: token IDs, or rows that are in the embedding space already.
type Input struct {
	IDs    []int32
	Visual Matrix
}

// Rows is the number of rows.
func (in Input) Rows() int {
	if in.IDs != nil {
		return len(in.IDs)
	}
	return in.Visual.Rows
}

// Draw says how to draw one token: greedy when Temperature is 0 (the smallest ID of equals), else at U, in [0, 1), of the
// distribution softmax(logits/Temperature) cut to the smallest set of tokens, most probable first and smaller IDs first among
// equals, that holds TopP of it (0 or 1: all).
type Draw struct {
	Temperature, TopP float32
	U                 float64
}
