package qa

import (
	"afterimage/encoder"
	"afterimage/ingest"
	"afterimage/llm"
)

// The real stages fit.
var (
	_ Source  = (*ingest.Supervisor)(nil)
	_ Watched = (*ingest.Supervisor)(nil)
	_ Encoder = (*encoder.Encoder)(nil)
	_ Model   = (*llm.Engine)(nil)
)
