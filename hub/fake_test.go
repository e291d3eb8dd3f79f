package hub

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// canary is a token that must be seen in one place only: the Authorization header of requests of the configured host.
const canary = "hf_CANARY0123456789abcdef"

// fakeHub is a hub with one repository on one server, and its large files on another, as the real one has them.
type fakeHub struct {
	*httptest.Server
	cdn *httptest.Server

	mu       sync.Mutex
	files    map[string][]byte
	large    map[string]bool // kept on the other server
	refs     map[string]string
	prs      map[string]map[string][]byte // refs/pr/N -> files
	bot      []int                        // pull requests that the converter made
	commit   string
	requests []string // method, path and range, in order
	leaked   []string // requests of other hosts that had the token
	tokens   int      // requests of the hub that had it
	needs    bool     // answers 401 without it
	listing  func(m map[string]any)
	fault    func(w http.ResponseWriter, r *http.Request) bool // before anything else; true: it has answered
}

const testRepo = "acme/tiny-vlm"

func sum256(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

func sumGit(b []byte) string {
	s := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(b)), b...))
	return hex.EncodeToString(s[:])
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

// newFakeHub has a sharded model and files that nobody needs.
func newFakeHub(t testing.TB) *fakeHub {
	f := &fakeHub{
		files: map[string][]byte{
			"README.md":                        []byte("hello"),
			".gitattributes":                   []byte("*.safetensors filter=lfs\n"),
			"config.json":                      []byte(`{"model_type":"llama"}`),
			"tokenizer.json":                   noise(9, 40_000),
			indexFile:                          []byte(`{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}`),
			"onnx/model.onnx":                  noise(3, 1000),
			"pytorch_model.bin":                noise(4, 1000),
			"unused.safetensors":               noise(5, 1000),
			"preprocessor_config.json":         []byte(`{}`),
			"model-00001-of-00002.safetensors": noise(1, 3<<20),
			"model-00002-of-00002.safetensors": noise(2, 1<<20),
		},
		large:  map[string]bool{"model-00001-of-00002.safetensors": true, "model-00002-of-00002.safetensors": true, "pytorch_model.bin": true, "tokenizer.json": true},
		refs:   map[string]string{},
		commit: strings.Repeat("ab", 20),
	}
	f.refs["main"] = f.commit
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	f.cdn = httptest.NewServer(http.HandlerFunc(f.serveBlob))
	f.cdn.URL = strings.Replace(f.cdn.URL, "127.0.0.1", "localhost", 1) // huggingface_hub takes hosts that differ in the port for one
	t.Cleanup(f.Close)
	t.Cleanup(f.cdn.Close)
	return f
}

// hub is a client of f with a cache of its own.
func (f *fakeHub) hub(t testing.TB) *Hub {
	h, err := FromEnv(env("HF_ENDPOINT="+f.URL, "HF_TOKEN="+canary, "HF_HUB_CACHE="+t.TempDir()))
	require.NoError(t, err)
	h.pause, h.stall = time.Millisecond, 10*time.Second
	return h
}

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
}

func (f *fakeHub) note(r *http.Request, hub bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	dump := fmt.Sprint(r.Header, r.URL)
	switch {
	case !hub && strings.Contains(dump, canary):
		f.leaked = append(f.leaked, r.URL.Path)
	case hub && r.Header.Get("Authorization") == "Bearer "+canary:
		f.tokens++
	}
}

func (f *fakeHub) asked(part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(f.requests), func(r string) bool { return !strings.Contains(r, part) }))
}

func (f *fakeHub) faulty(w http.ResponseWriter, r *http.Request) bool {
	f.mu.Lock()
	fault := f.fault
	f.mu.Unlock()
	return fault != nil && fault(w, r)
}

func (f *fakeHub) serve(w http.ResponseWriter, r *http.Request) {
	f.note(r, true)
	if f.faulty(w, r) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.needs && r.Header.Get("Authorization") != "Bearer "+canary {
		w.Header().Set("X-Error-Code", "RepoNotFound")
		http.Error(w, "who are you", http.StatusUnauthorized)
		return
	}
	path := r.URL.EscapedPath()
	api := "/api/models/" + testRepo
	switch {
	case path == api || strings.HasPrefix(path, api+"/revision/") || strings.HasPrefix(path, api+"/tree/"):
		f.list(w, path, strings.HasPrefix(path, api+"/tree/"), r.URL.Query().Get("blobs") != "")
	case path == api+"/discussions":
		list := []any{}
		for _, n := range f.bot {
			list = append(list, map[string]any{"num": n, "author": map[string]any{"name": convertBot}})
		}
		writeJSON(w, map[string]any{"discussions": list, "count": len(list), "start": 0})
	case path == api+"/refs":
		list := []any{}
		for ref := range f.prs {
			list = append(list, map[string]any{"name": ref, "ref": ref, "targetCommit": f.commit})
		}
		writeJSON(w, map[string]any{"branches": []any{}, "converts": []any{}, "tags": []any{}, "pullRequests": list})
	case strings.HasPrefix(path, "/"+testRepo+"/resolve/"):
		f.resolve(w, r, strings.TrimPrefix(path, "/"+testRepo+"/resolve/"))
	default:
		w.Header().Set("X-Error-Code", "RepoNotFound")
		http.Error(w, "no", http.StatusNotFound)
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// at is the files of a revision.
func (f *fakeHub) at(revision string) (files map[string][]byte, commit string) {
	revision, _ = url.PathUnescape(revision)
	if pr, ok := f.prs[revision]; ok {
		return pr, strings.Repeat("cd", 20)
	}
	if c, ok := f.refs[revision]; ok {
		return f.files, c
	}
	switch revision {
	case f.commit:
		return f.files, f.commit
	case strings.Repeat("cd", 20):
		for _, files := range f.prs {
			return files, revision
		}
	}
	return nil, ""
}

func (f *fakeHub) list(w http.ResponseWriter, path string, tree, blobs bool) {
	revision := "main"
	for _, part := range []string{"/revision/", "/tree/"} {
		if _, r, ok := strings.Cut(path, part); ok {
			revision = r
		}
	}
	files, commit := f.at(revision)
	if files == nil {
		w.Header().Set("X-Error-Code", "RevisionNotFound")
		http.Error(w, "no", http.StatusNotFound)
		return
	}
	siblings, entries := []any{}, []any{}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		data := files[name]
		s := map[string]any{"rfilename": name}
		e := map[string]any{"type": "file", "path": name, "size": len(data), "oid": sumGit(data)}
		if blobs {
			s["size"], s["blobId"] = len(data), sumGit(data)
		}
		if f.isLarge(name) {
			e["lfs"] = map[string]any{"oid": sum256(data), "size": len(data), "pointerSize": 134}
			if blobs {
				s["lfs"] = map[string]any{"sha256": sum256(data), "size": len(data), "pointerSize": 134}
			}
		}
		siblings, entries = append(siblings, s), append(entries, e)
	}
	if tree {
		writeJSON(w, entries)
		return
	}
	m := map[string]any{"_id": "1", "id": testRepo, "sha": commit, "siblings": siblings, "tags": []string{"llama", "license:apache-2.0"}, "private": false}
	if f.listing != nil {
		f.listing(m)
	}
	writeJSON(w, m)
}

func (f *fakeHub) isLarge(name string) bool {
	return f.large[name] || strings.HasSuffix(name, ".safetensors")
}

func (f *fakeHub) resolve(w http.ResponseWriter, r *http.Request, rest string) {
	revision, name, _ := strings.Cut(rest, "/")
	name, _ = url.PathUnescape(name)
	files, commit := f.at(revision)
	w.Header().Set("X-Repo-Commit", commit)
	data, ok := files[name]
	switch {
	case files == nil:
		w.Header().Set("X-Error-Code", "RevisionNotFound")
		http.Error(w, "no", http.StatusNotFound)
	case !ok:
		w.Header().Set("X-Error-Code", "EntryNotFound")
		http.Error(w, "no", http.StatusNotFound)
	case f.isLarge(name):
		w.Header().Set("X-Linked-Etag", `"`+sum256(data)+`"`)
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(data)))
		http.Redirect(w, r, f.cdn.URL+"/"+sum256(data)+"?X-Amz-Signature=secret-of-the-signed-url", http.StatusFound)
	default:
		w.Header().Set("ETag", `"`+sumGit(data)+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func (f *fakeHub) serveBlob(w http.ResponseWriter, r *http.Request) {
	f.note(r, false)
	if f.faulty(w, r) {
		return
	}
	data := f.blob(r)
	if data == nil {
		http.Error(w, "no", http.StatusNotFound)
		return
	}
	w.Header().Set("ETag", `"other"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (f *fakeHub) blob(r *http.Request) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	sets := []map[string][]byte{f.files}
	for _, pr := range f.prs {
		sets = append(sets, pr)
	}
	for _, files := range sets {
		for _, data := range files {
			if sum256(data) == strings.TrimPrefix(r.URL.Path, "/") {
				return data
			}
		}
	}
	return nil
}

// setFault changes what goes wrong, between requests.
func (f *fakeHub) setFault(fault func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// onCDN is a fault of requests for large files alone.
func (f *fakeHub) onCDN(fault func(w http.ResponseWriter, r *http.Request, data []byte) bool) {
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		data := f.blob(r)
		return data != nil && r.Host == strings.TrimPrefix(f.cdn.URL, "http://") && fault(w, r, data)
	})
}
