//go:build cuda

package cuda

// samplePiece mirrors AF_SAMPLE_PIECE.
const samplePiece = 2048

// sampleDraw mirrors af_draw.
type sampleDraw struct {
	temperature, topP float32
	u                 float64
}

const (
	sampleDrawBytes  = 16
	samplePieceBytes = 16
)

type sampleArgs struct {
	logits, draws, pieces, tokens, host, live devptr
	stride                                    int64
	rows, vocab                               int32
}

// sampleRoom is the memory that drawing needs for its pieces.
func sampleRoom(rows, vocab int) int64 {
	return int64(rows) * int64((vocab+samplePiece-1)/samplePiece) * samplePieceBytes
}

// sample draws a token from each row of logits f32 [rows, vocab], stride elements apart (a multiple of 4), as draws [rows] say
// (compute.Draw); -1 where a logit is not finite. tokens [rows] is on the device, host (or 0) page-locked; rows from *live on (unless
// live is 0) are left alone. pieces is sampleRoom bytes of scratch.
func (s *stream) sample(a sampleArgs) {
	pieces := (a.vocab + samplePiece - 1) / samplePiece
	start(s, "sample_scan", [3]uint32{uint32(pieces), uint32(a.rows), 1}, [3]uint32{512, 1, 1}, 0, &a, launchPDL)
	start(s, "sample_pick", rowGrid(int(a.rows)), [3]uint32{512, 1, 1}, 0, &a, launchPDL)
}
