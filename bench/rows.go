package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"afterimage/internal/compute"
)

// Row is one measurement of speed.
type Row struct {
	What  string  `json:"what"`
	Shape string  `json:"shape"` // of the operands, or the model and how much it was given
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Ceiling is what nothing on this device can be better than, in Unit: the work over the speed of the same run's device copy or
	// large product. 0 where none is meaningful.
	Ceiling   float64 `json:"ceiling,omitempty"`
	Peer      string  `json:"peer,omitempty"` // the best other program on the same machine, if one was measured
	PeerValue float64 `json:"peer_value,omitempty"`
	Machine   string  `json:"machine,omitempty"` // the device, as it names itself
	Date      string  `json:"date,omitempty"`    // RFC 3339
}

// Units of rows. In seconds' units less is better, in the others more.
const (
	unitBytes   = "GB/s"
	unitFLOPs   = "TFLOP/s"
	unitMicros  = "us"
	unitMillis  = "ms"
	unitFrames  = "frames/s"
	unitTokens  = "tokens/s"
	unitBytesGB = "GB"
)

func lessIsBetter(unit string) bool {
	return unit == unitMicros || unit == unitMillis || unit == unitBytesGB
}

// Share is how near the row is to its ceiling, 0 to 1; 0 without one.
func (r Row) Share() float64 {
	switch {
	case r.Ceiling == 0 || r.Value == 0:
		return 0
	case lessIsBetter(r.Unit):
		return r.Ceiling / r.Value
	}
	return r.Value / r.Ceiling
}

// Ahead is how many times better than its peer the row is; 0 without one.
func (r Row) Ahead() float64 {
	switch {
	case r.PeerValue == 0 || r.Value == 0:
		return 0
	case lessIsBetter(r.Unit):
		return r.PeerValue / r.Value
	}
	return r.Value / r.PeerValue
}

// Ceilings are what a device can do at best, a second: bytes read plus bytes written, and operations of a bf16 product.
type Ceilings struct{ Bytes, FLOPs float64 }

// row is a benchmark's result of so many seconds a call.
func (c Ceilings) row(b compute.Benchmark, seconds float64) Row {
	r := Row{What: b.What, Shape: b.Shape, Unit: unitFLOPs, Value: b.FLOPs / seconds / 1e12, Ceiling: c.FLOPs / 1e12}
	floor := 0.0
	switch {
	case b.Bytes > 0:
		r.Unit, r.Value, r.Ceiling = unitBytes, b.Bytes/seconds/1e9, c.Bytes/1e9
		if c.Bytes > 0 {
			floor = b.Bytes / c.Bytes
		}
	case c.FLOPs > 0:
		floor = b.FLOPs / c.FLOPs
	}
	if b.Latency {
		r.Unit, r.Value, r.Ceiling = unitMicros, seconds*1e6, floor*1e6
	}
	r.Value, r.Ceiling = figures(r.Value), figures(r.Ceiling)
	return r
}

// Kernels times every benchmark of a device whose What contains match, the ceilings first and in any case. One that fails is left
// out and its error joined to the others; a lost device ends it.
func Kernels(ctx context.Context, list []compute.Benchmark, match string, progress func(what string)) ([]Row, Ceilings, error) {
	var rows []Row
	var top Ceilings
	var errs []error
	for _, b := range list {
		ceiling := b.What == compute.CeilingCopy || b.What == compute.CeilingMatmul
		if !ceiling && !strings.Contains(b.What+" "+b.Shape, match) {
			continue
		}
		progress(b.What + " " + b.Shape)
		seconds, err := b.Time(ctx)
		switch {
		case err == nil && !(seconds > 0):
			err = fmt.Errorf("%s, %s: took no time", b.What, b.Shape)
			fallthrough
		case err != nil:
			errs = append(errs, fmt.Errorf("bench: %w", err))
			if ctx.Err() != nil || errors.Is(err, compute.ErrDeviceLost) {
				return rows, top, errors.Join(errs...)
			}
			continue
		case b.What == compute.CeilingCopy:
			top.Bytes = b.Bytes / seconds
		case b.What == compute.CeilingMatmul:
			top.FLOPs = b.FLOPs / seconds
		}
		rows = append(rows, top.row(b, seconds))
	}
	return rows, top, errors.Join(errs...)
}

// ReadPeers reads rows that another program measured, one JSON object a line: what, shape, value, unit and peer.
func ReadPeers(r io.Reader) ([]Row, error) {
	var rows []Row
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		var row Row
		if err := json.Unmarshal(text, &row); err != nil {
			return nil, fmt.Errorf("bench: peers: line %d: %w", n, err)
		}
		if row.What == "" || row.Peer == "" || !(row.Value > 0) {
			return nil, fmt.Errorf("bench: peers: line %d: want what, shape, value, unit and peer", n)
		}
		rows = append(rows, row)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("bench: peers: %w", err)
	}
	return rows, nil
}

// WithPeers puts beside each row the best peer of the same what, shape and unit.
func WithPeers(rows, peers []Row) {
	for i := range rows {
		r := &rows[i]
		for _, p := range peers {
			if p.What != r.What || p.Shape != r.Shape || p.Unit != r.Unit {
				continue
			}
			better := p.Value > r.PeerValue
			if lessIsBetter(r.Unit) {
				better = p.Value < r.PeerValue
			}
			if better || r.PeerValue == 0 {
				r.Peer, r.PeerValue = p.Peer, figures(p.Value)
			}
		}
	}
}

// WriteRows writes one JSON object a line, with the machine in each.
func WriteRows(w io.Writer, rows []Row, m Machine) error {
	e := json.NewEncoder(w)
	for _, r := range rows {
		r.Machine, r.Date = m.Device, m.Date
		if err := e.Encode(r); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	return nil
}

// RowsMarkdown is rows as a table.
func RowsMarkdown(rows []Row, m Machine) string {
	var b strings.Builder
	b.WriteString("| what | shape | value | | of the ceiling | peer | ahead |\n|---|---|---:|---|---:|---|---:|\n")
	for _, r := range rows {
		share, peer, ahead := "", "", ""
		if s := r.Share(); s > 0 {
			share = fmt.Sprintf("%.0f %%", 100*s)
		}
		if a := r.Ahead(); a > 0 {
			peer, ahead = fmt.Sprintf("%s: %g", r.Peer, r.PeerValue), fmt.Sprintf("%.2fx", a)
		}
		fmt.Fprintf(&b, "| %s | %s | %g | %s | %s | %s | %s |\n", r.What, r.Shape, r.Value, r.Unit, share, peer, ahead)
	}
	fmt.Fprintf(&b, "\n%s, %s, %s.\n", m.Device, m.Commit, m.Date)
	return b.String()
}

// figures keeps four significant figures: more is noise.
func figures(x float64) float64 {
	y, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 4, 64), 64) // what was printed can be read
	return y
}
