package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"afterimage/web"
)

type serveCmd struct {
	Config string `arg:"" type:"path" help:"The configuration file."`
	Listen string `placeholder:"HOST:PORT" env:"AFTERIMAGE_LISTEN" help:"Instead of the file's listen."`
}

func (c *serveCmd) Help() string {
	return `Serves until stopped. A camera that fails is tried again for ever and does not stop the others. What live streams were watched is kept
on disk and goes on after a restart; see "afterimage memory --help".

The smallest configuration:
  streams:
    front_door: rtsp://viewer:${CAM_PASSWORD}@192.0.2.10/stream2

Example:
  CAM_PASSWORD=… afterimage serve config.yaml`
}

func (c *serveCmd) Run(ctx context.Context, a *app) error {
	cfg, err := LoadConfig(c.Config, a.lookup)
	if err != nil {
		return err
	}
	a.Model, a.Device, a.Threads = first(a.Model, cfg.Model), first(a.Device, deviceName(cfg.Device)), first(a.Threads, cfg.Threads)
	a.Quant = first(a.Quant, quantName(cfg.Quant))
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	listen := first(c.Listen, cfg.Listen)
	token, err := readToken(cfg.Auth.TokenFile)
	if err != nil {
		return err
	}
	if err := web.CheckListen(listen, token); err != nil {
		return err
	}
	// The port is taken before the models are loaded: a second server should say so at once.
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer ln.Close()
	machines, err := openFleet(a, len(cfg.Streams))
	if err != nil {
		return err
	}
	defer machines.close(a.log)
	streams := make([]*stream, 0, len(cfg.Streams))
	defer func() {
		for _, s := range streams {
			s.close()
		}
	}()
	root := memoryRoot(cfg.Memory, a.lookup)
	if root == "" {
		a.log.Info("memories end with the program", "reason", "memory_dir is off, or neither it nor HOME is set")
	}
	for _, sc := range cfg.Streams {
		if root != "" {
			sc.dir = filepath.Join(root, sc.Name)
		}
		s, err := openStream(ctx, a, machines.place(sc.FPS), sc)
		if err != nil {
			return fmt.Errorf("serve: stream %s: %w", sc.Name, err)
		}
		streams = append(streams, s)
	}
	a.log.Info("serving", "page", pageURL(ln.Addr()), "streams", len(streams), "model", machines.machines[0].name, "device", machines.device())
	return serveStreams(ctx, a, machines, ln, token, streams, nil)
}

// serveStreams watches every stream and serves the page until ctx ends or the server fails. A stream that fails is logged and
// stays as it is.
func serveStreams(ctx context.Context, a *app, f *fleet, ln net.Listener, token string, streams []*stream, suggestions []string) error {
	shown := make([]web.Stream, len(streams))
	for i, s := range streams {
		shown[i] = s
	}
	host, _, _ := net.SplitHostPort(ln.Addr().String())
	server, err := web.New(web.Config{
		Token: token, AllowedHosts: []string{host}, Suggestions: suggestions, Log: a.log,
		Version: web.Version{Version: version, Commit: commit(), Model: f.machines[0].name, Device: f.device()},
	}, shown)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range streams {
		g.Go(func() error {
			if err := s.watch(ctx); err != nil && ctx.Err() == nil {
				a.log.Error("stream stopped", "stream", s.name, "err", err)
			}
			return nil
		})
	}
	g.Go(func() error {
		if err := server.Serve(ctx, ln); err != nil {
			return err
		}
		if ctx.Err() == nil {
			return errors.New("serve: the server stopped by itself")
		}
		return nil
	})
	return g.Wait()
}

// readToken reads the first line of a token file; no file means no token.
func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("auth: token_file: %w", err)
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	token := strings.TrimSpace(line)
	if len(token) < 16 {
		return "", fmt.Errorf("auth: token_file %s: want a token of at least 16 characters on the first line", file)
	}
	if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("auth: token_file %s can be read by others: chmod 600 it", file)
	}
	return token, nil
}

// pageURL is where a browser on this machine finds what listens at addr.
func pageURL(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "http://" + addr.String() + "/"
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + "/"
}

// waitFor returns once ok says so, or ctx is done.
func waitFor(ctx context.Context, every time.Duration, ok func() bool) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	return nil
}
