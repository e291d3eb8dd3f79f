// Package bench measures the program through the same calls that serve it: Sim scores answers about simulated streams whose
// truth is known, Engine times encoding and answering, and Soak watches memory and CPU over time. There are only a few types:
// a Rig is what is measured, an options struct says how, and a report is what was found.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
	"afterimage/qa"
)

// Rig is what a benchmark drives. Its maker owns and closes it; the benchmarks use it from several goroutines.
type Rig struct {
	Encoder qa.Encoder
	Model   qa.Model
	// Strategy makes the memory strategy of one stream.
	Strategy func() memorybank.Strategy
	// Query puts questions in the space of the entries' indicators; see qa.Session.Query. nil: there is no such thing.
	Query        func(question string) []float32
	Reading      qa.Reading
	VisualTokens int // of a question's memory, in rows of it; 0: the strategy's own size
	Machine      Machine
}

// Machine says what did the work, for reports.
type Machine struct {
	CPU     string `json:"cpu"`     // the processor's own name
	Level   string `json:"level"`   // of the kernels, for example "amx"
	Device  string `json:"device"`  // compute.Device.Name
	Threads int    `json:"threads"` //
	Model   string `json:"model"`   // directory, or "embedded"
	Commit  string `json:"commit"`  // of the program
	Date    string `json:"date"`    // RFC 3339
	// ModelHash is the beginning of the SHA-256 of the model's files, where a report should say which weights answered.
	ModelHash string `json:"model_sha256,omitempty"`
}

// Camera opens a simulated stream as fast as it can be read. Frame.Wall is epoch + PTS.
type Camera func(ctx context.Context, seed uint64, length time.Duration, epoch time.Time) (ingest.Source, error)

// WriteJSON writes a report to a file by way of a temporary one, so that a reader never sees half of it.
func WriteJSON(file string, report any) error {
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	part := file + ".part"
	if err := os.WriteFile(part, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := os.Rename(part, file); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}
