package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/hub"
	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
	"afterimage/internal/weights"
	"afterimage/llm"
)

// servedModel is a hub that has a random model as acme/street, and the program's environment for it.
func servedModel(t *testing.T) (environ []string, files map[string][]byte) {
	dir := randomModel(t)
	files = map[string][]byte{}
	for _, name := range []string{"config.json", "tokenizer.json", "model.safetensors"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		files[name] = data
	}
	commit := strings.Repeat("5a", 20)
	sum := func(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+canary {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/api/models/acme/street/revision/") {
			list := []any{}
			for name, data := range files {
				list = append(list, map[string]any{"rfilename": name, "size": len(data), "lfs": map[string]any{"sha256": sum(data), "size": len(data)}})
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": list, "tags": []string{"license:mit"}})
			return
		}
		data, ok := files[strings.TrimPrefix(r.URL.Path, "/acme/street/resolve/"+commit+"/")]
		if !ok {
			w.Header().Set("X-Error-Code", "RepoNotFound")
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("X-Repo-Commit", commit)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(server.Close)
	environ = []string{"HF_ENDPOINT=" + server.URL, "HF_TOKEN=" + canary, "HF_HUB_CACHE=" + t.TempDir()}
	for _, e := range environ {
		k, v, _ := strings.Cut(e, "=")
		t.Setenv(k, v)
	}
	return environ, files
}

// commandIn is command with an environment and something typed; typed "" is no terminal.
func commandIn(t *testing.T, environ []string, typed string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e lockedBuffer
	code = run(t.Context(), args, &app{in: strings.NewReader(typed), inTTY: typed != "", out: &o, err: &e, lookup: environment(environ...)})
	return code, o.String(), e.String()
}

func TestModelVerbs(t *testing.T) {
	clean(t)
	env, files := servedModel(t)
	said := ""
	verb := func(typed string, want int, args ...string) string {
		t.Helper()
		code, out, errs := commandIn(t, env, typed, args...)
		require.Equal(t, want, code, errs)
		said += out + errs
		return out + errs
	}
	assert.Contains(t, verb("", 1, "--model", "acme/street", "ask", "sim://street", "what"), "model: acme/street is not on this machine: afterimage pull acme/street")
	assert.Contains(t, verb("", 1, "pull", "acme/street", "--offline"), "--offline")
	assert.Contains(t, verb("", 1, "pull", "acme/nothing"), "says 404 not found: there is no acme/nothing at revision main")
	assert.Contains(t, verb("", 1, "show", "acme/street"), "show: acme/street is not on this machine")

	out := verb("", 0, "pull", "acme/street")
	assert.Contains(t, out, "acme/street is in ")
	assert.Contains(t, out, "in 3 files, licence: mit\nuse it:  afterimage serve --model acme/street config.yaml\n")
	dir, err := hub.Resolve("acme/street")
	require.NoError(t, err)
	for name, data := range files {
		have, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, have), name)
	}
	verb("", 0, "pull", "acme/street", "--verify")

	out = verb("", 0, "list")
	assert.Regexp(t, `on this machine, in .*:\n  acme/street +[0-9.]+ MiB +5a5a5a5a +afterimage_vlm\n\ncan be pulled`, out)
	var docs []modelDoc
	require.NoError(t, json.Unmarshal([]byte(verb("", 0, "list", "models", "--json")), &docs))
	require.Len(t, docs, 1+len(hub.Catalogue))
	assert.Equal(t, "acme/street", docs[0].Name)
	assert.True(t, docs[0].Here)

	out = verb("", 0, "show", "acme/street")
	for _, want := range []string{"family    afterimage_vlm\n", "licence   not known here", "decoder   2 layers of 384", "tower     2 layers of 256",
		"commit    " + strings.Repeat("5a", 20) + " main\n", "billion numbers: in memory bf16 ", "file      model.safetensors"} {
		assert.Contains(t, out, want)
	}
	var doc showDoc
	require.NoError(t, json.Unmarshal([]byte(verb("", 0, "show", "acme/street", "--json")), &doc))
	ck, err := weights.Open(os.DirFS(dir))
	require.NoError(t, err)
	matrices, vectors := ck.Count()
	require.NoError(t, ck.Close())
	assert.Equal(t, 2*matrices+4*vectors, doc.Weights["bf16"])
	out = verb("", 0, "show", "flash-vstream-7b")
	assert.Contains(t, out, "here      no; 14.1 GB of weights: afterimage pull flash-vstream-7b\n")
	assert.Contains(t, out, "681 rows a question")

	// A configuration names it, too, unless there is a directory of that name beside it.
	cfg, err := LoadConfig(writeConfig(t, "model: acme/street\nstreams: {a: sim://street}\n"), nil)
	require.NoError(t, err)
	assert.Equal(t, "acme/street", cfg.Model)
	assert.Contains(t, verb("", 0, "--model", "acme/street", "ask", "sim://street?seed=100001", "What?", "--for", "2s"), "tokens/s")

	assert.Contains(t, verb("", 1, "rm", "acme/street"), "rm: this would remove acme/street (")
	assert.Contains(t, verb("n\n", 0, "rm", "acme/street"), "nothing was removed")
	assert.DirExists(t, dir)
	assert.Contains(t, verb("y\n", 0, "rm", "acme/street"), "removed acme/street (")
	assert.NoDirExists(t, dir)
	assert.Contains(t, verb("", 1, "rm", "acme/street", "--yes"), "rm: acme/street is not on this machine")
	assert.NotContains(t, said, canary)
}

func TestDownloadShows(t *testing.T) {
	now := time.Unix(0, 0)
	var out bytes.Buffer
	feed := func(tty bool) string {
		out.Reset()
		d := newDownload(&out, tty)
		d.now = func() time.Time { return now }
		p := hub.Progress{Files: 3, Bytes: 300 << 20, BytesDone: 100 << 20, BytesHere: 100 << 20} // a third was here
		for range 25 {
			d.show(p)
			now = now.Add(time.Second)
			p.BytesDone += 4 << 20
		}
		p.Waiting = "model.safetensors"
		d.show(p)
		d.trouble(fmt.Errorf("x.example: stalled"), 2*time.Second)
		d.end()
		return out.String()
	}
	plain := feed(false)
	assert.Equal(t, "0 of 3 files, 140 MiB of 300 MiB, 4 MiB/s, 40s left\n0 of 3 files, 180 MiB of 300 MiB, 4 MiB/s, 30s left\n"+
		"another process is pulling model.safetensors; waiting for it\nx.example: stalled; again in 2s\n", plain)
	drawn := feed(true)
	assert.Equal(t, 2, strings.Count(drawn, "\n"), "one line is drawn again and again")
	assert.Contains(t, drawn, eraseLine+"0 of 3 files, 180 MiB of 300 MiB, 4 MiB/s, 30s left")
	assert.True(t, strings.HasSuffix(drawn, eraseLine))
}

// textConfig is a decoder whose layers cost enough to be told from noise.
const textConfig = `{"model_type":"llama","hidden_size":384,"num_hidden_layers":12,"num_attention_heads":6,"num_key_value_heads":6,"head_dim":64,
"intermediate_size":1536,"rms_norm_eps":1e-5,"rope_theta":10000.0,"vocab_size":4096,"max_position_embeddings":512,"tie_word_embeddings":true}`

// TestScaledLayers holds what is scaled from a few layers against the whole, by the processor's time: the machine may be busy.
func TestScaledLayers(t *testing.T) {
	dev, err := cpu.Open(1, "")
	require.NoError(t, err)
	defer dev.Close()
	files := weights.Random{Config: []byte(textConfig), Seed: 1}
	c, err := llm.ReadConfig(files)
	require.NoError(t, err)
	spent := func() time.Duration {
		u, err := usage()
		require.NoError(t, err)
		return u.CPU
	}
	d, err := timeDecoders(t.Context(), dev, files, c, compute.BF16, []int{fewLayers, moreLayers, c.Layers}, false, spent)
	require.NoError(t, err)
	few, more, whole := d[0], d[1], d[2]
	scaled := few.scaled(more, c.Layers)
	t.Logf("first token %s, whole %s; token %s, whole %s", scaled.cold, whole.cold, scaled.token, whole.token)
	assert.InEpsilon(t, whole.bytes, scaled.bytes, 1e-3, "memory is what it is")
	assert.InEpsilon(t, whole.cold, scaled.cold, 0.25)
	assert.InEpsilon(t, whole.token, scaled.token, 0.5, "a token takes some milliseconds, which is little to time")
}

func TestWithLayers(t *testing.T) {
	for _, tt := range [][2]string{
		{`{"num_hidden_layers":32,"layer_types":["a","b","c"]}`, `{"num_hidden_layers":2,"layer_types":["a","b"]}`},
		{`{"text_config":{"hidden_size":3},"num_hidden_layers":9}`, `{"text_config":{"hidden_size":3,"num_hidden_layers":2},"num_hidden_layers":9}`},
		{`{"llm_config":{"num_hidden_layers":4},"vision_config":{"num_hidden_layers":5}}`, `{"llm_config":{"num_hidden_layers":2},"vision_config":{"num_hidden_layers":5}}`},
	} {
		got, err := withLayers([]byte(tt[0]), 2)
		require.NoError(t, err)
		assert.JSONEq(t, tt[1], string(got))
	}
	_, err := withLayers([]byte(`[`), 2)
	assert.ErrorContains(t, err, "config.json")
}

func TestAdvise(t *testing.T) {
	slow := fit{quant: "bf16", frames: 5, cold: time.Second, token: 200 * time.Millisecond}
	fast := fit{quant: "int8", frames: 5, cold: time.Second, token: 90 * time.Millisecond}
	fastest := fit{quant: "int4", frames: 1, cold: 3 * time.Second, token: 50 * time.Millisecond}
	best, ok := advise([]fit{slow, fast, fastest})
	assert.True(t, ok)
	assert.Equal(t, quantName("int8"), best.quant, "the most exact that is fast enough")
	best, ok = advise([]fit{slow, fastest})
	assert.False(t, ok)
	assert.Equal(t, quantName("int4"), best.quant)
	assert.Equal(t, "watches at most 1 frames/s: set fps lower than that; a question waits 3s for its first word: set max_visual_tokens lower, or warm: newest", best.short())
	assert.Equal(t, "writes 5 tokens/s", slow.short())
}

func TestDoctorOfAModel(t *testing.T) {
	clean(t)
	t.Setenv("HF_HUB_CACHE", t.TempDir())
	code, out, errs := command(t, t.Context(), "--model", randomModel(t), "--quant", "int8", "doctor", "--listen", "127.0.0.1:0")
	assert.Zero(t, code, out+errs)
	assert.Regexp(t, `ok    int8      on the processor: [0-9.]+ MiB of memory with 4096 rows of K/V, fits the [0-9.]+ GiB that are free: [0-9.e+]+ frames/s of 32 rows, first token over 1040 rows `, out)
	assert.Regexp(t, `(ok|warn)  advice    --device cpu --quant int8`, strings.ReplaceAll(out, "ok    advice", "ok  advice"))
	assert.Contains(t, out, "tokens/s")

	code, out, _ = command(t, t.Context(), "--model", "acme/street", "doctor", "--listen", "127.0.0.1:0")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "fail  model     acme/street is not on this machine: afterimage pull acme/street")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"model_type":"bert"}`), 0o644))
	code, out, _ = command(t, t.Context(), "--model", dir, "doctor", "--listen", "127.0.0.1:0")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, `fail  config    llm: config.json: model_type "bert" is not supported`)
}
