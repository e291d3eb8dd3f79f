package llm

import "afterimage/internal/compute"

// shares turns what layers attend to, part by part, into the visual parts' shares of all that went to visual parts. nil when there is nothing
// to tell.
//
// Only the upper half of the layers is asked. On the embedded model and questions whose moment is known, the part with the largest share in
// the lower half holds that moment no more often than any part does; in the upper half it does four times as often. Layers are summed as they
// are: one that looks at words has less to say about pictures.
func shares(p Prompt, layers compute.Matrix) []float32 {
	if layers.Rows == 0 || layers.Cols != len(p) {
		return nil
	}
	sums, all := make([]float64, len(p)), 0.0
	for l := range layers.Rows {
		for i, part := range p {
			if part.Visual.Rows > 0 {
				sums[i] += float64(layers.Row(l)[i])
			}
		}
	}
	for _, s := range sums {
		all += s
	}
	if !(all > 0) {
		return nil
	}
	out := make([]float32, len(p))
	for i, s := range sums {
		out[i] = float32(s / all)
	}
	return out
}
