package hub

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseName(t *testing.T) {
	for text, want := range map[string]Name{
		"smolvlm2-256m":                        {"HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "main", "smolvlm2-256m"},
		"SmolVLM2-256M":                        {"HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "main", "smolvlm2-256m"},
		"flash-vstream-7b":                     {"IVGSZ/Flash-VStream-7b", "refs/pr/1", "flash-vstream-7b"},
		"flash-vstream-7b@main":                {"IVGSZ/Flash-VStream-7b", "main", "flash-vstream-7b"},
		"a/b":                                  {"a/b", "main", ""},
		"a/b@refs/pr/12":                       {"a/b", "refs/pr/12", ""},
		"a/b@v1.0":                             {"a/b", "v1.0", ""},
		"a_b/c.d-e@" + strings.Repeat("a", 40): {"a_b/c.d-e", strings.Repeat("a", 40), ""},
	} {
		n, err := ParseName(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, n)
	}
	for _, bad := range []string{"", "nonsense", "/b", "a/", "a/b/c", "../b", "a/..", ".a/b", "a/b.", "a/b c", "a--b/c", "a/b@", "a/b@../x", "a/b@/x", "a/b@x//y",
		"a/b@.x", "a/b@x/.y", `a/b@x\y`, "a/b@x y", "a/b@x?y", "a/b@x.lock", "a/b@" + strings.Repeat("x", 300), "a\x00/b", `a\b/c`, "smolvlm2-256m@"} {
		_, err := ParseName(bad)
		assert.Error(t, err, "%q", bad)
	}
	n := mustName(t, "a/b@main")
	assert.Equal(t, "a/b", n.String())
	assert.Equal(t, "flash-vstream-7b", mustName(t, "flash-vstream-7b").String())
	assert.Equal(t, "flash-vstream-7b@main", mustName(t, "flash-vstream-7b@main").String())
}

func TestFromEnv(t *testing.T) {
	home := t.TempDir()
	tokenFile := filepath.Join(home, "token")
	require.NoError(t, os.WriteFile(tokenFile, []byte(canary+"\n"), 0o600))
	for _, tt := range []struct {
		env   []string
		cache string
		token string
	}{
		{nil, "", ""},
		{[]string{"HOME=/h"}, "/h/.cache/huggingface/hub", ""},
		{[]string{"HOME=/h", "XDG_CACHE_HOME=/x"}, "/x/huggingface/hub", ""},
		{[]string{"HOME=/h", "HF_HOME=~/hf"}, "/h/hf/hub", ""},
		{[]string{"HF_HOME=" + home}, home + "/hub", canary},
		{[]string{"HF_HOME=" + home, "HF_HUB_DISABLE_IMPLICIT_TOKEN=1"}, home + "/hub", ""},
		{[]string{"HF_HOME=" + home, "HF_HUB_CACHE=/c", "HF_TOKEN=t"}, "/c", "t"},
		{[]string{"HUGGINGFACE_HUB_CACHE=/c"}, "/c", ""},
		{[]string{"HF_TOKEN_PATH=" + tokenFile}, "", canary},
	} {
		h, err := FromEnv(env(tt.env...))
		require.NoError(t, err, "%v", tt.env)
		assert.Equal(t, tt.cache, filepath.ToSlash(h.Cache), "%v", tt.env)
		assert.Equal(t, tt.token, h.token(), "%v", tt.env)
		assert.Equal(t, DefaultEndpoint, h.endpoint.String())
	}
	for value, want := range map[string]bool{"1": true, "true": true, "YES": true, "0": false, "": false, "off": false} {
		h, err := FromEnv(env("HF_HUB_OFFLINE=" + value))
		require.NoError(t, err)
		assert.Equal(t, want, h.Offline, value)
	}
	for _, tt := range [][]string{{"HF_ENDPOINT=ftp://x"}, {"HF_ENDPOINT=huggingface.co"}, {"HF_ENDPOINT=https://u:" + canary + "@h"}, {"HF_ENDPOINT=https://h/?x=" + canary},
		{"HF_TOKEN=" + canary + " x"}, {"HF_TOKEN=" + canary + "\x01"}, {"HF_ENDPOINT=https://[" + canary}} {
		_, err := FromEnv(env(tt...))
		require.Error(t, err, "%v", tt)
		assert.NotContains(t, err.Error(), canary)
	}
	h, err := FromEnv(env("HF_ENDPOINT=https://mirror.example/hf/"))
	require.NoError(t, err)
	assert.Equal(t, "https://mirror.example/hf", h.endpoint.String())
	_, err = h.Pull(t.Context(), Name{Repo: "a/b", Revision: "main"}, PullOptions{})
	assert.ErrorContains(t, err, "set HF_HOME or HF_HUB_CACHE")
}

func TestResolve(t *testing.T) {
	f := newFakeHub(t)
	h := f.hub(t)
	t.Chdir(t.TempDir())
	require.NoError(t, os.MkdirAll("dir/sub", 0o755))
	require.NoError(t, os.WriteFile("file", nil, 0o644))
	dir, err := h.Resolve("dir/sub")
	require.NoError(t, err)
	assert.Equal(t, "dir/sub", dir, "a directory wins over ORG/NAME")
	for name, want := range map[string]string{
		"file":          "file is a file; name the directory that holds config.json",
		"nowhere":       `there is no directory nowhere, and no model of that name: "afterimage list models" shows names`,
		"./nowhere/x":   "there is no directory ./nowhere/x",
		"/nowhere/x":    "there is no directory /nowhere/x",
		"smolvlm2-256m": "smolvlm2-256m is not on this machine: afterimage pull smolvlm2-256m",
		"a/b@v1":        "a/b@v1 is not on this machine: afterimage pull a/b@v1",
	} {
		_, err := h.Resolve(name)
		assert.ErrorContains(t, err, want)
	}
	p := pulled(t, f, h)
	require.NoError(t, os.Remove(filepath.Join(filepath.Dir(filepath.Dir(p.Dir)), "blobs", sum256(f.files["model-00002-of-00002.safetensors"]))))
	_, err = h.Resolve(testRepo)
	assert.EqualError(t, err, "acme/tiny-vlm was not pulled to its end (model-00002-of-00002.safetensors is missing): afterimage pull acme/tiny-vlm")

	t.Setenv("HF_HUB_CACHE", h.Cache) // the function of that name
	_, err = Resolve(testRepo)
	assert.ErrorContains(t, err, "was not pulled to its end")
}

func TestModelsAndRemoval(t *testing.T) {
	f := newFakeHub(t)
	h := f.hub(t)
	list, err := h.Models()
	require.NoError(t, err)
	assert.Empty(t, list)
	old := pulled(t, f, h)
	f.mu.Lock()
	f.commit = strings.Repeat("ef", 20)
	f.refs["main"], f.refs["v1"] = f.commit, old.Commit
	f.files["model-00002-of-00002.safetensors"] = noise(56, 1<<20)
	f.mu.Unlock()
	now := pulled(t, f, h)
	require.NoError(t, os.MkdirAll(filepath.Join(h.Cache, "models--someone--bert", "snapshots", now.Commit), 0o755)) // no config.json
	require.NoError(t, os.MkdirAll(filepath.Join(h.Cache, "datasets--a--b", "snapshots", now.Commit), 0o755))

	list, err = h.Models()
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, testRepo, list[0].Repo)
	require.Len(t, list[0].Snapshots, 2)
	assert.InDelta(t, 5<<20, float64(list[0].Bytes), 256<<10, "what both share counts once")

	r, err := h.Removal(mustName(t, testRepo+"@"+old.Commit), false)
	require.NoError(t, err)
	assert.False(t, r.All)
	assert.InDelta(t, 1<<20, float64(r.Bytes), 64<<10, "only the shard that the other does not have")
	busy, ok, err := h.lock(r.Name, sum256(noise(2, 1<<20)))
	require.NoError(t, err)
	require.True(t, ok)
	require.ErrorContains(t, r.Run(), "is being pulled by another process: nothing was removed")
	require.NoError(t, busy.Close())
	require.NoError(t, r.Run())
	_, err = h.Resolve(testRepo + "@" + old.Commit)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	sameFiles(t, f, now.Dir)

	r, err = h.Removal(mustName(t, testRepo), true)
	require.NoError(t, err)
	assert.True(t, r.All)
	require.NoError(t, r.Run())
	assert.NoDirExists(t, filepath.Join(h.Cache, "models--acme--tiny-vlm"))
	_, err = h.Removal(mustName(t, testRepo), true)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = h.Removal(mustName(t, testRepo), false)
	require.True(t, errors.Is(err, fs.ErrNotExist))
}

func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range Catalogue {
		assert.False(t, seen[e.Short], e.Short)
		seen[e.Short] = true
		n, err := ParseName(e.Short)
		require.NoError(t, err, e.Short)
		assert.Equal(t, Name{e.Repo, e.Revision, e.Short}, n)
		for _, text := range []string{e.Family, e.For, e.Hardware, e.Memory} {
			assert.NotEmpty(t, text, e.Short)
		}
		assert.True(t, e.Bytes == 0 || e.Bytes > 1e8 && e.Bytes < 1e11, e.Short)
	}
	list, err := configs.ReadDir("configs")
	require.NoError(t, err)
	for _, c := range list {
		name, isJSON := strings.CutSuffix(c.Name(), ".json")
		_, ok := Find(name)
		assert.True(t, ok && isJSON, "configs/%s is of no entry", c.Name())
	}
	var without []string
	for _, e := range Catalogue {
		var c struct {
			Type string `json:"model_type"`
		}
		if e.Config() == nil {
			without = append(without, e.Short)
			continue
		}
		require.NoError(t, json.Unmarshal(e.Config(), &c), e.Short)
		assert.Equal(t, e.Family, c.Type, e.Short)
	}
	assert.Equal(t, []string{"flash-vstream-qwen-7b", "videochat-online-4b"}, without, "configs/README.md says so, too")
}

func FuzzListing(f *testing.F) {
	f.Add([]byte(`{"sha":"abababababababababababababababababababab","siblings":[{"rfilename":"config.json","size":3,"blobId":"abababababababababababababababababababab"},
		{"rfilename":"model.safetensors","lfs":{"sha256":"abababababababababababababababababababababababababababababababab","size":5}}],"tags":["license:mit"]}`))
	f.Add([]byte(`{"sha":"x"}`))
	f.Add([]byte(`[`))
	f.Add([]byte(`{"sha":"abababababababababababababababababababab","siblings":[{"rfilename":"../x"},{"rfilename":"a/b/../c"},{"lfs":null}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := parseListing(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x1b\x00") {
				t.Fatalf("%q", err)
			}
			return
		}
		for _, file := range l.files {
			if !filepath.IsLocal(filepath.FromSlash(file.Name)) || strings.Contains(file.Name, `\`) {
				t.Fatalf("name %q leaves the directory", file.Name)
			}
			if file.Size < -1 || file.hash != "" && !sha256Name.MatchString(file.hash) && !sha1Name.MatchString(file.hash) {
				t.Fatalf("%+v", file)
			}
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"x.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../x.safetensors"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		names, err := shardNames(data)
		if err != nil {
			return
		}
		for _, n := range names {
			if filepath.Base(n) != n || !filepath.IsLocal(n) {
				t.Fatalf("name %q leaves the directory", n)
			}
		}
	})
}
