package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"afterimage/bench"
	"afterimage/ingest"
	"afterimage/web"
)

type benchLiveCmd struct {
	Sockets     int     `default:"200" help:"Sockets that ask at once, each again as soon as it has its answer."`
	Seconds     float64 `default:"60" help:"For how long they ask."`
	Quiet       float64 `default:"20" help:"For how many seconds the streams are only watched before, for comparison."`
	Cameras     int     `default:"2" help:"Simulated cameras."`
	FPS         float64 `name:"fps" default:"2" help:"Pictures a second of each."`
	Connections int     `default:"0" help:"Sockets that the server takes; 0: as many as it does by itself."`
	Asking      int     `default:"0" help:"Questions that the server answers at once; 0: as many as it does by itself."`
	JSON        string  `name:"json" placeholder:"FILE" type:"path" help:"Write the report here; - for standard output instead of the table."`
}

func (c *benchLiveCmd) Help() string {
	return `Serves simulated cameras in this process as "serve" does, on loopback, and asks through real sockets. Measures what becomes of the
questions, the time to the first token, how soon a cancelled answer ends, and how watching goes meanwhile: frames a second in memory, frames
dropped, and the lag from a frame's arrival to when it is in memory. The sockets take their share of the machine too.

Example:
  afterimage bench live --sockets 200 --json live.json`
}

func (c *benchLiveCmd) Run(ctx context.Context, a *app) error {
	switch {
	case c.Sockets < 1 || c.Sockets > 10_000:
		return errors.New("bench: --sockets: want 1 to 10000")
	case !(c.Seconds >= 1 && c.Seconds <= 3600) || !(c.Quiet >= 1 && c.Quiet <= 3600):
		return errors.New("bench: --seconds, --quiet: want 1 to 3600")
	case c.Cameras < 1 || c.Cameras > 64 || !(c.FPS > 0 && c.FPS <= 30):
		return errors.New("bench: want 1 to 64 cameras of up to 30 pictures a second")
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	f, err := openFleet(a, c.Cameras)
	if err != nil {
		return err
	}
	defer f.close(a.log)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer ln.Close()
	a.metrics = web.NewMetrics() // as serve has
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o := bench.LiveOptions{
		Address: ln.Addr().String(), Sockets: c.Sockets, Questions: demoQuestions,
		Quiet: time.Duration(c.Quiet * float64(time.Second)), Load: time.Duration(c.Seconds * float64(time.Second)),
		Progress: func(what string) { fmt.Fprintln(a.err, what) },
	}
	var shown []web.Stream
	for i := range c.Cameras {
		u, err := ingest.ParseURL(fmt.Sprintf("sim://street?seed=%d", 900_400+i))
		if err != nil {
			return err
		}
		sc := StreamConfig{Name: fmt.Sprintf("camera%d", i+1), URL: u, FPS: c.FPS}
		sc.inherit(StreamConfig{})
		s, err := openStream(ctx, a, f.place(c.FPS), sc)
		if err != nil {
			return err
		}
		defer s.close()
		s.watchInBackground(ctx)
		shown = append(shown, s)
		o.Streams = append(o.Streams, bench.LiveStream{Name: s.name, FPS: c.FPS, Meter: s.meter.Read, State: s.Status})
	}
	wc := web.Config{MaxConnections: c.Connections, MaxAsking: c.Asking}
	server, err := newServer(a, f, ln, shown, wc)
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := serve(ctx, server, ln); err != nil {
			a.log.Error("bench", "err", err)
		}
	})
	defer serving.Wait()
	defer cancel()
	for _, s := range shown {
		if err := waitFor(ctx, 20*time.Millisecond, func() bool { return s.MemoryStats().Entries > 0 }); err != nil {
			return err
		}
	}
	others := loadAverage()
	before, err := usage()
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	began := time.Now()
	report, err := bench.Live(ctx, o)
	if err != nil {
		return err
	}
	after, err := usage()
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	report.CPUCores = float64((after.CPU-before.CPU)*100/time.Since(began)) / 100
	report.Limits = bench.LiveLimits{Connections: first(c.Connections, web.DefaultConnections), Asking: first(c.Asking, web.DefaultAsking)}
	report.Machine = f.machines[0].rig(a, nil).Machine
	if others != "" {
		report.OtherLoad = "load average before the run " + others
	}
	return finish(a, c.JSON, report, report.Markdown())
}

// loadAverage is the machine's over the last minute where it says so, else nothing.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}
