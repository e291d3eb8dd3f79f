package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"afterimage/web"
)

type serveCmd struct {
	Config string `arg:"" type:"path" help:"The configuration file."`
	Listen string `placeholder:"HOST:PORT" env:"AFTERIMAGE_LISTEN" help:"Instead of the file's listen."`
}

func (c *serveCmd) Help() string {
	return `Serves until stopped. A camera that fails is tried again for ever and does not stop the others. What live streams were watched is kept
on disk and goes on after a restart; see "afterimage memory --help".

The configuration is read again when its file changes, and at SIGHUP: streams whose lines are as they were go on. One that is wrong is
refused whole, and the old one stays. Tokens and certificates are read again when their files change.

Every key can be set by a variable: AFTERIMAGE_STREAMS_FRONT_DOOR_FPS=1 is fps of front-door or front_door below streams.

The smallest configuration:
  streams:
    front_door: rtsp://viewer:${CAM_PASSWORD}@192.0.2.10/stream2

Example:
  CAM_PASSWORD=… afterimage serve config.yaml`
}

func (c *serveCmd) Run(ctx context.Context, a *app) error {
	cfg, err := LoadConfig(c.Config, a.environ)
	if err != nil {
		return err
	}
	a.Model, a.Device, a.Threads = first(a.Model, cfg.Model), first(a.Device, deviceName(cfg.Device)), first(a.Threads, cfg.Threads)
	a.Quant = first(a.Quant, quantName(cfg.Quant))
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	listen := first(c.Listen, cfg.Listen)
	h := &household{a: a, file: c.Config, cfg: cfg, root: memoryRoot(cfg.Memory, a.lookup), tokens: new(tokenSet), hosts: ownHosts(listen, cfg.AllowedHosts)}
	if cfg.TLS.on() {
		h.cert = new(certificate)
	}
	if err := h.renew(cfg); err != nil {
		return err
	}
	if err := web.CheckListen(listen, len(h.tokens.get()) > 0); err != nil {
		return fmt.Errorf(`%w
To make a token:  afterimage token new NAME --role admin --file %s
and in %s:  auth: {tokens_file: tokens}`, err, filepath.Join(filepath.Dir(c.Config), "tokens"), filepath.Base(c.Config))
	}
	// The port is taken before the models are loaded: a second server should say so at once.
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer ln.Close()
	page := pageURL(ln.Addr())
	if h.cert != nil {
		ln = tls.NewListener(ln, h.cert.config())
		page = strings.Replace(page, "http:", "https:", 1)
		a.log.Info("connections are encrypted", "self_signed", cfg.TLS.SelfSigned, "sha256_fingerprint", h.cert.fingerprint())
	}
	if h.fleet, err = openFleet(a, len(cfg.Streams)); err != nil {
		return err
	}
	defer h.fleet.close(a.log)
	a.metrics = web.NewMetrics()
	if h.root == "" {
		a.log.Info("memories end with the program", "reason", "memory_dir is off, or neither it nor HOME is set")
	}
	if h.standing, err = openStanding(a, h.root, cfg.Webhooks); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer func() {
		if err := h.standing.close(); err != nil {
			a.log.Warn("close", "err", err)
		}
	}()
	defer h.close()
	for _, sc := range cfg.Streams {
		o, err := h.move(ctx, sc)
		if err != nil {
			return fmt.Errorf("serve: %w", err)
		}
		h.streams = append(h.streams, o)
	}
	specs, err := cfg.specs()
	if err == nil {
		err = h.standing.SetFixed(specs)
	}
	if err != nil {
		return fmt.Errorf("serve: watches: %w", err)
	}
	described, err := configSchema()
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	h.server, err = newServer(a, h.fleet, ln, h.shown(), web.Config{
		Suggestions: firstQuestions, Watches: h.standing.Standing, Schema: described, Tokens: h.tokens.get, TLS: h.cert != nil, AllowedHosts: cfg.AllowedHosts, AllowedOrigins: cfg.AllowedOrigins,
	})
	if err != nil {
		return err
	}
	a.log.Info("serving", "page", page, "streams", len(h.streams), "model", h.fleet.machines[0].name, "device", h.fleet.device(), "watches", len(specs))
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { h.run(ctx, again, lookEvery) })
	defer following.Wait()
	defer cancel()
	return serve(ctx, h.server, ln)
}

// firstQuestions are what the page offers to somebody who has asked nothing yet.
var firstQuestions = []string{"Is anyone there?", "What happened in the last ten minutes?", "When did someone last come by?"}

// newServer is a server of streams; c says what is special about it.
func newServer(a *app, f *fleet, ln net.Listener, streams []web.Stream, c web.Config) (*web.Server, error) {
	host, _, _ := net.SplitHostPort(ln.Addr().String())
	c.AllowedHosts = append([]string{host}, c.AllowedHosts...)
	c.Log, c.Metrics, c.Engines, c.Clips = a.log, a.metrics, f.engines, makeClip
	c.Version = web.Version{Version: version, Commit: commit(), Model: f.machines[0].name, Device: f.device()}
	return web.New(c, streams)
}

// serve serves until ctx ends or the server fails.
func serve(ctx context.Context, server *web.Server, ln net.Listener) error {
	if err := server.Serve(ctx, ln); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return errors.New("serve: the server stopped by itself")
	}
	return nil
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
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("auth: token_file %s: a token has printable ASCII characters only, without spaces: it travels in a header", file)
	}
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
