package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"afterimage/ingest"
)

// Config is a configuration file, checked and complete: every default is filled in and every URL is parsed.
type Config struct {
	Listen  string        `yaml:"listen"`  // host:port of the page and the API
	Auth    AuthConfig    `yaml:"auth"`    //
	Model   string        `yaml:"model"`   // a model directory; empty means the embedded default
	Threads int           `yaml:"threads"` // CPU threads in all; 0 means every core
	Device  string        `yaml:"device"`  // a deviceName
	Quant   string        `yaml:"quant"`   // a quantName
	Default StreamConfig  `yaml:"stream_defaults"`
	Streams StreamConfigs `yaml:"streams"` // in the order of the file
}

// AuthConfig says who may use the server.
type AuthConfig struct {
	TokenFile string `yaml:"token_file"` // its first line is the bearer token; needed to listen beyond loopback
}

// StreamConfig is one stream. The short form is the source alone.
type StreamConfig struct {
	Name         string       `yaml:"-"`
	Source       sourceText   `yaml:"source" json:"-"`
	FPS          float64      `yaml:"fps"`           // pictures a second that are looked at
	Transport    string       `yaml:"transport"`     // RTSP over "tcp" or "udp"
	StallTimeout duration     `yaml:"stall_timeout"` // no picture for this long means stalled
	Memory       MemoryConfig `yaml:"memory"`
	PasswordFile string       `yaml:"password_file"` // its first line is the password of the user in source
	Warm         string       `yaml:"warm"`          // "off", "newest" or "wait"; empty means newest on a GPU and off on the processor
	WarmAge      duration     `yaml:"warm_age"`      // newest: how old what an answer is from may be

	URL ingest.URL `yaml:"-"`
}

// MemoryConfig chooses what is remembered. Zero means the strategy's default.
type MemoryConfig struct {
	Strategy string `yaml:"strategy"` // "flash" or "recent"
	Synopsis int    `yaml:"synopsis"` // flash: spans kept
	Detail   int    `yaml:"detail"`   // flash: full pictures shown
	Frames   int    `yaml:"frames"`   // recent: pictures kept
}

// sourceText is a URL as written, credentials and all; it never prints itself.
type sourceText string

func (sourceText) String() string   { return "source URL" }
func (sourceText) GoString() string { return "source URL" }

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

// StreamConfigs keeps the file's order.
type StreamConfigs []StreamConfig

// UnmarshalYAML reads a mapping of names to streams.
func (c *StreamConfigs) UnmarshalYAML(n ast.Node) error {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	case *ast.NullNode:
		return nil
	default:
		return &yaml.SyntaxError{Message: "want streams by name, as in front_door: rtsp://…", Token: n.GetToken()}
	}
	for _, p := range pairs {
		name, ok := p.Key.(*ast.StringNode)
		if !ok || !streamName.MatchString(name.Value) {
			return &yaml.SyntaxError{Message: "a stream's name is a letter, then up to 63 letters, digits, - or _", Token: p.Key.GetToken()}
		}
		s := StreamConfig{Name: name.Value}
		switch v := p.Value.(type) {
		case *ast.StringNode:
			s.Source = sourceText(v.Value)
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

// LoadConfig reads and checks a configuration file. Relative paths in it are relative to the file. lookup finds environment
// variables. An error shows the place as file:line:column with the line below, and never a credential.
func LoadConfig(file string, lookup func(string) (string, bool)) (*Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c, root, err := parseConfig(text, lookup)
	if err == nil {
		err = c.resolve(filepath.Dir(file), root)
	}
	if err != nil {
		return nil, showConfigError(file, string(text), err)
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
	c.Model = within(dir, c.Model)
	c.Auth.TokenFile = within(dir, c.Auth.TokenFile)
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
	return nil
}

// inherit takes what s leaves open from the defaults, then from the program.
func (s *StreamConfig) inherit(d StreamConfig) {
	if s.Memory.Strategy != "" && s.Memory.Strategy != d.Memory.Strategy {
		d.Memory = MemoryConfig{} // sizes belong to a strategy
	}
	s.FPS = first(s.FPS, d.FPS, 2)
	s.Transport = first(s.Transport, d.Transport, "tcp")
	s.StallTimeout = first(s.StallTimeout, d.StallTimeout, duration(10*time.Second))
	s.Warm = first(s.Warm, d.Warm)
	s.WarmAge = first(s.WarmAge, d.WarmAge, duration(2*time.Second))
	m := &s.Memory
	m.Strategy = first(m.Strategy, d.Memory.Strategy, "flash")
	m.Synopsis = first(m.Synopsis, d.Memory.Synopsis)
	m.Detail = first(m.Detail, d.Memory.Detail)
	m.Frames = first(m.Frames, d.Memory.Frames)
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
	m := s.Memory
	switch {
	case s.FPS != 0 && !(s.FPS >= 0.05 && s.FPS <= 30):
		return bad("fps", "want 0.05 to 30 pictures a second")
	case s.Transport != "" && s.Transport != "tcp" && s.Transport != "udp":
		return bad("transport", "want tcp or udp")
	case s.StallTimeout != 0 && (s.StallTimeout < duration(time.Second) || s.StallTimeout > duration(time.Hour)):
		return bad("stall_timeout", "want 1s to 1h")
	case s.Warm != "" && !slices.Contains([]string{"off", "newest", "wait"}, s.Warm):
		return bad("warm", "want off, newest or wait")
	case s.WarmAge != 0 && (s.WarmAge < duration(100*time.Millisecond) || s.WarmAge > duration(time.Hour)):
		return bad("warm_age", "want 100ms to 1h")
	case m.Strategy != "" && !slices.Contains([]string{"flash", "recent"}, m.Strategy):
		return bad("memory.strategy", "want flash or recent")
	case m.Synopsis < 0 || m.Synopsis > 1024:
		return bad("memory.synopsis", "want 1 to 1024")
	case m.Detail < 0 || m.Detail > 256:
		return bad("memory.detail", "want 1 to 256")
	case m.Frames < 0 || m.Frames > 256:
		return bad("memory.frames", "want 1 to 256")
	case m.Strategy == "flash" && m.Frames != 0:
		return bad("memory.frames", "frames belongs to the strategy recent; flash has synopsis and detail")
	case m.Strategy == "recent" && (m.Synopsis != 0 || m.Detail != 0):
		return bad("memory.strategy", "recent has frames; synopsis and detail belong to flash")
	}
	return nil
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

// within makes a relative path relative to dir; the empty path stays empty.
func within(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
