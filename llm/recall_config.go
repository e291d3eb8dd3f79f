package llm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// RecallConfig is a checked "memory_config" of a config.json: the sizes of a model's learned memory.
type RecallConfig struct {
	Hidden int // width of all rows: the decoder's hidden_size

	IndicatorHidden int // inside the frames' indicator
	IndicatorDim    int // components of indicators and queries

	Layers, Heads, KVHeads, HeadDim, MLP int // the stream tower: a small decoder of the Llama kind
	Eps                                  float32
	InvFreq                              []float32 // HeadDim/2
	ClipFrames                           int       // most frames of a clip
	SummaryRows                          int       // of a clip's summary, of a segment's memory and of one frame averaged 2x2

	BridgeHeads, BridgeMLP int // the bridge's one layer, heads of Hidden/BridgeHeads
	BridgeFrames           int // frames of a segment that are looked at
}

// Limits keep a hostile config from asking for memory: a pass of the tower or the bridge is never longer than maxRecallRows.
const (
	maxRecallLayers = 64
	maxRecallRows   = 1 << 12
)

type rawRecall struct {
	IndicatorHidden int     `json:"indicator_hidden"`
	IndicatorDim    int     `json:"indicator_dim"`
	Layers          int     `json:"layers"`
	Heads           int     `json:"num_attention_heads"`
	KVHeads         int     `json:"num_key_value_heads"`
	HeadDim         int     `json:"head_dim"`
	MLP             int     `json:"intermediate_size"`
	Eps             float64 `json:"rms_norm_eps"`
	Theta           float64 `json:"rope_theta"`
	ClipFrames      int     `json:"clip_frames"`
	SummaryRows     int     `json:"summary_rows"`
	BridgeHeads     int     `json:"bridge_heads"`
	BridgeMLP       int     `json:"bridge_intermediate"`
	BridgeMemory    int     `json:"bridge_memory"`
	BridgeFrames    int     `json:"bridge_frames"`
}

// errNoConfig says that a config.json has no memory_config.
var errNoConfig = errors.New("no memory_config")

// parseRecall reads memory_config of a config.json whose decoder is hidden wide. Every field must be given: there is no checkpoint
// of before they were.
func parseRecall(data []byte, hidden int) (*RecallConfig, error) {
	var outer struct {
		Memory *rawRecall `json:"memory_config"`
	}
	if err := json.Unmarshal(data, &outer); err != nil {
		return nil, err
	}
	if outer.Memory == nil {
		return nil, errNoConfig
	}
	c, err := outer.Memory.check(hidden)
	if err != nil {
		return nil, fmt.Errorf("memory_config.%w", err)
	}
	return c, nil
}

func (r *rawRecall) check(hidden int) (*RecallConfig, error) {
	for _, v := range []struct {
		name     string
		val, max int
	}{{"indicator_hidden", r.IndicatorHidden, maxDim}, {"indicator_dim", r.IndicatorDim, maxDim}, {"layers", r.Layers, maxRecallLayers},
		{"num_attention_heads", r.Heads, maxDim}, {"num_key_value_heads", r.KVHeads, maxDim}, {"head_dim", r.HeadDim, 1024},
		{"intermediate_size", r.MLP, 4 * maxDim}, {"clip_frames", r.ClipFrames, maxRecallRows}, {"summary_rows", r.SummaryRows, maxRecallRows},
		{"bridge_heads", r.BridgeHeads, hidden}, {"bridge_intermediate", r.BridgeMLP, 4 * maxDim}, {"bridge_memory", r.BridgeMemory, maxRecallRows},
		{"bridge_frames", r.BridgeFrames, maxRecallRows}} {
		if v.val < 1 || v.val > v.max {
			return nil, fmt.Errorf("%s %d is out of range 1 to %d", v.name, v.val, v.max)
		}
	}
	switch {
	case r.Heads%r.KVHeads != 0:
		return nil, fmt.Errorf("num_key_value_heads %d does not divide num_attention_heads %d", r.KVHeads, r.Heads)
	case r.Heads*r.HeadDim > maxDim:
		return nil, fmt.Errorf("num_attention_heads %d of head_dim %d are more than %d", r.Heads, r.HeadDim, maxDim)
	case r.HeadDim%2 != 0:
		return nil, fmt.Errorf("head_dim %d is odd", r.HeadDim)
	case hidden%r.BridgeHeads != 0:
		return nil, fmt.Errorf("bridge_heads %d does not divide hidden_size %d", r.BridgeHeads, hidden)
	case r.BridgeMemory != r.SummaryRows: // both start from the mean of frames
		return nil, fmt.Errorf("bridge_memory %d is not summary_rows %d", r.BridgeMemory, r.SummaryRows)
	case (r.ClipFrames+3)*r.SummaryRows > maxRecallRows:
		return nil, fmt.Errorf("clip_frames %d of summary_rows %d are too many", r.ClipFrames, r.SummaryRows)
	case (r.BridgeFrames+3)*r.SummaryRows > maxRecallRows:
		return nil, fmt.Errorf("bridge_frames %d of summary_rows %d are too many", r.BridgeFrames, r.SummaryRows)
	case !(r.Eps > 0 && r.Eps < 1):
		return nil, fmt.Errorf("rms_norm_eps %g is out of range", r.Eps)
	case !(r.Theta > 0) || math.IsInf(r.Theta, 0):
		return nil, fmt.Errorf("rope_theta %g is out of range", r.Theta)
	}
	c := &RecallConfig{Hidden: hidden, IndicatorHidden: r.IndicatorHidden, IndicatorDim: r.IndicatorDim, Layers: r.Layers, Heads: r.Heads,
		KVHeads: r.KVHeads, HeadDim: r.HeadDim, MLP: r.MLP, Eps: float32(r.Eps), InvFreq: make([]float32, r.HeadDim/2), ClipFrames: r.ClipFrames,
		SummaryRows: r.SummaryRows, BridgeHeads: r.BridgeHeads, BridgeMLP: r.BridgeMLP, BridgeFrames: r.BridgeFrames}
	for j := range c.InvFreq {
		c.InvFreq[j] = float32(math.Pow(r.Theta, -2*float64(j)/float64(r.HeadDim)))
	}
	return c, nil
}
