//go:build cuda

package cuda

// Built is whether this program has the part for GPUs.
const Built = true
