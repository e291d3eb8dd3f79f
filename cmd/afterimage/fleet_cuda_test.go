//go:build cuda

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/internal/compute/cuda"
	"afterimage/qa"
)

const trained = "../../models/default" // not the embedded copy, which the carried test program is built without

func needGPUs(t *testing.T, n int) {
	t.Helper()
	if have, err := cuda.Count(); err != nil || have < n {
		t.Skipf("%d GPUs are needed, there are %d, %v", n, have, err)
	}
	clean(t)
}

// gpuStreams watches streams to their ends and asks about each, all at once or one after another, on the GPUs that device names. It
// returns the machines' devices, the rows that each machine makes of the same pictures, and the answers, stream by stream.
func gpuStreams(t *testing.T, device deviceName, atOnce bool) (devices []string, rows [][]compute.Matrix, answers [][]string) {
	const streams = 6
	ctx, epoch := t.Context(), time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	a := &app{Settings: Settings{Model: trained, Device: device}, log: slog.New(slog.DiscardHandler)}
	f, err := openFleet(a, streams)
	require.NoError(t, err)
	defer f.close(a.log)
	var all sync.WaitGroup
	each := func(n int, fn func(i int)) {
		for i := range n {
			if atOnce {
				all.Go(func() { fn(i) })
			} else {
				fn(i)
			}
		}
		all.Wait()
	}
	pictures := make([]ingest.Frame, 40)
	for i := range pictures {
		pictures[i] = ingest.Frame{W: 320, H: 180, Pix: make([]byte, 3*320*180)}
		for j := range pictures[i].Pix {
			pictures[i].Pix[j] = byte(j*(2*i+1)>>3 ^ j>>9)
		}
	}
	rows = make([][]compute.Matrix, len(f.machines))
	each(len(f.machines), func(i int) {
		var err error
		rows[i], err = f.machines[i].encoder.Encode(ctx, pictures...)
		assert.NoError(t, err)
	})
	answers = make([][]string, streams)
	placed := make([]*stream, streams)
	where := map[*machine]int{}
	for i := range placed {
		u, err := ingest.ParseURL(fmt.Sprintf("sim://street?seed=%d&minutes=1&pace=false", 900_310+i))
		require.NoError(t, err)
		sc := StreamConfig{Name: fmt.Sprintf("street%d", i), URL: u}
		sc.inherit(StreamConfig{})
		m := f.place(sc.FPS)
		where[m]++
		placed[i], err = openFastStream(ctx, a, m, sc, epoch)
		require.NoError(t, err)
		defer placed[i].close()
	}
	for _, m := range f.machines {
		devices = append(devices, m.device)
		assert.Equal(t, streams/len(f.machines), where[m], "streams on %s", m.device)
	}
	each(streams, func(i int) {
		assert.NoError(t, placed[i].watch(ctx))
		for _, text := range []string{"Is the door open?", "Is there a red car?", "How many cars have passed?", "What happened?"} {
			answer, err := placed[i].Ask(ctx, qa.Question{Text: text, MaxTokens: 48}, nil)
			assert.NoError(t, err)
			answers[i] = append(answers[i], answer.Text)
		}
	})
	return devices, rows, answers
}

// Streams that are spread over all GPUs, watched and asked about at the same time, are answered as they are one after another on one.
func TestStreamsOverGPUs(t *testing.T) {
	needGPUs(t, 2)
	_, rows, want := gpuStreams(t, "cuda:0", false)
	devices, spread, have := gpuStreams(t, "cuda:all", true)
	require.Greater(t, len(devices), 1)
	for i, r := range spread {
		assert.Equal(t, rows[0], r, "rows of the same pictures on %s", devices[i])
	}
	assert.Equal(t, want, have)
	assert.NotEmpty(t, want[0][3])
	t.Log(devices, want)
}

// serve does the same with its own streams: it says which GPUs it uses, and every stream has a memory.
func TestServeOverGPUs(t *testing.T) {
	needGPUs(t, 2)
	file := writeConfig(t, "device: cuda:all\nstreams:\n  door: sim://street?seed=900320\n  yard: sim://street?seed=900321\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs lockedBuffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"--model", trained, "serve", file, "--listen", "127.0.0.1:0"},
			&app{in: strings.NewReader(""), out: &out, err: &errs, lookup: environment()})
	}()
	serving := regexp.MustCompile(`"msg":"serving","page":"(http://[^"]+/)".*"device":"cuda:0 [^"]*, cuda:1 `)
	require.Eventually(t, func() bool { return serving.MatchString(errs.String()) }, 60*time.Second, 20*time.Millisecond, errs.String())
	page := serving.FindStringSubmatch(errs.String())[1]
	remembers := regexp.MustCompile(`"entries":[1-9]`)
	require.Eventually(t, func() bool {
		for _, name := range []string{"door", "yard"} {
			resp, err := http.Get(page + "api/streams/" + name)
			if err != nil {
				return false
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !remembers.Match(body) {
				return false
			}
		}
		return true
	}, 20*time.Second, 50*time.Millisecond)
	cancel()
	assert.Zero(t, <-ended, errs.String())
}
