package llm

import (
	"context"

	"afterimage/internal/compute"
)

// OpsDecoder makes a decoder from dev's Ops, as Load does for a device that has none of its own. It closes before dev.
func OpsDecoder(ctx context.Context, dev compute.Device, c compute.DecoderConfig, w compute.DecoderWeights) (compute.Decoder, error) {
	return newOpsDecoder(ctx, dev, c, w)
}
