package hub

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// python is an interpreter that has huggingface_hub: AFTERIMAGE_PYTHON, or python3.
func python(t *testing.T) string {
	bin := os.Getenv("AFTERIMAGE_PYTHON")
	if bin == "" {
		bin = "python3"
	}
	if out, err := exec.Command(bin, "-c", "import huggingface_hub").CombinedOutput(); err != nil {
		t.Skipf("no huggingface_hub: set AFTERIMAGE_PYTHON to a Python that has it (%v, %s)", err, lastLine(string(out)))
	}
	return bin
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// TestPeer is the same cache for huggingface_hub and this package.
func TestPeer(t *testing.T) {
	bin := python(t)
	f := newFakeHub(t)
	peer := func(cache string, args ...string) []string {
		t.Helper()
		c := exec.Command(bin, append([]string{filepath.Join("testdata", "peer.py")}, args...)...)
		c.Env = append(os.Environ(), "HF_ENDPOINT="+f.URL, "HF_HUB_CACHE="+cache, "HF_HOME="+t.TempDir(), "HF_TOKEN="+canary, "HF_HUB_DISABLE_XET=1",
			"HF_HUB_DISABLE_PROGRESS_BARS=1", "HF_HUB_DISABLE_TELEMETRY=1")
		var errs strings.Builder
		c.Stderr = &errs
		out, err := c.Output()
		require.NoError(t, err, errs.String())
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}

	t.Run("it finds what we pulled", func(t *testing.T) {
		h := f.hub(t)
		p := pulled(t, f, h)
		before := f.asked("")
		out := peer(h.Cache, "find", testRepo, "config.json", "model-00001-of-00002.safetensors", "chat_template.json", "never-heard-of")
		assert.Equal(t, []string{filepath.Join(p.Dir, "config.json"), filepath.Join(p.Dir, "model-00001-of-00002.safetensors"), "no_exist", "none",
			p.Dir, p.Commit + ":main"}, out)
		assert.Equal(t, before, f.asked(""), "offline")
		online := peer(h.Cache, "pull", testRepo)
		assert.Equal(t, []string{p.Dir}, online)
		for name, data := range f.files {
			if strings.HasPrefix(name, "model-") {
				assert.Equal(t, 1, f.asked("GET /"+sum256(data)), "%s did not come again", name)
			}
		}
	})
	t.Run("we find what it pulled", func(t *testing.T) {
		h := f.hub(t)
		dir := peer(h.Cache, "pull", testRepo)[0]
		mine, err := h.Resolve(testRepo)
		require.NoError(t, err)
		assert.Equal(t, dir, mine)
		list, err := h.Models()
		require.NoError(t, err)
		require.Len(t, list, 1)
		before := f.asked("/resolve/")
		p, err := h.Pull(t.Context(), mustName(t, testRepo), PullOptions{Verify: true})
		require.NoError(t, err)
		assert.Equal(t, dir, p.Dir)
		assert.Equal(t, before, f.asked("/resolve/"), "nothing came again: its blobs have the names and hashes that ours have")
		r, err := h.Removal(mustName(t, testRepo), true)
		require.NoError(t, err)
		require.NoError(t, r.Run())
		list, err = h.Models()
		require.NoError(t, err)
		assert.Empty(t, list)
	})
	t.Run("both at once", func(t *testing.T) {
		h := f.hub(t)
		c := f.process(t, h.Cache)
		require.NoError(t, c.Start())
		dir := peer(h.Cache, "pull", testRepo)[0]
		require.NoError(t, c.Wait())
		sameFiles(t, f, dir)
	})
}
