// Package hub gets models from a Hugging Face hub. There are four types: a Hub is where models come from and where they are kept, a
// Name says which one is meant, a Snapshot is one that is here, and an Entry of the Catalogue is what is known of a model before it is.
//
// Models lie in the cache that Hugging Face's own libraries use, so what one program pulled, the others find:
//
//	models--ORG--NAME/blobs/HASH            what files hold, named by its hash (sha256, or git's for small files)
//	models--ORG--NAME/snapshots/COMMIT/FILE links to blobs: a model directory
//	models--ORG--NAME/refs/REVISION         the commit that a branch, tag or pull request meant when it was pulled
//	.locks/models--ORG--NAME/HASH.lock      held while a blob is written
//
// Nothing that a hub says is believed: names that would leave the directory, sizes, hashes and commits are checked, bodies are bounded,
// and the token goes to the configured host only.
package hub

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// DefaultEndpoint is where models come from unless HF_ENDPOINT says otherwise.
const DefaultEndpoint = "https://huggingface.co"

// Hub is a place that models come from and a directory that they are kept in. It is safe for concurrent use, also by several processes.
type Hub struct {
	Cache   string // the directory, "" when the environment names none
	Offline bool   // nothing is asked of the network
	// Trouble is told of a request that failed and is made again after a pause, from any goroutine; nil: nobody is.
	Trouble func(err error, pause time.Duration)

	endpoint *url.URL
	token    func() string // a function, so that no way of printing a Hub prints it
	http     *http.Client
	free     func(dir string) (int64, error) // bytes
	stall    time.Duration                   // without a byte for so long, a connection is given up
	pause    time.Duration                   // before the first retry; doubled for each further one
	retries  int                             // in a row, without getting on
}

// FromEnv reads what Hugging Face's own libraries read: HF_ENDPOINT, HF_TOKEN or the token file of HF_HOME, HF_HUB_CACHE, HF_HOME,
// XDG_CACHE_HOME and HF_HUB_OFFLINE. No request is made.
func FromEnv(lookup func(string) (string, bool)) (*Hub, error) {
	env := func(names ...string) string {
		for _, n := range names {
			if v, ok := lookup(n); ok && v != "" {
				return v
			}
		}
		return ""
	}
	home := env("HOME", "USERPROFILE")
	path := func(p string) string {
		if rest, ok := strings.CutPrefix(p, "~/"); ok && home != "" {
			return filepath.Join(home, rest)
		}
		return p
	}
	root := path(env("HF_HOME"))
	if root == "" {
		cache := path(env("XDG_CACHE_HOME"))
		if cache == "" && home != "" {
			cache = filepath.Join(home, ".cache")
		}
		if cache != "" {
			root = filepath.Join(cache, "huggingface")
		}
	}
	h := &Hub{Cache: path(env("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")), Offline: yes(env("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))}
	if h.Cache == "" && root != "" {
		h.Cache = filepath.Join(root, "hub")
	}
	tokenFile := path(env("HF_TOKEN_PATH"))
	if tokenFile == "" && root != "" {
		tokenFile = filepath.Join(root, "token")
	}
	token, from := env("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), "HF_TOKEN"
	if token == "" && tokenFile != "" && !yes(env("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
		text, err := os.ReadFile(tokenFile)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("hub: token file: %w", err)
		}
		token, from = string(text), tokenFile
	}
	token = strings.TrimSpace(token)
	for _, r := range token {
		if r <= ' ' || r > '~' {
			return nil, fmt.Errorf("hub: %s holds no token: it has a space or a character that a header cannot have", from)
		}
	}
	return h, h.open(env("HF_ENDPOINT"), token)
}

func yes(v string) bool {
	switch strings.ToUpper(v) {
	case "1", "TRUE", "YES", "ON":
		return true
	}
	return false
}

// open fills in what h needs for requests.
func (h *Hub) open(endpoint, token string) error {
	if endpoint == "" {
		endpoint = DefaultEndpoint
	}
	u, err := url.Parse(strings.TrimRight(endpoint, "/"))
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return errors.New("hub: HF_ENDPOINT: want a URL such as " + DefaultEndpoint)
	case u.User != nil:
		return errors.New("hub: HF_ENDPOINT: leave user and password out; HF_TOKEN is what a hub is shown")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("hub: HF_ENDPOINT: want a URL without a query")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // sizes and hashes are of what comes as it is
	transport.MaxResponseHeaderBytes = 64 << 10
	h.endpoint, h.token = u, func() string { return token }
	h.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	h.free, h.stall, h.pause, h.retries = freeSpace, 30*time.Second, time.Second, 6
	return nil
}

// Resolve returns the directory that a name means: the directory of that name, or the snapshot of a short name or an
// ORG/NAME[@revision] that was pulled, found as the environment says.
func Resolve(name string) (dir string, err error) {
	h, err := FromEnv(os.LookupEnv)
	if err != nil {
		return "", err
	}
	return h.Resolve(name)
}

// Name is a model of a hub.
type Name struct {
	Repo     string // ORG/NAME
	Revision string // a branch, tag, pull request (refs/pr/1) or commit
	Short    string // of the Catalogue, if that is how it was named
}

const mainRevision = "main"

var (
	repoPart   = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$`)
	revisionOK = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}$`)
	commitOK   = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// ParseName reads a short name of the Catalogue or ORG/NAME, either with @revision.
func ParseName(text string) (Name, error) {
	base, revision, pinned := strings.Cut(text, "@")
	n := Name{Repo: base, Revision: mainRevision}
	if e, ok := Find(base); ok {
		n = Name{Repo: e.Repo, Revision: e.Revision, Short: e.Short}
	}
	if pinned {
		n.Revision = revision
	}
	org, name, two := strings.Cut(n.Repo, "/")
	switch {
	case !two:
		return Name{}, fmt.Errorf("there is no model %q: want a name that \"afterimage list models\" shows, or ORG/NAME", text)
	case !safeRepo(org) || !safeRepo(name):
		return Name{}, fmt.Errorf("%q is not ORG/NAME: letters, digits, -, _ and . only", text)
	case !safeRevision(n.Revision):
		return Name{}, fmt.Errorf("%q: the revision after @ must be a branch, tag, refs/pr/N or commit", text)
	}
	return n, nil
}

// safeRepo also keeps "--" out, which parts organisation from name in the cache's directories.
func safeRepo(part string) bool {
	return repoPart.MatchString(part) && !strings.Contains(part, "..") && !strings.Contains(part, "--")
}

func safeRevision(r string) bool {
	if !revisionOK.MatchString(r) {
		return false
	}
	for part := range strings.SplitSeq(r, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".") || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return true
}

// String is how the name is typed.
func (n Name) String() string {
	e, short := Find(n.Short)
	switch {
	case short && n.Revision == e.Revision:
		return n.Short
	case short:
		return n.Short + "@" + n.Revision
	case n.Revision == mainRevision:
		return n.Repo
	}
	return n.Repo + "@" + n.Revision
}

// folder is the name's directory in a cache.
func (n Name) folder() string { return "models--" + strings.ReplaceAll(n.Repo, "/", "--") }
