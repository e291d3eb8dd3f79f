package ingest

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// The schemes a URL may have. A plain path is a FileScheme URL.
const (
	FileScheme  = "file"
	SimScheme   = "sim"
	V4L2Scheme  = "v4l2"
	RTSPScheme  = "rtsp"
	RTSPSScheme = "rtsps"
	HTTPScheme  = "http"
	HTTPSScheme = "https"
)

const (
	redacted     = "xxxxx"
	maxURLLength = 4096
)

// URL names a source of video. The zero URL names nothing. However it is printed, logged or marshalled, it shows itself with
// user, password and secret-looking parameters replaced; only Raw and Param give the truth, and only an opener may call them.
type URL struct {
	// A pointer to functions, so that neither fmt (which prints unexported fields by reflection, methods unused) nor a
	// dumper that follows pointers can reach the characters. It also keeps URL usable with ==, which compares identity.
	p *parsed
}

type parsed struct {
	scheme string
	shown  string
	path   string         // file and v4l2 only: what to open
	host   string         // network: host[:port]; sim: the scene's name
	url    func() url.URL // network, sim, v4l2 query
	raw    func() string
}

// ParseURL checks s and returns the source it names: rtsp://, rtsps://, http://, https://, file:, v4l2:/dev/…, sim://…, or a
// plain path. Anything else is an error, and no error repeats s, since what is wrong with it is often an unescaped password.
func ParseURL(s string) (URL, error) {
	p, err := parseURL(s)
	if err != nil {
		return URL{}, fmt.Errorf("ingest: source URL: %w", err)
	}
	return URL{p}, nil
}

func parseURL(s string) (*parsed, error) {
	switch {
	case s == "":
		return nil, errors.New("empty")
	case len(s) > maxURLLength:
		return nil, fmt.Errorf("longer than %d bytes", maxURLLength)
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nil, errors.New("contains a control character")
	}
	scheme, rest, ok := cutScheme(s)
	if !ok {
		if i := strings.IndexAny(s, ":/"); i >= 0 && s[i] == ':' {
			// "user:password@host/x" and FFmpeg's own "concat:…", "pipe:0" all look like this.
			return nil, errors.New("unknown scheme, or none; use rtsp, rtsps, http, https, file, v4l2 or sim, and write ./NAME for a file whose name has a colon")
		}
		return filePath(s)
	}
	switch scheme {
	case FileScheme:
		return parseFile(rest)
	case V4L2Scheme:
		return parseDevice(rest)
	case SimScheme:
		return parseAuthority(SimScheme, rest)
	case RTSPScheme, RTSPSScheme, HTTPScheme, HTTPSScheme:
		return parseAuthority(scheme, rest)
	}
	return nil, errors.New("unknown scheme; use rtsp, rtsps, http, https, file, v4l2 or sim")
}

// cutScheme splits a leading scheme off. Only "NAME://" of any name, and the known names with a single colon, count as one.
func cutScheme(s string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(s, ":")
	if !ok || scheme == "" || strings.ContainsFunc(scheme, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '+' && r != '-' && r != '.'
	}) {
		return "", "", false
	}
	scheme = strings.ToLower(scheme)
	switch scheme {
	case FileScheme, V4L2Scheme, SimScheme, RTSPScheme, RTSPSScheme, HTTPScheme, HTTPSScheme:
		return scheme, rest, true
	}
	return scheme, rest, strings.HasPrefix(rest, "//")
}

func filePath(name string) (*parsed, error) {
	if i := strings.IndexAny(name, ":/"); i >= 0 && name[i] == ':' {
		name = "./" + name // so that nobody downstream takes the first part for a protocol
	}
	return &parsed{scheme: FileScheme, shown: name, path: name, raw: func() string { return name }}, nil
}

func parseFile(rest string) (*parsed, error) {
	rest, err := localPath(rest)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(rest, "?#") {
		return nil, errors.New("a file URL has no query; write %3F and %23 for ? and # in a name")
	}
	name, err := url.PathUnescape(rest)
	if err != nil {
		return nil, errors.New("bad % escape")
	}
	if name == "" || strings.ContainsRune(name, 0) {
		return nil, errors.New("no file name")
	}
	return filePath(name)
}

// localPath takes the optional empty authority ("//", "//localhost") off.
func localPath(rest string) (string, error) {
	after, ok := strings.CutPrefix(rest, "//")
	if !ok {
		return rest, nil
	}
	after = strings.TrimPrefix(after, "localhost/")
	if len(after)+len("//localhost/") == len(rest) {
		return "/" + after, nil
	}
	if !strings.HasPrefix(after, "/") {
		return "", errors.New("only files and devices of this machine: three slashes, or none")
	}
	return after, nil
}

func parseDevice(rest string) (*parsed, error) {
	rest, err := localPath(rest)
	if err != nil {
		return nil, err
	}
	dev, query, _ := strings.Cut(rest, "?")
	if dev != path.Clean(dev) || !strings.HasPrefix(dev, "/dev/") || strings.ContainsAny(dev, "#%") {
		return nil, errors.New("a v4l2 device is written v4l2:/dev/NAME")
	}
	u := url.URL{Path: dev, RawQuery: query}
	if _, err := url.ParseQuery(query); err != nil {
		return nil, errors.New("bad query")
	}
	return &parsed{
		scheme: V4L2Scheme, shown: V4L2Scheme + ":" + dev + shownQuery(query), path: dev,
		url: func() url.URL { return u }, raw: func() string { return V4L2Scheme + ":" + rest },
	}, nil
}

func parseAuthority(scheme, rest string) (*parsed, error) {
	after, ok := strings.CutPrefix(rest, "//")
	if !ok {
		return nil, fmt.Errorf("want %s://HOST/…", scheme)
	}
	tail := ""
	if i := strings.IndexAny(after, "/?#"); i >= 0 {
		tail = after[i:]
	}
	if strings.Contains(tail, "@") {
		// rtsp://user:pa/ss@host/ parses, with the password's end in the path and the camera's name nowhere.
		return nil, errors.New("an @ after the host: write %2F %3F %23 for / ? # in a password, and %40 for an @ elsewhere")
	}
	raw := scheme + ":" + rest
	u, err := url.Parse(raw) // its error repeats the URL, so it is not passed on
	if err != nil {
		return nil, errors.New("malformed; in a user or a password, write special characters as %XX")
	}
	if u.Hostname() == "" {
		return nil, errors.New("no host")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return nil, errors.New("bad port")
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return nil, errors.New("bad port")
	}
	if _, err := url.ParseQuery(u.RawQuery); err != nil {
		return nil, errors.New("bad query")
	}
	if scheme == SimScheme && (u.User != nil || u.Port() != "" || u.Fragment != "") {
		return nil, errors.New("a simulated camera is written sim://SCENE?seed=N")
	}
	var b strings.Builder
	b.WriteString(scheme + "://")
	if u.User != nil {
		b.WriteString(redacted + "@")
	}
	b.WriteString(u.Host)
	b.WriteString(shownPath(u.EscapedPath()))
	b.WriteString(shownQuery(u.RawQuery))
	if u.Fragment != "" {
		b.WriteString("#" + redacted)
	}
	v := *u
	return &parsed{
		scheme: scheme, shown: b.String(), host: u.Host,
		url: func() url.URL { return v }, raw: func() string { return raw },
	}, nil
}

// shownPath hides credentials that some cameras want in the path, as in /user=admin_password=…_channel=1.sdp. Where the value
// ends is the camera's own affair, so everything up to the next slash goes.
func shownPath(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		if key, value, ok := strings.Cut(s, "="); ok && value != "" && secretName(s) {
			segments[i] = key + "=" + redacted
			if !secretName(key) || len(key) > 32 {
				segments[i] = redacted
			}
		}
	}
	return strings.Join(segments, "/")
}

// shownQuery returns "?query" with the secrets replaced, or nothing.
func shownQuery(q string) string {
	if q == "" {
		return ""
	}
	pairs := strings.Split(q, "&")
	for i, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		plain, err := url.QueryUnescape(key)
		switch {
		case err != nil:
			pairs[i] = redacted
		case !ok && len(key) > 16: // ?TOKEN
			pairs[i] = redacted
		case ok && (secretName(plain) || len(value) > 24):
			pairs[i] = key + "=" + redacted
		}
	}
	return "?" + strings.Join(pairs, "&")
}

// secretName reports whether a parameter of this name likely holds something that opens doors.
func secretName(name string) bool {
	name = strings.ToLower(name)
	switch name {
	case "p", "u", "pw", "usr", "sid", "st", "code", "hash", "md5", "jwt", "hdnts", "hdnea":
		return true
	}
	for _, part := range []string{"pass", "pwd", "psw", "secret", "token", "key", "auth", "sig", "cred", "session", "user", "login", "account", "policy"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// IsZero reports whether u names nothing.
func (u URL) IsZero() bool { return u.p == nil }

// Scheme is one of the scheme constants, or empty for the zero URL.
func (u URL) Scheme() string {
	if u.p == nil {
		return ""
	}
	return u.p.scheme
}

// Path is the file or the device to open, already unescaped; empty for the other schemes. It never begins with something
// that FFmpeg could take for a protocol.
func (u URL) Path() string {
	if u.p == nil {
		return ""
	}
	return u.p.path
}

// Host is host[:port] of a network source, or the scene's name of a simulated one.
func (u URL) Host() string {
	if u.p == nil {
		return ""
	}
	return u.p.host
}

// Param is the first value of a query parameter, empty when there is none. It may be a secret.
func (u URL) Param(name string) string {
	if u.p == nil || u.p.url == nil {
		return ""
	}
	v := u.p.url()
	return v.Query().Get(name)
}

// Live reports whether the source has no end by its nature, so that it is to be restarted when it stops: rtsp, rtsps, v4l2
// and sim. For http only opening it tells; a file is never live.
func (u URL) Live() bool {
	switch u.Scheme() {
	case RTSPScheme, RTSPSScheme, V4L2Scheme, SimScheme:
		return true
	}
	return false
}

// Raw is the URL with its credentials, and for a file the bare path. It is for opening the source and must never be printed,
// stored or put into an error.
func (u URL) Raw() string {
	if u.p == nil {
		return ""
	}
	return u.p.raw()
}

// Redact returns text, for example a library's error message, with u's credentials and u itself replaced wherever they occur.
func (u URL) Redact(text string) string {
	if u.p == nil || u.p.url == nil {
		return text
	}
	v := u.p.url()
	pairs := []string{u.Raw(), u.p.shown}
	hide := func(secrets ...string) {
		for _, s := range secrets {
			if len(s) >= 3 { // shorter ones would blank out half of any text
				pairs = append(pairs, s, redacted)
			}
		}
	}
	if v.User != nil {
		password, _ := v.User.Password()
		userinfo := v.User.String()
		pairs = append(pairs, userinfo+"@", redacted+"@", v.User.Username()+":"+password, redacted)
		_, escaped, _ := strings.Cut(userinfo, ":")
		hide(password, escaped, url.QueryEscape(password), v.User.Username())
	}
	for pair := range strings.SplitSeq(v.RawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if shownQuery(pair) != "?"+pair {
			plain, _ := url.QueryUnescape(value)
			if value == "" {
				plain = key
			}
			hide(value, plain)
		}
	}
	for segment := range strings.SplitSeq(v.EscapedPath(), "/") {
		if shownPath(segment) != segment {
			_, value, _ := strings.Cut(segment, "=")
			hide(segment, value)
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// String is the URL as it may be shown to anybody.
func (u URL) String() string {
	if u.p == nil {
		return ""
	}
	return u.p.shown
}

// Format implements fmt.Formatter: every verb shows String, %q and %#v quoted.
func (u URL) Format(f fmt.State, verb rune) {
	s := u.String()
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		s = strconv.Quote(s)
	}
	_, _ = f.Write([]byte(s))
}

// LogValue implements slog.LogValuer.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// MarshalText writes the redacted form, so a marshalled URL cannot be opened again if it had credentials.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText is ParseURL.
func (u *URL) UnmarshalText(text []byte) error {
	v, err := ParseURL(string(text))
	if err != nil {
		return err
	}
	*u = v
	return nil
}
