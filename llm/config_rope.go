package llm

import (
	"errors"
	"fmt"
	"math"
)

// rawRope is how a config says that rotary frequencies are scaled.
type rawRope struct {
	Type     string    `json:"rope_type"`
	OldType  string    `json:"type"`
	Theta    *float64  `json:"rope_theta"`
	Partial  *float64  `json:"partial_rotary_factor"`
	Factor   *float64  `json:"factor"`
	Low      float64   `json:"low_freq_factor"`
	High     float64   `json:"high_freq_factor"`
	Original *float64  `json:"original_max_position_embeddings"`
	Short    []float64 `json:"short_factor"`
	Long     []float64 `json:"long_factor"`
	Turn     *float64  `json:"attention_factor"`
	Sections []int     `json:"mrope_section"`
}

// turns says by what angles rows turn: it sets InvFreq, Sections and Turn, and lowers Context to where they hold. context is what was asked
// for, 0 being the default.
func (r *rawConfig) turns(c *Config, context int) error {
	theta, rope, name := r.Theta, r.RopeScaling, "rope_scaling"
	if r.Rope != nil {
		rope, name = r.Rope, "rope_parameters"
		if rope.Theta != nil {
			theta = *rope.Theta
		}
	}
	if !(theta > 0) || math.IsInf(theta, 0) {
		return fmt.Errorf("rope_theta %g is out of range", theta)
	}
	if rope == nil {
		rope = &rawRope{}
	}
	if rope.Partial != nil && *rope.Partial != 1 {
		return fmt.Errorf("%s: partial_rotary_factor %g is not supported", name, *rope.Partial)
	}
	if r.axes {
		if len(rope.Sections) != 3 {
			return fmt.Errorf("%s: mrope_section %v: want three numbers", name, rope.Sections)
		}
		sum := 0
		for _, n := range rope.Sections {
			if n < 0 || n > c.HeadDim {
				return fmt.Errorf("%s: mrope_section %v is out of range", name, rope.Sections)
			}
			sum += n
		}
		if sum != c.HeadDim/2 {
			return fmt.Errorf("%s: mrope_section %v is not the %d angles of head_dim %d", name, rope.Sections, c.HeadDim/2, c.HeadDim)
		}
		c.Sections = [3]int(rope.Sections)
	} else if rope.Sections != nil {
		return fmt.Errorf("%s: mrope_section is not supported in model_type %q", name, r.ModelType)
	}
	scale, err := r.scaling(rope, c, context)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c.InvFreq = make([]float32, c.HeadDim/2)
	for j := range c.InvFreq {
		c.InvFreq[j] = float32(scale(j, math.Pow(theta, -2*float64(j)/float64(c.HeadDim))))
	}
	return nil
}

// scaling returns what becomes of frequency f of angle j.
func (r *rawConfig) scaling(rope *rawRope, c *Config, context int) (func(j int, f float64) float64, error) {
	kind := rope.Type
	if kind == "" {
		kind = rope.OldType
	}
	plain := func(_ int, f float64) float64 { return f }
	factor := 0.0
	if rope.Factor != nil {
		factor = *rope.Factor
	}
	switch kind {
	case "linear", "llama3", "dynamic":
		if !(factor >= 1) {
			return nil, fmt.Errorf("factor %g is out of range", factor)
		}
	}
	switch kind {
	case "", "default":
		return plain, nil
	case "mrope":
		if r.axes {
			return plain, nil
		}
	case "dynamic":
		return plain, nil // frequencies fall only beyond max_position_embeddings, where no context goes
	case "linear":
		return func(_ int, f float64) float64 { return f / factor }, nil
	case "llama3":
		if rope.Original == nil || !(rope.Low > 0 && rope.High > rope.Low && *rope.Original >= 1) {
			return nil, errors.New("llama3 wants 0 < low_freq_factor < high_freq_factor and original_max_position_embeddings")
		}
		return func(_ int, f float64) float64 { return rope.llama3(f) }, nil
	case "longrope", "su": // the latter is what Phi-3 called it first
		return r.longrope(rope, c, context)
	}
	return nil, fmt.Errorf("rope_type %q is not supported", kind)
}

// llama3 leaves short wavelengths alone, divides long ones by factor and blends in between.
func (r *rawRope) llama3(f float64) float64 {
	turns := *r.Original * f / (2 * math.Pi) // full turns within the original context
	switch {
	case turns < r.Low:
		return f / *r.Factor
	case turns > r.High:
		return f
	}
	blend := (turns - r.Low) / (r.High - r.Low)
	return (1-blend)*f / *r.Factor + blend*f
}

// longrope divides every frequency by a factor of its own: short ones in contexts of up to the original length, long ones beyond. The
// model's own code changes over when a sequence has grown so far, and what is in the K/V cache then has been turned otherwise; here a
// context has one kind throughout: short ones by default, long ones where more than the original length is asked for.
func (r *rawConfig) longrope(rope *rawRope, c *Config, context int) (func(j int, f float64) float64, error) {
	original := float64(r.Positions)
	if r.Original != nil {
		original = float64(*r.Original)
	}
	if rope.Original != nil {
		original = *rope.Original
	}
	if !(original > 1 && original <= math.MaxInt32) {
		return nil, fmt.Errorf("original_max_position_embeddings %g is out of range", original)
	}
	for _, list := range []struct {
		name    string
		factors []float64
	}{{"short_factor", rope.Short}, {"long_factor", rope.Long}} {
		if len(list.factors) != c.HeadDim/2 {
			return nil, fmt.Errorf("%s: %d numbers for the %d angles of head_dim %d", list.name, len(list.factors), c.HeadDim/2, c.HeadDim)
		}
		for _, f := range list.factors {
			if !(f > 0) || math.IsInf(f, 0) {
				return nil, fmt.Errorf("%s: %g is out of range", list.name, f)
			}
		}
	}
	factor := float64(r.Positions) / original
	if rope.Factor != nil {
		factor = *rope.Factor
	}
	turn := 1.0
	if rope.Turn != nil {
		turn = *rope.Turn
	} else if factor > 1 {
		turn = math.Sqrt(1 + math.Log(factor)/math.Log(original))
	}
	if !(turn > 0) || math.IsInf(turn, 0) {
		return nil, fmt.Errorf("attention_factor %g is out of range", turn)
	}
	c.Turn = float32(turn)
	factors := rope.Short
	if context > int(original) {
		factors = rope.Long
	} else {
		c.Context = min(c.Context, int(original))
	}
	return func(j int, f float64) float64 { return f / factors[j] }, nil
}
