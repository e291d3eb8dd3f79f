package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func pulled(t testing.TB, f *fakeHub, h *Hub) *Pulled {
	t.Helper()
	p, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
	require.NoError(t, err)
	sameFiles(t, f, p.Dir)
	return p
}

func mustName(t testing.TB, text string) Name {
	n, err := ParseName(text)
	require.NoError(t, err)
	return n
}

var wanted = []string{"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", indexFile, "preprocessor_config.json", "tokenizer.json"}

func sameFiles(t testing.TB, f *fakeHub, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var have []string
	for _, e := range list {
		have = append(have, e.Name())
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		assert.True(t, bytes.Equal(f.files[e.Name()], data), e.Name())
	}
	assert.Equal(t, wanted, have)
}

// noCanary reads every file of the cache.
func noCanary(t testing.TB, h *Hub, texts ...string) {
	t.Helper()
	for _, text := range texts {
		assert.NotContains(t, text, canary)
		assert.NotContains(t, text, "secret-of-the-signed-url")
	}
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", h, h, h), canary)
	require.NoError(t, filepath.WalkDir(h.Cache, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.False(t, bytes.Contains(data, []byte(canary)), path)
		}
		return err
	}))
}

func TestPull(t *testing.T) {
	f := newFakeHub(t)
	f.needs = true
	h := f.hub(t)
	_, err := h.Resolve(testRepo)
	require.ErrorContains(t, err, "acme/tiny-vlm is not on this machine: afterimage pull acme/tiny-vlm")

	var last Progress
	p, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{Progress: func(at Progress) { last = at }})
	require.NoError(t, err)
	sameFiles(t, f, p.Dir)
	assert.Equal(t, f.commit, p.Commit)
	assert.Equal(t, []string{"main"}, p.Refs)
	assert.Equal(t, "apache-2.0", p.Licence)
	assert.Equal(t, Progress{Files: 6, FilesDone: 6, Bytes: p.Bytes, BytesDone: p.Bytes}, last)

	to, err := os.Readlink(filepath.Join(p.Dir, "model-00001-of-00002.safetensors"))
	require.NoError(t, err)
	assert.Equal(t, "../../blobs/"+sum256(f.files["model-00001-of-00002.safetensors"]), to)
	to, err = os.Readlink(filepath.Join(p.Dir, "config.json"))
	require.NoError(t, err)
	assert.Equal(t, "../../blobs/"+sumGit(f.files["config.json"]), to)
	root := filepath.Join(h.Cache, "models--acme--tiny-vlm")
	ref, err := os.ReadFile(filepath.Join(root, "refs", "main"))
	require.NoError(t, err)
	assert.Equal(t, f.commit, string(ref))
	assert.FileExists(t, filepath.Join(root, ".no_exist", f.commit, "chat_template.json"))
	assert.NoFileExists(t, filepath.Join(root, ".no_exist", f.commit, "config.json"))
	left, err := filepath.Glob(filepath.Join(root, "*", "*incomplete*"))
	require.NoError(t, err)
	assert.Empty(t, left)

	assert.Empty(t, f.leaked, "the token went to another host")
	assert.NotZero(t, f.tokens)
	noCanary(t, h)

	dir, err := h.Resolve(testRepo)
	require.NoError(t, err)
	assert.Equal(t, p.Dir, dir)
	dir, err = h.Resolve(testRepo + "@" + f.commit)
	require.NoError(t, err)
	assert.Equal(t, p.Dir, dir)

	before := f.asked("GET /")
	again := pulled(t, f, h) // asks what there is, and nothing else
	assert.Equal(t, p.Dir, again.Dir)
	assert.Equal(t, before+1, f.asked("GET /"))

	h.Offline = true
	off, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
	require.NoError(t, err)
	assert.Equal(t, p.Dir, off.Dir)
	_, err = h.Pull(t.Context(), mustName(t, "acme/other"), PullOptions{})
	require.ErrorContains(t, err, "--offline")
	assert.Equal(t, before+1, f.asked("GET /"), "offline asks nothing")
}

func TestPullResumes(t *testing.T) {
	f := newFakeHub(t)
	big := "model-00001-of-00002.safetensors"
	var cut atomic.Int32
	f.onCDN(func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		if len(data) != len(f.files[big]) || r.Header.Get("Range") != "" || cut.Add(1) > 1 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:1<<20])
		panic(http.ErrAbortHandler) // the connection breaks
	})
	pulled(t, f, f.hub(t))
	assert.Equal(t, 2, f.asked(" bytes=1048576-"), "hub and other host: %v", f.requests)
}

// TestPartRefused is a server that says of a part, once, that there is no such part: all is fetched anew.
func TestPartRefused(t *testing.T) {
	f := newFakeHub(t)
	big := "model-00001-of-00002.safetensors"
	var step atomic.Int32
	f.onCDN(func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		if len(data) != len(f.files[big]) {
			return false
		}
		switch step.Add(1) {
		case 1:
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:1<<20])
			panic(http.ErrAbortHandler)
		case 2:
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		case 3:
			assert.Empty(t, r.Header.Get("Range"))
		}
		return false
	})
	pulled(t, f, f.hub(t))
	assert.Equal(t, int32(3), step.Load())
}

// TestPartIgnored is a server that sends all where a part was asked for.
func TestPartIgnored(t *testing.T) {
	f := newFakeHub(t)
	big := "model-00001-of-00002.safetensors"
	var first atomic.Bool
	f.onCDN(func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		if len(data) != len(f.files[big]) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if first.CompareAndSwap(false, true) {
			_, _ = w.Write(data[:1<<20])
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(data)
		return true
	})
	pulled(t, f, f.hub(t))
}

// TestPullFaults is servers that fail for a while, and a pull that gets through.
func TestPullFaults(t *testing.T) {
	cut := func(n int) func(w http.ResponseWriter, data []byte) {
		return func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:n])
			panic(http.ErrAbortHandler)
		}
	}
	for name, fail := range map[string]func(w http.ResponseWriter, data []byte){
		"429":         func(w http.ResponseWriter, _ []byte) { w.Header().Set("Retry-After", "nonsense"); w.WriteHeader(429) },
		"500":         func(w http.ResponseWriter, _ []byte) { w.WriteHeader(500) },
		"503":         func(w http.ResponseWriter, _ []byte) { w.WriteHeader(503) },
		"cut":         cut(100),
		"cut at once": cut(0),
		"short, and says so by closing": func(w http.ResponseWriter, data []byte) {
			w.(http.Flusher).Flush() // no Content-Length
			_, _ = w.Write(data[:1000])
		},
		"stalls": func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:1000])
			w.(http.Flusher).Flush()
			time.Sleep(time.Second)
		},
		"stalls before headers": func(w http.ResponseWriter, data []byte) { time.Sleep(time.Second) },
		"another file":          func(w http.ResponseWriter, data []byte) { _, _ = w.Write(noise(77, len(data))) },
		"the wrong part": func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Range", "bytes 5-9/10")
			w.WriteHeader(206)
		},
		"416": func(w http.ResponseWriter, data []byte) { w.WriteHeader(500) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeHub(t)
			var first atomic.Bool
			f.onCDN(func(w http.ResponseWriter, r *http.Request, data []byte) bool {
				if !first.CompareAndSwap(false, true) {
					return false
				}
				fail(w, data)
				return true
			})
			h := f.hub(t)
			h.stall = 10 * time.Second
			if strings.HasPrefix(name, "stalls") {
				h.stall = 200 * time.Millisecond
			}
			var troubles atomic.Int32
			h.Trouble = func(err error, _ time.Duration) { troubles.Add(1); noCanary(t, h, err.Error()) }
			pulled(t, f, h)
			if strings.HasPrefix(name, "stalls") {
				assert.Positive(t, troubles.Load()) // this machine may stall, too
			} else {
				assert.Equal(t, int32(1), troubles.Load())
			}
			assert.Empty(t, f.leaked)
		})
	}
}

// TestPullRefuses is servers that lie, and what is said of it. Nothing of the kind is retried for ever, and no name leads to a model.
func TestPullRefuses(t *testing.T) {
	shard := "model-00002-of-00002.safetensors"
	list := func(change func(siblings []any) []any) func(t *testing.T, f *fakeHub) {
		return func(t *testing.T, f *fakeHub) {
			f.listing = func(m map[string]any) { m["siblings"] = change(m["siblings"].([]any)) }
		}
	}
	rename := func(name string) func(t *testing.T, f *fakeHub) {
		return list(func(s []any) []any {
			return append(s, map[string]any{"rfilename": name, "size": 1, "blobId": sumGit(nil)})
		})
	}
	set := func(key string, v any) func(t *testing.T, f *fakeHub) {
		return list(func(s []any) []any {
			for _, x := range s {
				if m := x.(map[string]any); m["rfilename"] == shard {
					m["lfs"].(map[string]any)[key] = v
				}
			}
			return s
		})
	}
	answer := func(code int, header ...string) func(t *testing.T, f *fakeHub) {
		return func(t *testing.T, f *fakeHub) {
			f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				for i := 0; i < len(header); i += 2 {
					w.Header().Set(header[i], header[i+1])
				}
				w.WriteHeader(code)
				fmt.Fprint(w, "<html>\x1b[31mmalice</html>")
				return true
			})
		}
	}
	headers := func(code int, pairs ...string) func(t *testing.T, f *fakeHub) {
		return func(t *testing.T, f *fakeHub) {
			f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/resolve/"+f.commit+"/"+shard) {
					return false
				}
				for i := 0; i < len(pairs); i += 2 {
					w.Header().Set(pairs[i], pairs[i+1])
				}
				w.WriteHeader(code)
				return true
			})
		}
	}
	body := func(serve func(w http.ResponseWriter, data []byte)) func(t *testing.T, f *fakeHub) {
		return func(t *testing.T, f *fakeHub) {
			f.onCDN(func(w http.ResponseWriter, r *http.Request, data []byte) bool {
				if len(data) != len(f.files[shard]) {
					return false
				}
				serve(w, data)
				return true
			})
		}
	}
	for _, tt := range []struct {
		name  string
		setUp func(t *testing.T, f *fakeHub)
		want  string
	}{
		{"parent", rename("../../evil"), `file name "../../evil" is not one that stays inside a directory`},
		{"parent inside", rename("a/../../b"), "is not one that stays inside"},
		{"absolute", rename("/etc/passwd"), "is not one that stays inside"},
		{"backslash", rename(`..\evil.json`), "is not one that stays inside"},
		{"drive", rename(`C:evil`), "is not one that stays inside"},
		{"empty", rename(""), "is not one that stays inside"},
		{"control", rename("a\x1b[2Jb"), "is not one that stays inside"},
		{"long", rename(strings.Repeat("x", 600)), "is not one that stays inside"},
		{"deep", rename(strings.Repeat("x/", 40) + "x"), "is not one that stays inside"},
		{"twice", rename("config.json"), `"config.json" is listed twice`},
		{"many", list(func(s []any) []any {
			for i := range maxFiles {
				s = append(s, map[string]any{"rfilename": fmt.Sprint(i)})
			}
			return s
		}), "more than the 20000"},
		{"negative size", set("size", -1), "size -1 is out of range"},
		{"huge size", set("size", int64(1)<<62), "is out of range"},
		{"no hash", set("sha256", "xyz"), "is neither sha256 nor sha1"},
		{"hash with a path", set("sha256", "../../../../../../tmp/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), "is neither sha256 nor sha1"},
		{"hash is a lie", set("sha256", strings.Repeat("0", 64)), "lists the hash 0000"},
		{"size is a lie", set("size", 1<<20+1), "lists 1048577 bytes and then says"},
		{"bad commit", func(t *testing.T, f *fakeHub) { f.listing = func(m map[string]any) { m["sha"] = "../../x" } }, "is no commit"},
		{"no JSON", func(t *testing.T, f *fakeHub) {
			f.setFault(func(w http.ResponseWriter, r *http.Request) bool { fmt.Fprint(w, "<html>"); return true })
		}, "no JSON that is understood"},
		{"endless list", func(t *testing.T, f *fakeHub) {
			f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				for err := error(nil); err == nil; {
					_, err = w.Write(bytes.Repeat([]byte(" "), 1<<20))
				}
				return true
			})
		}, "an answer longer than 16 MiB"},
		{"401", answer(401), "HF_TOKEN is not accepted"},
		{"gated", answer(403, "X-Error-Code", "GatedRepo"), "is gated: accept its terms at "},
		{"403", answer(403), "the account may not read acme/tiny-vlm"},
		{"404", answer(404, "X-Error-Code", "RepoNotFound"), "there is no acme/tiny-vlm at revision main"},
		{"no revision", answer(404, "X-Error-Code", "RevisionNotFound"), "acme/tiny-vlm has no revision main"},
		{"500 for ever", answer(500), "says 500 internal server error (tried 4 times)"},
		{"418", answer(418), "says 418"},
		{"other commit", headers(200, "X-Repo-Commit", strings.Repeat("12", 20)), "gives the file of commit"},
		{"other hash", headers(200, "X-Linked-Etag", `"`+strings.Repeat("1", 64)+`"`), "and then says 1111"},
		{"redirects for ever", func(t *testing.T, f *fakeHub) {
			f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, r.URL.Path, http.StatusFound)
				return true
			})
		}, "more than 5 redirects"},
		{"redirect to a file", headers(302, "Location", "file:///etc/passwd"), "refused"},
		{"redirect with a password", headers(302, "Location", "http://u:p@127.0.0.1/"), "is refused"},
		{"redirect nowhere", headers(302), "leads nowhere"},
		{"other content", body(func(w http.ResponseWriter, data []byte) { _, _ = w.Write(noise(78, len(data))) }), "twice, so"},
		{"content length too long", body(func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)+1))
			_, _ = w.Write(data)
		}), "announces 1048577 bytes where 1048576 are left"},
		{"endless file", body(func(w http.ResponseWriter, data []byte) {
			w.(http.Flusher).Flush()
			for err := error(nil); err == nil; {
				_, err = w.Write(data)
			}
		}), "sends more than the 1048576 bytes"},
		{"a page", body(func(w http.ResponseWriter, data []byte) { fmt.Fprint(w, "<html>please log in</html>") }), "a proxy that answers in its place?"},
		{"never ends", body(func(w http.ResponseWriter, data []byte) { w.WriteHeader(500) }), "model-00002-of-00002.safetensors: "},
		{"no config", func(t *testing.T, f *fakeHub) { delete(f.files, "config.json") }, "has no config.json"},
		{"large config", list(func(s []any) []any {
			for _, x := range s {
				if m := x.(map[string]any); m["rfilename"] == "config.json" {
					m["size"] = 1 << 30
				}
			}
			return s
		}), "config.json: 1073741824 bytes are more than"},
		{"index elsewhere", func(t *testing.T, f *fakeHub) { f.files[indexFile] = []byte(`{"weight_map":{"a":"../x.safetensors"}}`) }, "is not the name of a safetensors file beside it"},
		{"index of absent", func(t *testing.T, f *fakeHub) { f.files[indexFile] = []byte(`{"weight_map":{"a":"x.safetensors"}}`) }, "names x.safetensors, which acme/tiny-vlm does not have"},
		{"index of nothing", func(t *testing.T, f *fakeHub) { f.files[indexFile] = []byte(`{}`) }, "weight_map is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeHub(t)
			tt.setUp(t, f)
			h := f.hub(t)
			h.retries = 3
			_, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
			require.ErrorContains(t, err, tt.want)
			assert.True(t, strings.HasPrefix(err.Error(), "pull acme/tiny-vlm: "), err.Error())
			assert.NotContains(t, err.Error(), "\n")
			assert.NotContains(t, err.Error(), "malice")
			assert.NotContains(t, err.Error(), "\x1b")
			noCanary(t, h, err.Error())
			assert.Empty(t, f.leaked)
			_, err = h.Resolve(testRepo)
			assert.Error(t, err, "half a model must not be found")
			above, err := os.ReadDir(filepath.Dir(h.Cache))
			require.NoError(t, err)
			assert.LessOrEqual(t, len(above), 1, "nothing beside the cache")
		})
	}
}

func TestPickles(t *testing.T) {
	for _, tt := range []struct {
		name string
		prs  map[string]map[string][]byte
		bot  []int
		want string
	}{
		{"the converter's", map[string]map[string][]byte{"refs/pr/1": {"config.json": []byte("{}"), singleFile: noise(6, 100)}}, []int{1},
			"the hub's converter has put safetensors on refs/pr/1: afterimage pull acme/tiny-vlm@refs/pr/1"},
		{"somebody's", map[string]map[string][]byte{"refs/pr/7": {"config.json": []byte("{}"), singleFile: noise(6, 100)}}, nil,
			"pull request refs/pr/7 has safetensors (look at who made it)"},
		{"none", map[string]map[string][]byte{"refs/pr/7": {"config.json": []byte("{}")}}, nil, "no pull request with safetensors was found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeHub(t)
			f.files = map[string][]byte{"config.json": []byte("{}"), "pytorch_model-00001-of-00001.bin": noise(1, 100)}
			f.prs, f.bot = tt.prs, tt.bot
			h := f.hub(t)
			_, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
			require.ErrorContains(t, err, "weights as Python pickles only (pytorch_model-00001-of-00001.bin)")
			require.ErrorContains(t, err, tt.want)
			assert.Zero(t, f.asked(".bin"))
			if tt.bot == nil {
				return
			}
			p, err := h.Pull(t.Context(), mustName(t, testRepo+"@refs/pr/1"), PullOptions{})
			require.NoError(t, err)
			assert.Equal(t, []string{"refs/pr/1"}, p.Refs)
			assert.Equal(t, "acme/tiny-vlm@refs/pr/1", p.Name().String())
			_, err = h.Resolve(testRepo)
			assert.ErrorContains(t, err, "not on this machine")
		})
	}
}

// TestRedirects is where the token may go.
func TestRedirects(t *testing.T) {
	f := newFakeHub(t)
	f.needs = true
	f.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/api/models/old/name") {
			http.Redirect(w, r, strings.Replace(r.URL.Path, "old/name", testRepo, 1)+"?blobs=true", http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	l, err := f.hub(t).list(t.Context(), mustName(t, "old/name")) // renamed: the same host, so with the token
	require.NoError(t, err)
	assert.Equal(t, f.commit, l.commit)

	u := func(s string) *Hub {
		h, err := FromEnv(env("HF_ENDPOINT="+s, "HF_TOKEN="+canary))
		require.NoError(t, err)
		return h
	}
	for _, tt := range []struct {
		endpoint, to string
		want         bool
	}{
		{"https://huggingface.co", "https://huggingface.co", true},
		{"https://huggingface.co", "https://HUGGINGFACE.co", true},
		{"https://huggingface.co", "https://cdn.huggingface.co", false},
		{"https://huggingface.co", "https://huggingface.co.evil.example", false},
		{"https://huggingface.co", "https://huggingface.co:8443", false},
		{"https://huggingface.co", "http://huggingface.co", false},
		{"http://mirror.example", "http://mirror.example", false},
		{"http://127.0.0.1:9", "http://127.0.0.1:9", true},
		{"http://localhost:9", "http://localhost:9", true},
	} {
		assert.Equal(t, tt.want, u(tt.endpoint).mayHaveToken(u(tt.to).endpoint), "%s -> %s", tt.endpoint, tt.to)
	}
}

func TestNoDowngrade(t *testing.T) {
	plain := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { plain++ }))
	defer other.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusFound)
	}))
	defer secure.Close()
	h, err := FromEnv(env("HF_ENDPOINT="+secure.URL, "HF_TOKEN="+canary, "HF_HUB_CACHE="+t.TempDir()))
	require.NoError(t, err)
	h.pause = time.Millisecond
	_, err = h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
	require.ErrorContains(t, err, "certificate") // is checked, and not tried again and again
	h.http.Transport = secure.Client().Transport
	_, err = h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
	require.ErrorIs(t, err, errDowngrade)
	assert.Zero(t, plain)
	noCanary(t, h, err.Error())
}

// TestChangedWhileResuming is a file that is another one the second time: what is here of the first is never joined to it.
func TestChangedWhileResuming(t *testing.T) {
	f := newFakeHub(t)
	h := f.hub(t)
	h.retries = 0
	big := "model-00001-of-00002.safetensors"
	f.onCDN(func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		if len(data) != len(f.files[big]) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:2<<20])
		panic(http.ErrAbortHandler)
	})
	_, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
	require.ErrorContains(t, err, big)
	root := filepath.Join(h.Cache, "models--acme--tiny-vlm")
	part := filepath.Join(root, "blobs", sum256(f.files[big])+incomplete)
	info, err := os.Stat(part)
	require.NoError(t, err)
	assert.NotZero(t, info.Size())

	// What is here was changed by whatever: the hash says so, and all is fetched again.
	require.NoError(t, os.WriteFile(part, noise(99, 2<<20), 0o644))
	f.setFault(nil)
	h.retries = 3
	pulled(t, f, h)

	// The next commit has another file of the same name and size.
	f.mu.Lock()
	f.commit = strings.Repeat("ef", 20)
	f.refs["main"] = f.commit
	f.files[big] = noise(55, 3<<20)
	f.mu.Unlock()
	p := pulled(t, f, h)
	assert.Equal(t, f.commit, p.Commit)
	old, err := h.Snapshot(mustName(t, testRepo+"@"+strings.Repeat("ab", 20)))
	require.NoError(t, err)
	assert.Empty(t, old.Missing, "the old one stays whole")
	assert.Empty(t, old.Refs)
}

func TestVerify(t *testing.T) {
	f := newFakeHub(t)
	h := f.hub(t)
	p := pulled(t, f, h)
	blob := filepath.Join(filepath.Dir(filepath.Dir(p.Dir)), "blobs", sum256(f.files["tokenizer.json"]))
	data := bytes.Clone(f.files["tokenizer.json"])
	data[5] ^= 1
	require.NoError(t, os.WriteFile(blob, data, 0o644))
	_, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{Verify: true})
	require.NoError(t, err)
	sameFiles(t, f, p.Dir)

	require.NoError(t, os.Truncate(blob, 7)) // a wrong size is seen without reading
	pulled(t, f, h)
}

// TestNoBlobList is a mirror whose list has names alone: sizes and hashes come from headers.
func TestNoBlobList(t *testing.T) {
	f := newFakeHub(t)
	f.listing = func(m map[string]any) {
		for _, s := range m["siblings"].([]any) {
			delete(s.(map[string]any), "size")
			delete(s.(map[string]any), "blobId")
			delete(s.(map[string]any), "lfs")
		}
	}
	pulled(t, f, f.hub(t))
	assert.Equal(t, len(wanted), f.asked("HEAD "))
}

func TestPlainFiles(t *testing.T) { // where the file system has no links, others leave copies
	f := newFakeHub(t)
	h := f.hub(t)
	p := pulled(t, f, h)
	name := filepath.Join(p.Dir, "config.json")
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, os.Remove(name))
	require.NoError(t, os.WriteFile(name, data, 0o644))
	dir, err := h.Resolve(testRepo)
	require.NoError(t, err)
	assert.Equal(t, p.Dir, dir)

	w := &pull{h: h, n: mustName(t, testRepo), list: &listing{commit: p.Commit}, dir: filepath.Dir(filepath.Dir(p.Dir))}
	w.root, err = os.OpenRoot(w.dir)
	require.NoError(t, err)
	defer w.root.Close()
	require.NoError(t, w.copyBlob(File{Name: "config.json", Size: int64(len(data)), hash: sumGit(data)}, filepath.Join("snapshots", p.Commit, "copy.json")))
	have, err := os.ReadFile(filepath.Join(p.Dir, "copy.json"))
	require.NoError(t, err)
	assert.Equal(t, data, have)
}

func TestLinksThatLeadOut(t *testing.T) {
	f := newFakeHub(t)
	h := f.hub(t)
	outside := t.TempDir()
	root := filepath.Join(h.Cache, "models--acme--tiny-vlm")
	require.NoError(t, os.MkdirAll(root, 0o755))
	require.NoError(t, os.Symlink(outside, filepath.Join(root, "blobs")))
	_, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
	require.Error(t, err)
	list, err := os.ReadDir(outside)
	require.NoError(t, err)
	assert.Empty(t, list, "written through a link that leads out of the cache")

	require.NoError(t, os.Remove(filepath.Join(root, "blobs")))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "blobs"), 0o755))
	victim := filepath.Join(outside, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o644))
	part := sum256(f.files["tokenizer.json"]) + incomplete
	require.NoError(t, os.Symlink(victim, filepath.Join(root, "blobs", part)))
	pulled(t, f, h)
	data, err := os.ReadFile(victim)
	require.NoError(t, err)
	assert.Equal(t, "precious", string(data))
}

func TestNoRoom(t *testing.T) {
	f := newFakeHub(t)
	h := f.hub(t)
	h.free = func(string) (int64, error) { return 17 << 20, nil } // the small files fit
	_, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
	require.ErrorContains(t, err, "0.00 GB more are needed and 0.02 GB are free in "+h.Cache)
	require.ErrorContains(t, err, "afterimage rm")
	assert.Zero(t, f.asked("/resolve/"+f.commit+"/model-0"), "nothing large is begun")
}

// TestFullDisk fills a file system of two megabytes, where the system lets it be made.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=2m", "none", dir).CombinedOutput(); err != nil {
		t.Skipf("no small file system can be made here: %s", bytes.TrimSpace(out))
	}
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() })
	f := newFakeHub(t)
	h := f.hub(t)
	h.Cache = dir
	h.free = func(string) (int64, error) { return 1 << 40, nil } // it was free when it was asked
	_, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{})
	require.ErrorContains(t, err, "the disk is full: make room and run the same command again")
	require.True(t, diskFull(err))
}

func TestCancelled(t *testing.T) {
	f := newFakeHub(t)
	h := f.hub(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.onCDN(func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		if len(data) < 2<<20 || ctx.Err() != nil {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:1<<20])
		w.(http.Flusher).Flush()
		time.AfterFunc(50*time.Millisecond, cancel)
		<-r.Context().Done()
		return true
	})
	_, err := h.Pull(ctx, mustName(t, testRepo), PullOptions{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = h.Resolve(testRepo)
	require.ErrorContains(t, err, "not on this machine")
	pulled(t, f, h)
	assert.Equal(t, 2, f.asked(" bytes=1048576-"), "hub and other host, where it stopped: %v", f.requests)
}

// TestPullProcess is not a test: it is the other process of the tests below.
func TestPullProcess(t *testing.T) {
	name := os.Getenv("AFTERIMAGE_TEST_PULL")
	if name == "" {
		t.Skip("run by other tests")
	}
	h, err := FromEnv(os.LookupEnv)
	require.NoError(t, err)
	h.pause = 10 * time.Millisecond
	p, err := h.Pull(t.Context(), mustName(t, name), PullOptions{})
	require.NoError(t, err)
	fmt.Println("pulled", p.Dir)
}

func (f *fakeHub) process(t *testing.T, cache string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	c := exec.Command(self, "-test.run", "^TestPullProcess$", "-test.v")
	c.Env = append(os.Environ(), "AFTERIMAGE_TEST_PULL="+testRepo, "HF_ENDPOINT="+f.URL, "HF_TOKEN="+canary, "HF_HUB_CACHE="+cache)
	return c
}

func TestTwoProcesses(t *testing.T) {
	f := newFakeHub(t)
	f.onCDN(func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		time.Sleep(100 * time.Millisecond) // so that both are at it
		return false
	})
	cache := t.TempDir()
	var outs [3]bytes.Buffer
	var all []*exec.Cmd
	for i := range outs {
		c := f.process(t, cache)
		c.Stdout, c.Stderr = &outs[i], &outs[i]
		require.NoError(t, c.Start())
		all = append(all, c)
	}
	for i, c := range all {
		require.NoError(t, c.Wait(), outs[i].String())
		assert.Contains(t, outs[i].String(), "pulled ")
		assert.NotContains(t, outs[i].String(), canary)
	}
	for name, data := range f.files {
		if f.large[name] && name != "pytorch_model.bin" {
			assert.Equal(t, 1, f.asked("GET /"+sum256(data)), "%s came once", name)
		}
	}
	h := f.hub(t)
	h.Cache = cache
	s, err := h.Snapshot(mustName(t, testRepo))
	require.NoError(t, err)
	sameFiles(t, f, s.Dir)
}

func TestKilled(t *testing.T) {
	f := newFakeHub(t)
	slow := make(chan struct{})
	f.onCDN(func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		if len(data) < 2<<20 || r.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:1<<20])
		w.(http.Flusher).Flush()
		close(slow)
		<-r.Context().Done()
		return true
	})
	h := f.hub(t)
	c := f.process(t, h.Cache)
	require.NoError(t, c.Start())
	<-slow
	time.Sleep(200 * time.Millisecond)
	require.NoError(t, c.Process.Kill())
	_ = c.Wait()
	_, err := h.Resolve(testRepo)
	require.Error(t, err)
	pulled(t, f, h)
	assert.Equal(t, 2, f.asked(" bytes=1048576-"), "hub and other host, where it was killed: %v", f.requests)
}

func TestErrorsAreTemporaryWhereTheyShouldBe(t *testing.T) {
	var temp temporary
	assert.ErrorAs(t, fmt.Errorf("x: %w", temporary{errStalled}), &temp)
	assert.False(t, errors.As(errDowngrade, &temp))
}
