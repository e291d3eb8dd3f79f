package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// command runs a command line as a shell would and returns its status and what it wrote.
func command(t testing.TB, ctx context.Context, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e lockedBuffer
	code = run(ctx, args, &app{in: strings.NewReader(""), out: &o, err: &e, lookup: environment()})
	return code, o.String(), e.String()
}

// lockedBuffer is a buffer that verbs may write to from several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// clean takes what the surroundings could change out of the tests.
func clean(t *testing.T) {
	t.Helper()
	t.Setenv("COLUMNS", "100")
	for _, name := range []string{"MODEL", "DEVICE", "THREADS", "CPU", "QUANT", "WEIGHTS", "LOG_LEVEL", "LOG_FORMAT", "LISTEN"} {
		t.Setenv("AFTERIMAGE_"+name, "") // so that it is restored
		require.NoError(t, os.Unsetenv("AFTERIMAGE_"+name))
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err, "run the test with -update")
	assert.Equal(t, string(want), got, "run the test with -update if this is meant")
}

func TestHelp(t *testing.T) {
	clean(t)
	for name, args := range map[string]string{
		"help": "--help", "help-serve": "serve --help", "help-ask": "ask --help", "help-demo": "demo --help", "help-simcam": "simcam --help",
		"help-bench-sim": "bench sim --help", "help-bench-engine": "bench engine --help", "help-bench-soak": "bench soak --help",
		"help-bench-memory": "bench memory --help", "help-bench-live": "bench live --help", "help-token-new": "token new --help",
		"help-bench-watch": "bench watch --help",
		"help-watch":       "watch --help", "help-watch-add": "watch add --help", "help-watch-backtest": "watch backtest --help",
		"help-bench-encoder": "bench encoder --help", "help-bench-kernels": "bench kernels --help",
		"help-list-strategies": "list strategies --help", "strategies": "list strategies",
		"help-pull": "pull --help", "help-show": "show --help", "help-rm": "rm --help", "help-list-models": "list models --help", "models": "list models",
		"help-doctor": "doctor --help", "help-check-config": "check-config --help", "help-completion": "completion --help",
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := command(t, t.Context(), strings.Fields(args)...)
			assert.Zero(t, code)
			assert.Empty(t, errs)
			golden(t, name, out)
		})
	}
	_, bare, _ := command(t, t.Context())
	_, help, _ := command(t, t.Context(), "--help")
	assert.Equal(t, help, bare, "without a verb the help is shown")
}

func TestWrongUsage(t *testing.T) {
	clean(t)
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"pull", 2, `expected "<name>"`},
		{"pull smolvlm3", 1, `there is no model "smolvlm3"`},
		{"pull a/b@../c", 1, "the revision after @"},
		{"rm smolvlm2-256m", 1, "set HF_HOME or HF_HUB_CACHE"},
		{"show nowhere", 1, `there is no model "nowhere"`},
		{"list nonsense", 2, "nonsense"},
		{"serve", 2, `expected "<config>"`},
		{"ask clip.mp4", 2, `expected "<question>`},
		{"--device tpu version", 2, "--device: want auto, cpu, cuda"},
		{"--quant int2 version", 2, "--quant: want bf16, int8, int4 or f32"},
		{"--threads x version", 2, "--threads"},
		{"completion tcsh", 2, `must be one of "bash","zsh","fish"`},
		{"bench sim --blind --newest-only", 2, "can't be used together"},
		{"bench sim --seeds 5-3", 1, "--seeds"},
		{"bench sim --seeds 1-99999999", 1, "at most"},
		{"bench sim --minutes 0", 1, "--minutes"},
		{"bench sim --resume", 1, "--json"},
		{"bench memory --strategies nonsense", 1, "--strategies: there is no memory strategy \"nonsense\"; want flash, "},
		{"bench memory --strategies detail=4", 1, "the option detail=4 belongs to no strategy"},
		{"bench memory --strategies flash:detail=x", 1, "--strategies: detail of flash: want a number of 0 to 256"},
		{"bench memory --strategies recent:detail=4", 1, "detail belongs to flash"},
		{"bench memory --strategies flash,flash", 1, "flash is named twice"},
		{"bench memory --seeds 5-3", 1, "--seeds"},
		{"bench memory --minutes 10,0", 1, "--minutes 0: want 1 to 1440"},
		{"bench memory --minutes 10 --every 11", 1, "would not be asked anything"},
		{"bench memory --budget 512,512", 1, "--budget 512: want"},
		{"bench memory --questions-per-minute 0", 1, "--questions-per-minute"},
		{"bench memory --video a.mp4", 1, "1 of --video and 0 of --questions"},
		{"bench memory --video a.mp4 --questions nowhere.json", 1, "nowhere.json: no such file"},
		{"bench memory --resume", 1, "--resume goes with --json"},
		{"bench soak --minutes 0", 1, "at least a minute"},
		{"bench encoder --batch 4,0", 1, "--batch: want 1 to 32"},
		{"bench kernels --peers nowhere.jsonl", 2, "nowhere.jsonl"},
		{"--device cpu bench kernels", 1, "this needs a GPU"},
		{"ask sim://street what --strategy lru", 2, `--strategy: there is no memory strategy "lru"; want flash, composite, `},
		{"ask sim://street what --strategy flash:frames=3", 2, "--strategy: the memory strategy flash has no option frames; it has synopsis, detail and compat (frames belongs to"},
		{"ask sim://street what --strategy flash,recent", 2, "want one memory strategy"},
		{"ask sim://street what --max-visual-tokens=-3", 1, "--max-visual-tokens: want 0"},
		{"demo --once --strategy recent:frames=x", 2, "frames of recent: want a number of 1 to 4096"},
		{"simcam", 1, "either --rtsp ADDRESS or --out"},
		{"simcam --rtsp 127.0.0.1:0 --out x.mp4", 1, "either"},
		{"simcam --rtsp 127.0.0.1:0 --questions q.json", 1, "--questions goes with --out"},
		{"simcam --rtsp 0.0.0.0:0", 1, "other machines"},
		{"simcam --rtsp 127.0.0.1:0 --user u", 1, "AFTERIMAGE_SIMCAM_PASSWORD"},
		{"simcam --out x.mp4 --fps 0", 1, "--fps"},
		{"demo --seed 5", 1, "the model was trained on those below"},
		{"ask nowhere.mp4 what", 1, "no such file"},
		{"ask ftp://x/y what", 1, "unknown scheme"},
		{"ask sim://moon what", 1, "unknown scene"},
		{"ask sim://street what --fps 99", 1, "--fps"},
		{"--model testdata ask sim://street what", 1, "config.json"},
		{"--model main.go ask sim://street what", 1, "is a file"},
		{"--model nowhere ask sim://street what", 1, "nowhere"},
		{"serve nowhere.yaml", 1, "nowhere.yaml"},
		{"check-config nowhere.yaml", 1, "nowhere.yaml"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			code, out, errs := command(t, t.Context(), strings.Fields(tt.args)...)
			assert.Equal(t, tt.code, code)
			assert.Empty(t, out)
			assert.Contains(t, errs, tt.want)
			assert.True(t, strings.HasPrefix(errs, "afterimage: "), errs)
		})
	}
}

func TestCheckConfig(t *testing.T) {
	clean(t)
	file := writeConfig(t, "streams:\n  door: rtsp://u:"+canary+"@192.0.2.1/x\n  yard: {source: sim://street, fps: 1, memory: {strategy: recent}}\n")
	code, out, errs := command(t, t.Context(), "check-config", file)
	assert.Zero(t, code, errs)
	assert.Equal(t, file+` is fine
listen 127.0.0.1:8765, model embedded, device auto, weights bf16, threads all
memories end with the program
stream door: rtsp://xxxxx@192.0.2.1/x, 2 fps, tcp, stalled after 10s, memory flash (synopsis 64, detail 8)
stream yard: sim://street, 1 fps, tcp, stalled after 10s, memory recent (frames 16)
`, out)

	code, _, errs = command(t, t.Context(), "check-config", writeConfig(t, "streams:\n  door: rtsp://u:"+canary+"@192.0.2.1:x/\n"))
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, ":2:9: stream door: ")
	assert.NotContains(t, errs, canary)
}

func TestTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string, mode os.FileMode) {
		require.NoError(t, os.WriteFile(file, []byte(text), mode))
		require.NoError(t, os.Chmod(file, mode))
	}
	write("  0123456789abcdef\nmore\n", 0o600)
	token, err := readToken(file)
	require.NoError(t, err)
	assert.Equal(t, "0123456789abcdef", token)
	write("0123456789abcdef\n", 0o644)
	_, err = readToken(file)
	require.ErrorContains(t, err, "chmod 600")
	assert.NotContains(t, err.Error(), "0123456789abcdef")
	write("short\n", 0o600)
	_, err = readToken(file)
	require.ErrorContains(t, err, "at least 16")
	token, err = readToken("")
	require.NoError(t, err)
	assert.Empty(t, token)
}

func TestServeNeedsATokenBeyondLoopback(t *testing.T) {
	clean(t)
	code, _, errs := command(t, t.Context(), "serve", writeConfig(t, "listen: 0.0.0.0:0\nstreams: {a: sim://street}\n"))
	assert.Equal(t, 1, code)
	assert.Regexp(t, `afterimage token new NAME --role admin --file \S+/tokens\n.*auth: \{tokens_file: tokens\}`, errs)
}

func TestJSONLog(t *testing.T) {
	var b bytes.Buffer
	newLogger(&b, false, "info", "auto").Warn("source offline", "since", time.Unix(0, 0), "retry_in", 352*time.Millisecond)
	assert.Regexp(t, `^\{"time":"[0-9T:-]+\.[0-9]{3}Z","level":"WARN","msg":"source offline","since":"1970-01-01T00:00:00.000Z","retry_in":"352ms"\}\n$`, b.String())
}

func TestVersion(t *testing.T) {
	clean(t)
	code, out, _ := command(t, t.Context(), "version")
	assert.Zero(t, code)
	assert.Regexp(t, `^afterimage \S+.* \(go1\.\S+, \S+/\S+, FFmpeg 7\.\S+\)\n$`, out)
}

func TestCompletion(t *testing.T) {
	clean(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			code, out, _ := command(t, t.Context(), "completion", shell)
			assert.Zero(t, code)
			for _, word := range []string{"serve", "check-config", "newest-only", "log-level"} {
				assert.Contains(t, out, word)
			}
			bin, err := exec.LookPath(shell)
			if err != nil {
				t.Skip(shell + " is not installed")
			}
			check := exec.Command(bin, "-n")
			check.Stdin = strings.NewReader(out)
			text, err := check.CombinedOutput()
			require.NoError(t, err, string(text))
		})
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed")
	}
	_, script, _ := command(t, t.Context(), "completion", "bash")
	script += `COMP_WORDS=(afterimage bench sim --newe); COMP_CWORD=3; _afterimage; echo "${COMPREPLY[@]}"
COMP_WORDS=(afterimage ch); COMP_CWORD=1; _afterimage; echo "${COMPREPLY[@]}"
COMP_WORDS=(afterimage ask x y --strategy re); COMP_CWORD=5; _afterimage; echo "${COMPREPLY[@]}"
COMP_WORDS=(afterimage --log-format j); COMP_CWORD=2; _afterimage; echo "${COMPREPLY[@]}"
COMP_WORDS=(afterimage --model smolvlm2-); COMP_CWORD=2; _afterimage; echo "${COMPREPLY[@]}"
COMP_WORDS=(afterimage pull flash); COMP_CWORD=2; _afterimage; echo "${COMPREPLY[@]}"
`
	got, err := exec.Command(bash, "-c", script).CombinedOutput()
	require.NoError(t, err, string(got))
	assert.Equal(t, "--newest-only\n", strings.SplitAfter(string(got), "\n")[0])
	assert.Contains(t, strings.SplitAfter(string(got), "\n")[1], "check-config")
	assert.Equal(t, "recent reservoir\n", strings.SplitAfter(string(got), "\n")[2])
	assert.Equal(t, "json\n", strings.SplitAfter(string(got), "\n")[3])
	assert.Equal(t, "smolvlm2-256m smolvlm2-500m smolvlm2-2.2b\n", strings.SplitAfter(string(got), "\n")[4])
	assert.Equal(t, "flash-vstream-qwen-7b flash-vstream-7b\n", strings.SplitAfter(string(got), "\n")[5])
}

func TestSeeds(t *testing.T) {
	got, err := parseSeeds("7, 900000-900002,9")
	require.NoError(t, err)
	assert.Equal(t, []uint64{7, 900_000, 900_001, 900_002, 9}, got)
	for _, bad := range []string{"", "x", "1-", "-1", "3-2", "0-18446744073709551615", "1.5"} {
		_, err := parseSeeds(bad)
		assert.Error(t, err, bad)
	}
}

// The unit for systemd is one that it understands.
func TestServiceUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	unit, err := os.ReadFile(filepath.Join("..", "..", "contrib", "afterimage.service"))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "afterimage.service") // it says so where the program is not installed
	require.NoError(t, os.WriteFile(file, bytes.ReplaceAll(unit, []byte("/usr/local/bin/afterimage"), []byte("/bin/true")), 0o600))
	said, err := exec.Command(analyze, "verify", file).CombinedOutput()
	require.NoError(t, err, string(said))
	assert.NotContains(t, string(said), "afterimage.service:")
}
