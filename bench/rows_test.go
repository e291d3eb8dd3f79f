package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

func timed(seconds float64, err error) func(context.Context) (float64, error) {
	return func(context.Context) (float64, error) { return seconds, err }
}

func TestKernels(t *testing.T) {
	broken := errors.New("misaligned address")
	list := []compute.Benchmark{
		{What: compute.CeilingCopy, Shape: "2 GiB", Bytes: 4e9, Time: timed(1e-3, nil)},
		{What: compute.CeilingMatmul, Shape: "big", FLOPs: 8e11, Time: timed(1e-3, nil)},
		{What: "prefill attention", Shape: "a", FLOPs: 5e11, Time: timed(1e-3, nil)},
		{What: "decode attention", Shape: "b", Bytes: 2e7, Latency: true, Time: timed(1e-5, nil)},
		{What: "linear", Shape: "c", Bytes: 3e9, Time: timed(1e-3, nil)},
		{What: "linear", Shape: "d", Bytes: 1, Time: timed(0, broken)},
		{What: "linear", Shape: "e", Bytes: 1, Time: timed(0, nil)},
	}
	var said []string
	rows, top, err := Kernels(t.Context(), list, "", func(what string) { said = append(said, what) })
	assert.ErrorIs(t, err, broken)
	assert.ErrorContains(t, err, "linear, e: took no time")
	assert.Equal(t, Ceilings{Bytes: 4e12, FLOPs: 8e14}, top)
	assert.Len(t, said, len(list))
	WithPeers(rows, []Row{
		{What: "prefill attention", Shape: "a", Value: 400, Unit: "TFLOP/s", Peer: "slow"},
		{What: "prefill attention", Shape: "a", Value: 450.04, Unit: "TFLOP/s", Peer: "fast"},
		{What: "decode attention", Shape: "b", Value: 15, Unit: "us", Peer: "fast"},
		{What: "decode attention", Shape: "b", Value: 25, Unit: "us", Peer: "slow"},
		{What: "decode attention", Shape: "b", Value: 1, Unit: "GB/s", Peer: "another unit"},
	})
	assert.Equal(t, []Row{
		{What: "device copy", Shape: "2 GiB", Value: 4000, Unit: "GB/s", Ceiling: 0},
		{What: "large matmul", Shape: "big", Value: 800, Unit: "TFLOP/s", Ceiling: 800},
		{What: "prefill attention", Shape: "a", Value: 500, Unit: "TFLOP/s", Ceiling: 800, Peer: "fast", PeerValue: 450},
		{What: "decode attention", Shape: "b", Value: 10, Unit: "us", Ceiling: 5, Peer: "fast", PeerValue: 15},
		{What: "linear", Shape: "c", Value: 3000, Unit: "GB/s", Ceiling: 4000},
	}, func() []Row { rows[0].Ceiling = 0; return rows }())
	assert.InDelta(t, 0.5, rows[3].Share(), 1e-9)
	assert.InDelta(t, 1.5, rows[3].Ahead(), 1e-9)
	assert.InDelta(t, 0.625, rows[2].Share(), 1e-9)

	only, _, err := Kernels(t.Context(), list[:5], "decode", func(string) {})
	require.NoError(t, err)
	assert.Len(t, only, 3, "the ceilings come along")

	table := RowsMarkdown(rows, Machine{Device: "cuda:0 NVIDIA H200", Date: "2026-11-22T00:00:00Z"})
	assert.Contains(t, table, "| decode attention | b | 10 | us | 50 % | fast: 15 | 1.50x |\n")
	var out bytes.Buffer
	require.NoError(t, WriteRows(&out, rows[3:4], Machine{Device: "cuda:0", Date: "now"}))
	assert.JSONEq(t, `{"what":"decode attention","shape":"b","value":10,"unit":"us","ceiling":5,"peer":"fast","peer_value":15,"machine":"cuda:0","date":"now"}`, out.String())
}

func TestKernelsEndWithTheDevice(t *testing.T) {
	ran := 0
	lost := func(context.Context) (float64, error) { ran++; return 0, fmt.Errorf("cuda: %w", compute.ErrDeviceLost) }
	rows, _, err := Kernels(t.Context(), []compute.Benchmark{{What: "a", Time: timed(1, nil)}, {What: "b", Time: lost}, {What: "c", Time: lost}}, "", func(string) {})
	assert.ErrorIs(t, err, compute.ErrDeviceLost)
	assert.Len(t, rows, 1)
	assert.Equal(t, 1, ran)
}

func TestReadPeers(t *testing.T) {
	rows, err := ReadPeers(strings.NewReader(`{"what": "encoding", "shape": "clip batch 32", "value": 2601.5, "unit": "frames/s", "peer": "torch.compile"}` + "\n\n"))
	require.NoError(t, err)
	assert.Equal(t, []Row{{What: "encoding", Shape: "clip batch 32", Value: 2601.5, Unit: "frames/s", Peer: "torch.compile"}}, rows)
	for _, bad := range []string{"{", `{"what":"x","value":1}`, `{"what":"x","peer":"y","value":0}`, `{"value":"x"}`} {
		_, err := ReadPeers(strings.NewReader(bad))
		assert.ErrorContains(t, err, "line 1", bad)
	}
}
