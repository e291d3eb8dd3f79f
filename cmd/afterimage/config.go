package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"afterimage/hub"
	"afterimage/ingest"
	"afterimage/qa"
)

// Config is a configuration file, checked and complete: every default is filled in and every URL is parsed.
type Config struct {
	Listen         string        `yaml:"listen"`          // host:port of the page and the API
	Auth           AuthConfig    `yaml:"auth"`            //
	TLS            TLSConfig     `yaml:"tls"`             //
	AllowedHosts   []string      `yaml:"allowed_hosts"`   // names to answer to besides loopback's and listen's own, without port
	AllowedOrigins []string      `yaml:"allowed_origins"` // other pages that may use the server, as https://host[:port]
	Model          string        `yaml:"model"`           // a model directory, or one that was pulled; empty means the embedded default
	Threads        int           `yaml:"threads"`         // CPU threads in all; 0 means every core
	Device         string        `yaml:"device"`          // a deviceName
	Quant          string        `yaml:"quant"`           // a quantName
	Memory         string        `yaml:"memory_dir"`      // where memories outlive the program, a directory a stream; "off": nowhere; empty: the user's state directory
	Default        StreamConfig  `yaml:"stream_defaults"` //
	Streams        StreamConfigs `yaml:"streams"`         // in the order of the file
	Webhooks       WebhookConfig `yaml:"webhooks"`        //
	Watches        WatchConfigs  `yaml:"watches"`         // in the order of the file
}

// AuthConfig says who may use the server. Beyond loopback one of the two is needed.
type AuthConfig struct {
	TokenFile  string `yaml:"token_file"`  // its first line is a bearer token for everything
	TokensFile string `yaml:"tokens_file"` // see readTokens
}

// TLSConfig says how connections are encrypted: not at all, with a certificate from files, or with one that we make.
type TLSConfig struct {
	Cert       string `yaml:"cert"` // PEM, with the chain
	Key        string `yaml:"key"`  // PEM
	SelfSigned bool   `yaml:"-"`    // short form: tls: self-signed
}

func (c TLSConfig) on() bool { return c.SelfSigned || c.Cert != "" }

// UnmarshalYAML reads self-signed, or a mapping of cert and key.
func (c *TLSConfig) UnmarshalYAML(n ast.Node) error {
	if s, ok := n.(*ast.StringNode); ok {
		if c.SelfSigned = s.Value == "self-signed"; c.SelfSigned {
			return nil
		}
		return &yaml.SyntaxError{Message: "want self-signed, or a mapping with cert and key", Token: n.GetToken()}
	}
	type files TLSConfig
	return yaml.NodeToValue(n, (*files)(c), yaml.Strict())
}

// WebhookConfig says how standing questions tell others.
type WebhookConfig struct {
	SecretFile string `yaml:"secret_file"` // its first line signs what is sent
	AllowHTTP  bool   `yaml:"allow_http"`  // beyond this machine too, where anyone on the way can read and change what is sent
}

// StreamConfig is one stream. The short form is the source alone.
type StreamConfig struct {
	Name         string       `yaml:"-"`
	Source       secretText   `yaml:"source" json:"-"`
	FPS          float64      `yaml:"fps"`            // pictures a second that are looked at
	Transport    string       `yaml:"transport"`      // RTSP over "tcp" or "udp"
	StallTimeout duration     `yaml:"stall_timeout"`  // no picture for this long means stalled
	Freeze       orOff        `yaml:"freeze_timeout"` // the same picture for this long means frozen; negative: never
	Masks        [][]float64  `yaml:"masks"`          // rectangles that are black before anything sees them: left, top, right, bottom, as shares of the picture
	Memory       MemoryConfig `yaml:"memory"`
	VisualTokens int          `yaml:"max_visual_tokens"` // of what a question is shown; 0 is the strategy's own size
	PasswordFile string       `yaml:"password_file"`     // its first line is the password of the user in source
	Warm         string       `yaml:"warm"`              // "off", "newest" or "wait"; empty means newest on a GPU and off on the processor
	WarmAge      duration     `yaml:"warm_age"`          // newest: how old what an answer is from may be

	DiskBudget size     `yaml:"disk_budget"` // most that its memory takes on disk
	Clip       duration `yaml:"clip"`        // most of the stream that a crash may lose

	URL ingest.URL `yaml:"-"`
	dir string     // where its memory is kept; empty: only in the program's own memory
}

// pairsOf is what a mapping holds, in its order; nothing of a null. Anything else is an error that says what is wanted.
func pairsOf(n ast.Node, wanted string) ([]*ast.MappingValueNode, error) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, nil
	case *ast.NullNode:
		return nil, nil
	}
	return nil, &yaml.SyntaxError{Message: wanted, Token: n.GetToken()}
}

// UnmarshalYAML reads a strategy's name, or a mapping with the name under strategy and its options beside it.
func (c *MemoryConfig) UnmarshalYAML(n ast.Node) error {
	if n, ok := n.(*ast.StringNode); ok {
		if err := c.UnmarshalText([]byte(n.Value)); err != nil {
			return &yaml.SyntaxError{Message: err.Error(), Token: n.GetToken()}
		}
		return nil
	}
	pairs, err := pairsOf(n, "want a strategy's name, or strategy: with its options")
	if err != nil {
		return err
	}
	for _, p := range pairs {
		key := p.Key.GetToken().Value
		var value any
		if err := yaml.NodeToValue(p.Value, &value); err != nil {
			return err
		}
		switch v := value.(type) {
		case uint64: // as the YAML library has numbers
			value = int(min(v, math.MaxInt))
		case int64:
			value = int(v)
		case []any:
			if list, ok := ints(v); ok {
				value = list
			}
		case nil:
			return &yaml.SyntaxError{Message: key + " has no value", Token: p.Key.GetToken()}
		}
		if key == "strategy" {
			name, ok := value.(string)
			if !ok {
				return &yaml.SyntaxError{Message: "want a strategy's name: " + either(strategyNames()), Token: p.Value.GetToken()}
			}
			c.Strategy = name
			continue
		}
		if c.Options == nil {
			c.Options = map[string]any{}
		}
		c.Options[key] = value
	}
	return nil
}

func ints(list []any) (out []int, ok bool) {
	for _, x := range list {
		n, ok := x.(uint64)
		if !ok || n > math.MaxInt {
			return nil, false
		}
		out = append(out, int(n))
	}
	return out, true
}

// secretText is a URL as written, credentials and all; it never prints itself.
type secretText string

func (secretText) String() string   { return "hidden URL" }
func (secretText) GoString() string { return "hidden URL" }

type duration time.Duration

// UnmarshalYAML reads 10s, 1m30s. A bare number is refused, since nobody can tell what it counts.
func (d *duration) UnmarshalYAML(n ast.Node) error {
	s, ok := n.(*ast.StringNode)
	if ok {
		if v, err := time.ParseDuration(s.Value); err == nil {
			*d = duration(v)
			return nil
		}
	}
	return &yaml.SyntaxError{Message: "want a duration such as 10s or 1m30s", Token: n.GetToken()}
}

// orOff is a duration, or off, which is -1.
type orOff duration

// UnmarshalYAML reads off, or what a duration reads.
func (d *orOff) UnmarshalYAML(n ast.Node) error {
	if n.GetToken().Value == "off" {
		*d = -1
		return nil
	}
	return (*duration)(d).UnmarshalYAML(n)
}

// StreamConfigs keeps the file's order.
type StreamConfigs []StreamConfig

// UnmarshalYAML reads a mapping of names to streams.
func (c *StreamConfigs) UnmarshalYAML(n ast.Node) error {
	pairs, err := pairsOf(n, "want streams by name, as in front_door: rtsp://…")
	if err != nil {
		return err
	}
	for _, p := range pairs {
		name, ok := p.Key.(*ast.StringNode)
		if !ok || !streamName.MatchString(name.Value) {
			return &yaml.SyntaxError{Message: "a stream's name is a letter, then up to 63 letters, digits, - or _", Token: p.Key.GetToken()}
		}
		s := StreamConfig{Name: name.Value}
		switch v := p.Value.(type) {
		case *ast.StringNode:
			s.Source = secretText(v.Value)
		default:
			if err := yaml.NodeToValue(v, &s, yaml.Strict()); err != nil {
				return err
			}
			s.Name = name.Value // a null leaves s zero
		}
		*c = append(*c, s)
	}
	return nil
}

var streamName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)

const defaultListen = "127.0.0.1:8765"

// LoadConfig reads and checks a configuration file. Relative paths in it are relative to the file. Variables of the environment replace
// its keys (see override) and stand in its values. An error shows the place as file:line:column with the line below, or the name of the
// variable, and never a credential.
func LoadConfig(file string, env environ) (*Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c, doc, err := parseConfig(text, env)
	if err == nil {
		err = c.resolve(filepath.Dir(file), doc.root)
	}
	if err != nil {
		return nil, doc.show(file, err)
	}
	return c, nil
}

// resolve fills defaults in and checks what the types could not. dir is where relative paths start.
func (c *Config) resolve(dir string, root ast.Node) error {
	bad := func(path, format string, args ...any) error {
		return &placedError{node: find(root, path), msg: fmt.Sprintf(format, args...)}
	}
	if c.Listen == "" {
		c.Listen = defaultListen
	}
	if err := checkHostPort(c.Listen); err != nil {
		return bad("listen", "%v", err)
	}
	if c.Threads < 0 || c.Threads > 1024 {
		return bad("threads", "want 0 (every core) to 1024")
	}
	if err := deviceName(c.Device).check(); err != nil {
		return bad("device", "%v", err)
	}
	c.Device = first(c.Device, "auto")
	if err := quantName(c.Quant).check(); err != nil {
		return bad("quant", "%v", err)
	}
	c.Quant = first(c.Quant, "bf16")
	c.Model = modelWithin(dir, c.Model)
	c.Auth.TokenFile, c.Auth.TokensFile = within(dir, c.Auth.TokenFile), within(dir, c.Auth.TokensFile)
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return bad("tls", "want both cert and key")
	}
	c.TLS.Cert, c.TLS.Key = within(dir, c.TLS.Cert), within(dir, c.TLS.Key)
	c.Webhooks.SecretFile = within(dir, c.Webhooks.SecretFile)
	for _, h := range c.AllowedHosts {
		if !hostName.MatchString(h) {
			return bad("allowed_hosts", "want names such as cameras.example.net, without scheme and port")
		}
	}
	for _, o := range c.AllowedOrigins {
		if u, err := url.Parse(o); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != o {
			return bad("allowed_origins", "want origins such as https://example.net:8443, with nothing behind")
		}
	}
	if c.Memory != "off" {
		c.Memory = within(dir, c.Memory)
	}
	if c.Default.Source != "" || c.Default.PasswordFile != "" {
		return bad("stream_defaults", "a source or a password cannot be shared by all streams")
	}
	if err := c.Default.check(func(key, format string, args ...any) error {
		return bad("stream_defaults."+key, format, args...)
	}); err != nil {
		return err
	}
	if len(c.Streams) == 0 {
		return bad("streams", "no streams: add at least one, as in streams: {front_door: rtsp://…}")
	}
	for i := range c.Streams {
		s := &c.Streams[i]
		at := func(key, format string, args ...any) error {
			return bad("streams."+s.Name+"."+key, format, args...)
		}
		s.inherit(c.Default)
		if err := s.check(at); err != nil {
			return err
		}
		if err := s.open(dir); err != nil {
			return at("source", "stream %s: %v", s.Name, err)
		}
	}
	for _, w := range c.Watches {
		spec, err := w.spec()
		var wrong *qa.WatchError
		switch {
		case errors.As(err, &wrong):
			return bad("watches."+w.Name+"."+wrong.Field, "watch %s: %s: %s", w.Name, wrong.Field, wrong.Why)
		case err != nil:
			return bad("watches."+w.Name, "watch %s: %v", w.Name, err)
		case !slices.ContainsFunc(c.Streams, func(s StreamConfig) bool { return s.Name == spec.Stream }):
			return bad("watches."+w.Name+".stream", "watch %s: there is no stream %s", w.Name, spec.Stream)
		}
	}
	return nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?$`)

// inherit takes what s leaves open from the defaults, then from the program.
func (s *StreamConfig) inherit(d StreamConfig) {
	s.FPS = first(s.FPS, d.FPS, 2)
	s.Transport = first(s.Transport, d.Transport, "tcp")
	s.StallTimeout = first(s.StallTimeout, d.StallTimeout, duration(10*time.Second))
	s.Freeze = first(s.Freeze, d.Freeze, orOff(time.Minute))
	if s.Masks == nil {
		s.Masks = d.Masks
	}
	s.Warm = first(s.Warm, d.Warm)
	s.WarmAge = first(s.WarmAge, d.WarmAge, duration(2*time.Second))
	s.Memory = s.Memory.over(d.Memory)
	s.VisualTokens = first(s.VisualTokens, d.VisualTokens)
	s.DiskBudget = first(s.DiskBudget, d.DiskBudget, 2<<30)
	s.Clip = first(s.Clip, d.Clip, duration(8*time.Second))
}

// first returns the first non-zero value.
func first[T comparable](values ...T) (zero T) {
	for _, v := range values {
		if v != zero {
			return v
		}
	}
	return zero
}

// check looks at everything but the source; zero values pass.
func (s *StreamConfig) check(bad func(key, format string, args ...any) error) error {
	switch {
	case s.FPS != 0 && !(s.FPS >= 0.05 && s.FPS <= 30):
		return bad("fps", "want 0.05 to 30 pictures a second")
	case s.Transport != "" && s.Transport != "tcp" && s.Transport != "udp":
		return bad("transport", "want tcp or udp")
	case s.StallTimeout != 0 && (s.StallTimeout < duration(time.Second) || s.StallTimeout > duration(time.Hour)):
		return bad("stall_timeout", "want 1s to 1h")
	case s.Freeze > 0 && (s.Freeze < orOff(time.Second) || s.Freeze > orOff(24*time.Hour)):
		return bad("freeze_timeout", "want 1s to 24h, or off")
	case s.Warm != "" && !slices.Contains([]string{"off", "newest", "wait"}, s.Warm):
		return bad("warm", "want off, newest or wait")
	case s.WarmAge != 0 && (s.WarmAge < duration(100*time.Millisecond) || s.WarmAge > duration(time.Hour)):
		return bad("warm_age", "want 100ms to 1h")
	case s.DiskBudget != 0 && s.DiskBudget < 64<<20:
		return bad("disk_budget", "want at least 64MiB")
	case s.Clip != 0 && (s.Clip < duration(time.Second) || s.Clip > duration(time.Minute)):
		return bad("clip", "want 1s to 1m")
	case s.VisualTokens < 0 || s.VisualTokens > 1<<20:
		return bad("max_visual_tokens", "want 0 (as many as the strategy shows) to 1048576")
	}
	if _, err := s.masks(); err != nil {
		return bad("masks", "%v", err)
	}
	if _, _, err := s.Memory.find(); err != nil {
		var wrong *optionError
		if errors.As(err, &wrong) {
			return bad("memory."+first(wrong.option, "strategy"), "%v", err)
		}
		return err
	}
	return nil
}

// masks are the rectangles as the source takes them.
func (s *StreamConfig) masks() ([]ingest.Mask, error) {
	if len(s.Masks) > 64 {
		return nil, errors.New("want at most 64")
	}
	var out []ingest.Mask
	for _, m := range s.Masks {
		if len(m) != 4 || !(0 <= m[0] && m[0] < m[2] && m[2] <= 1 && 0 <= m[1] && m[1] < m[3] && m[3] <= 1) {
			return nil, errors.New("want [left, top, right, bottom] each, as shares of the picture from 0 to 1")
		}
		out = append(out, ingest.Mask{Left: m[0], Top: m[1], Right: m[2], Bottom: m[3]})
	}
	return out, nil
}

// open parses the source, with the password put in.
func (s *StreamConfig) open(dir string) error {
	raw := string(s.Source)
	if raw == "" {
		return errors.New("no source")
	}
	if s.PasswordFile != "" {
		s.PasswordFile = within(dir, s.PasswordFile)
		text, err := os.ReadFile(s.PasswordFile)
		if err != nil {
			// What follows "password…:" is taken for a secret where errors are shown, so the reason comes first.
			reason := err
			var where *fs.PathError
			if errors.As(err, &where) {
				reason = where.Err
			}
			return fmt.Errorf("%w when reading the password_file %s", reason, s.PasswordFile)
		}
		password, _, _ := strings.Cut(string(text), "\n")
		if raw, err = withPassword(raw, strings.TrimSuffix(password, "\r")); err != nil {
			return err
		}
	}
	u, err := ingest.ParseURL(raw)
	if err != nil {
		return err
	}
	if u.Scheme() == ingest.FileScheme && !filepath.IsAbs(u.Path()) {
		if u, err = ingest.ParseURL(filepath.Join(dir, u.Path())); err != nil {
			return err
		}
	}
	s.URL, s.Source = u, "" // from here on only URL holds a credential
	return nil
}

// withPassword adds a password to a URL that has a user and none.
func withPassword(raw, password string) (string, error) {
	u, err := url.Parse(raw) // its error repeats the URL, so it is not passed on
	switch {
	case err != nil:
		return "", errors.New("malformed source URL")
	case password == "":
		return "", errors.New("the first line of the password_file is empty")
	case u.User.Username() == "":
		return "", errors.New("password_file needs a user in source, as in rtsp://viewer@camera/stream")
	}
	if _, has := u.User.Password(); has {
		return "", errors.New("keep either the password in source or the password_file, not both")
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String(), nil
}

// modelWithin is a model that a configuration in dir names: a directory beside it, or else a model that was pulled.
func modelWithin(dir, name string) string {
	path := within(dir, name)
	if _, err := os.Stat(path); err != nil {
		if _, err := hub.ParseName(name); err == nil {
			return name
		}
	}
	return path
}

// within makes a relative path relative to dir; the empty path stays empty.
func within(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
