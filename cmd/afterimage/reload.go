package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/web"
)

// changes is what one configuration has and another has not.
type changes struct {
	Added, Removed, Changed, Kept []string // streams
	Watches                       bool     // standing questions differ
	Restart                       []string // keys that differ and are only read when the program starts
}

func compareConfigs(old, next *Config) (d changes) {
	for _, k := range []struct {
		name string
		same bool
	}{
		{"listen", old.Listen == next.Listen},
		{"tls", old.TLS.on() == next.TLS.on() && old.TLS.SelfSigned == next.TLS.SelfSigned},
		{"allowed_hosts", slices.Equal(old.AllowedHosts, next.AllowedHosts)},
		{"allowed_origins", slices.Equal(old.AllowedOrigins, next.AllowedOrigins)},
		{"model", old.Model == next.Model},
		{"threads", old.Threads == next.Threads},
		{"device", old.Device == next.Device},
		{"quant", old.Quant == next.Quant},
		{"memory_dir", old.Memory == next.Memory},
		{"webhooks", old.Webhooks == next.Webhooks},
	} {
		if !k.same {
			d.Restart = append(d.Restart, k.name)
		}
	}
	for _, s := range next.Streams {
		switch was := old.stream(s.Name); {
		case was == nil:
			d.Added = append(d.Added, s.Name)
		case was.same(s):
			d.Kept = append(d.Kept, s.Name)
		default:
			d.Changed = append(d.Changed, s.Name)
		}
	}
	for _, s := range old.Streams {
		if next.stream(s.Name) == nil {
			d.Removed = append(d.Removed, s.Name)
		}
	}
	d.Watches = !reflect.DeepEqual(old.Watches, next.Watches)
	return d
}

// same reports whether nothing has changed.
func (s StreamConfig) same(o StreamConfig) bool {
	if s.URL.Raw() != o.URL.Raw() {
		return false
	}
	s.URL, o.URL = ingest.URL{}, ingest.URL{} // it holds more than its text
	return reflect.DeepEqual(s, o)
}

// stream returns the stream of a name, or nil.
func (c *Config) stream(name string) *StreamConfig {
	for i := range c.Streams {
		if c.Streams[i].Name == name {
			return &c.Streams[i]
		}
	}
	return nil
}

// String says what would happen, a line each.
func (d changes) String() string {
	var b strings.Builder
	line := func(what string, names []string) {
		if len(names) > 0 {
			fmt.Fprintf(&b, "%s: %s\n", what, strings.Join(names, ", "))
		}
	}
	line("streams that begin", d.Added)
	line("streams that end", d.Removed)
	line("streams that start again", d.Changed)
	line("streams that go on", d.Kept)
	if d.Watches {
		b.WriteString("standing questions change\n")
	}
	line("only after a restart of the server", d.Restart)
	return b.String()
}

// household is what serve runs: the streams of a configuration, which may change. run owns it once it is called.
type household struct {
	a        *app
	file     string // of the configuration
	cfg      *Config
	root     string // where memories are kept; "": nowhere
	fleet    *fleet
	standing *standing
	tokens   *tokenSet
	cert     *certificate // nil without TLS
	hosts    []string     // that a certificate of our own is for
	streams  []*occupant  // in the configuration's order
	server   *web.Server  // set before run
}

// occupant is a stream with the machine that it was placed on.
type occupant struct {
	*stream
	machine *machine
	cfg     StreamConfig
}

// move opens a stream and begins to watch it.
func (h *household) move(ctx context.Context, c StreamConfig) (*occupant, error) {
	if h.root != "" {
		c.dir = filepath.Join(h.root, c.Name)
	}
	m := h.fleet.place(c.FPS)
	s, err := openStream(ctx, h.a, m, c)
	if err != nil {
		h.fleet.leave(m, c.FPS)
		return nil, fmt.Errorf("stream %s: %w", c.Name, err)
	}
	s.watchInBackground(ctx)
	h.standing.Attach(c.Name, s.Session)
	return &occupant{s, m, c}, nil
}

// out ends a stream and waits for it.
func (h *household) out(o *occupant) {
	h.standing.Detach(o.name)
	o.close()
	h.fleet.leave(o.machine, o.cfg.FPS)
}

func (h *household) close() {
	for _, o := range h.streams {
		h.out(o)
	}
	h.streams = nil
}

func (h *household) shown() []web.Stream {
	out := make([]web.Stream, len(h.streams))
	for i, o := range h.streams {
		out[i] = o.stream
	}
	return out
}

// lookEvery is how often files are looked at. A file is read once it has not changed for that long, so that one that is being written is not
// taken for all of it.
const lookEvery = 2 * time.Second

// run follows the files that the server was configured by until ctx is done: they are read again when they change, and all of them when again
// says so (nil: never).
func (h *household) run(ctx context.Context, again <-chan os.Signal, every time.Duration) {
	config, keys := fileWatches{}, fileWatches{}
	look := func() (c, k bool) {
		files := []string{h.file}
		for _, s := range h.cfg.Streams {
			files = append(files, s.PasswordFile)
		}
		// Both are looked at in any case, so that what a reload has read is not read twice.
		return config.changed(files...), keys.changed(h.cfg.Auth.TokensFile, h.cfg.Auth.TokenFile, h.cfg.TLS.Cert, h.cfg.TLS.Key)
	}
	look()
	tick, renewal := time.NewTicker(every), time.NewTicker(24*time.Hour) // a certificate of our own ends one day
	defer tick.Stop()
	defer renewal.Stop()
	for {
		asked, due := false, false
		select {
		case <-ctx.Done():
			return
		case <-again:
			clear(config)
			asked = true
		case <-renewal.C:
			due = true
		case <-tick.C:
		}
		c, k := look()
		switch {
		case asked || c:
			if err := h.reload(ctx); err != nil {
				h.a.log.Error("the configuration was not taken, the old one stays", "err", err)
			}
		case k || due:
			if err := h.renew(h.cfg); err != nil {
				h.a.log.Error("the file was not taken, what it said before stays", "err", err)
			} else {
				h.a.log.Info("tokens and certificate were read again", "tokens", len(h.tokens.get()))
			}
		}
	}
}

// renew reads the tokens and the certificate of c. With an error both stay as they are.
func (h *household) renew(c *Config) error {
	tokens, err := loadTokens(c.Auth)
	if err != nil {
		return err
	}
	if h.cert != nil {
		if err := h.cert.load(c.TLS, h.root, h.hosts); err != nil {
			return err
		}
	}
	h.tokens.set(tokens)
	return nil
}

// reload takes over what the configuration file says now. Streams whose lines are as they were go on, with their sockets. With an error
// nothing has changed, but for streams that could not go on as they were: the error says which.
func (h *household) reload(ctx context.Context) error {
	next, err := LoadConfig(h.file, h.a.environ)
	if err != nil {
		return err
	}
	specs, err := next.specs()
	if err != nil {
		return err
	}
	d := compareConfigs(h.cfg, next)
	for _, name := range slices.Concat(d.Added, d.Changed) { // what a file alone does not show: every machine has the same model
		if _, err := next.stream(name).Memory.open(h.fleet.machines[0], h.a.log); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	if slices.Contains(d.Restart, "tls") {
		next.TLS = h.cfg.TLS // a listener cannot begin or cease to be encrypted
	}
	var opened []*occupant // not there before
	for _, name := range d.Added {
		o, err := h.move(ctx, *next.stream(name))
		if err != nil {
			for _, o := range opened {
				h.out(o)
			}
			return err
		}
		opened = append(opened, o)
	}
	if err := h.renew(next); err != nil {
		for _, o := range opened {
			h.out(o)
		}
		return err
	}
	err = h.arrange(ctx, next, d, opened)
	if e := h.standing.SetFixed(specs); err == nil {
		err = e
	}
	h.cfg = next
	h.a.log.Info("the configuration was read again", "added", d.Added, "removed", d.Removed, "restarted", d.Changed, "kept", len(d.Kept), "watches", len(specs))
	if len(d.Restart) > 0 {
		h.a.log.Warn("some changes need a restart of the server", "keys", d.Restart)
	}
	return err
}

// arrange brings the streams into next's order: those that changed start again, those that are gone end. One that cannot start again goes on
// as it was configured before, or, where even that fails, is left out.
func (h *household) arrange(ctx context.Context, next *Config, d changes, opened []*occupant) error {
	have := map[string]*occupant{}
	for _, o := range append(slices.Clone(h.streams), opened...) {
		have[o.name] = o
	}
	var errs []error
	for _, name := range d.Changed {
		old := have[name]
		h.out(old) // first: its memory has one owner at a time
		o, err := h.move(ctx, *next.stream(name))
		if err != nil {
			errs = append(errs, fmt.Errorf("%w; it goes on as before", err))
			if o, err = h.move(ctx, old.cfg); err != nil {
				errs = append(errs, fmt.Errorf("and cannot: %w", err))
			}
			*next.stream(name) = h.cfg.Streams[slices.IndexFunc(h.cfg.Streams, func(s StreamConfig) bool { return s.Name == name })]
		}
		if have[name] = o; o == nil {
			delete(have, name)
		}
	}
	h.streams = nil
	for _, s := range next.Streams {
		if o := have[s.Name]; o != nil {
			h.streams = append(h.streams, o)
		}
	}
	if err := h.server.SetStreams(h.shown()); err != nil {
		errs = append(errs, err)
	}
	for _, name := range d.Removed { // now that nobody is shown them
		if o := have[name]; o != nil {
			h.out(o)
		}
	}
	return errors.Join(errs...)
}

// fileWatches notice that files have changed, once they have stayed the same from one look to the next.
type fileWatches map[string]*fileWatch

type fileWatch struct{ taken, seen string }

// changed looks at the files; "" is none. The first look at a file only remembers it.
func (w fileWatches) changed(files ...string) (any bool) {
	for _, f := range files {
		if f == "" {
			continue
		}
		now := "none"
		if info, err := os.Stat(f); err == nil {
			now = fmt.Sprint(info.Size(), " ", info.ModTime().UnixNano())
		}
		one := w[f]
		if one == nil {
			one = &fileWatch{now, now}
			w[f] = one
		}
		if now == one.seen && now != one.taken {
			one.taken, any = now, true
		}
		one.seen = now
	}
	return any
}
