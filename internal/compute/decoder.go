package compute

import "context"

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
	Weights DType     // of all products; the embedding table is BF16 where this is less, and norms and biases are F32
	Seed    uint64    // of random weights
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
	Bytes     int64 // of device memory held, weights and K/V
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

	Draws []Draw // how to draw a token after each of the last len(Draws) new rows; none: nothing is drawn
	// Drawn receives the tokens, one for each of Draws. A row whose logits are not finite gives -1.
	Drawn []int32
	// Logits, when not nil, receives the logits of the drawn rows [len(Draws), Vocab].
	Logits *Matrix
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
