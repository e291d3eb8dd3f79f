package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const canary = "hunter2canary"

func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestLoadConfig(t *testing.T) {
	file := writeConfig(t, `
listen: ${HOST:127.0.0.1}:9000
threads: ${N}
model: weights
auth: {token_file: token}
stream_defaults:
  fps: 1
  memory: {strategy: flash, synopsis: 32}
  max_visual_tokens: 800
streams:
  front_door: rtsp://viewer:${CAM_PASS}@192.0.2.10/stream2
  yard:
    source: rtsp://viewer@192.0.2.11/live
    password_file: secret
    fps: 4
    transport: udp
    stall_timeout: 30s
    warm: wait
  porch: {source: "sim://street?seed=100001", memory: {strategy: recent, frames: 16}}
  clip: {source: clips/one.mp4, memory: composite, max_visual_tokens: 256}
  cost: {source: "$${HOME}.mp4", memory: {detail: 3}}
`)
	dir := filepath.Dir(file)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("p@ss/"+canary+"\r\nmore"), 0o600))
	c, err := LoadConfig(file, environ{"CAM_PASS=" + canary, "N=3"})
	require.NoError(t, err)

	assert.Equal(t, "127.0.0.1:9000", c.Listen)
	assert.Equal(t, 3, c.Threads)
	assert.Equal(t, "auto", c.Device)
	assert.Equal(t, "bf16", c.Quant)
	assert.Equal(t, filepath.Join(dir, "weights"), c.Model)
	assert.Equal(t, filepath.Join(dir, "token"), c.Auth.TokenFile)
	require.Len(t, c.Streams, 5)
	front, yard, porch, clip, cost := c.Streams[0], c.Streams[1], c.Streams[2], c.Streams[3], c.Streams[4]
	assert.Equal(t, "front_door", front.Name)
	assert.Equal(t, 1.0, front.FPS)
	assert.Equal(t, "tcp", front.Transport)
	assert.Equal(t, duration(10*time.Second), front.StallTimeout)
	assert.Equal(t, MemoryConfig{Strategy: "flash", Options: map[string]any{"synopsis": 32}}, front.Memory)
	assert.Equal(t, "rtsp://viewer:"+canary+"@192.0.2.10/stream2", front.URL.Raw())
	assert.Equal(t, "rtsp://viewer:p%40ss%2F"+canary+"@192.0.2.11/live", yard.URL.Raw())
	assert.Equal(t, duration(30*time.Second), yard.StallTimeout)
	assert.Equal(t, "wait", yard.Warm)
	assert.Empty(t, front.Warm)
	assert.Equal(t, duration(2*time.Second), front.WarmAge)
	assert.Equal(t, MemoryConfig{Strategy: "recent", Options: map[string]any{"frames": 16}}, porch.Memory, "sizes of another strategy are not inherited")
	assert.Equal(t, filepath.Join(dir, "clips/one.mp4"), clip.URL.Path())
	assert.Equal(t, MemoryConfig{Strategy: "composite"}, clip.Memory)
	assert.Equal(t, 256, clip.VisualTokens)
	assert.Equal(t, 800, front.VisualTokens)
	assert.Equal(t, MemoryConfig{Strategy: "flash", Options: map[string]any{"synopsis": 32, "detail": 3}}, cost.Memory, "options add up")
	assert.Equal(t, filepath.Join(dir, "${HOME}.mp4"), cost.URL.Path())

	// However the configuration is printed, no password shows.
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("config", "config", c, "stream", yard, "url", yard.URL)
	for _, shown := range []string{log.String(), fmt.Sprintf("%v %+v %#v", c, c, *c), fmt.Sprint(yard), fmt.Sprintf("%+v", front)} {
		assert.NotContains(t, shown, canary)
	}
}

func TestConfigErrors(t *testing.T) {
	const one = "streams: {a: sim://street}\n"
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "lisen: 1\n" + one, ":1:1: unknown field \"lisen\"\n     1 | lisen: 1\n         ^"},
		{"unknown stream key", "streams:\n  a:\n    source: sim://street\n    sauce: x\n", ":4:5: unknown field \"sauce\""},
		{"unknown memory key", "streams:\n  a:\n    source: sim://street\n    memory: {kind: x}\n", ":4:20: the memory strategy flash has no option kind; it has synopsis, detail and compat"},
		{"duplicate key", "listen: a:1\nlisten: b:2\n" + one, ":2:1: mapping key \"listen\" already defined"},
		{"duplicate stream", "streams:\n  a: sim://street\n  a: sim://street\n", ":3:3: mapping key \"a\" already defined"},
		{"wrong type", "threads: many\n" + one, ":1:10: cannot unmarshal string into Go struct field"},
		{"listen", "listen: 8765\n" + one, ":1:9: want host:port"},
		{"port", "listen: localhost:99999\n" + one, ":1:9: want a port"},
		{"device", "device: tpu\n" + one, ":1:9: want auto, cpu, cuda"},
		{"quant", "quant: int3\n" + one, ":1:8: want bf16, int8, int4 or f32"},
		{"threads", "threads: -1\n" + one, ":1:10: want 0"},
		{"no streams", "listen: 127.0.0.1:1\n", "no streams"},
		{"empty file", "", "no streams"},
		{"name", "streams:\n  9lives: sim://street\n", ":2:3: a stream's name"},
		{"name slash", "streams:\n  a/b: sim://street\n", ":2:3: a stream's name"},
		{"list", "streams: [a]\n", ":1:10: want streams by name"},
		{"no source", "streams:\n  a: {fps: 1}\n", "no source"},
		{"null stream", "streams:\n  a:\n", ":2:6: null was used"},
		{"freeze", "streams:\n  a: {source: sim://street, freeze_timeout: 1ms}\n", "want 1s to 24h, or off"},
		{"masks", "streams:\n  a: {source: sim://street, masks: [[0, 0, 0, 1]]}\n", ":2:36: want [left, top, right, bottom]"},
		{"masks of the wrong shape", "streams:\n  a: {source: sim://street, masks: [0, 0, 1, 1]}\n", ":2:37: int was used where sequence is expected"},
		{"tls", "tls: yes please\n" + one, ":1:6: want self-signed, or a mapping with cert and key"},
		{"half of tls", "tls: {cert: x.pem}\n" + one, "want both cert and key"},
		{"unknown tls key", "tls: {crt: x.pem}\n" + one, "unknown field \"crt\""},
		{"allowed host", "allowed_hosts: [\"http://a\"]\n" + one, "want names such as"},
		{"allowed origin", "allowed_origins: [\"https://a/b\"]\n" + one, "want origins such as"},
		{"watch's stream", one + "watches: {w: {stream: b, ask: What?}}\n", ":2:23: watch w: there is no stream b"},
		{"watch's question", one + "watches: {w: {stream: a}}\n", "watch w: ask: there is no question"},
		{"watch's threshold", one + "watches:\n  w: {stream: a, ask: What?, threshold: 0.1}\n", ":3:41: watch w: threshold: want 0.5 to 1"},
		{"watch's hold", one + "watches:\n  w: {stream: a, ask: What?, hold: -1s}\n", "watch w: hold: want no negative duration"},
		{"unknown watch key", one + "watches:\n  w: {stream: a, question: What?}\n", ":3:18: unknown field \"question\""},
		{"watch name", one + "watches: {1: {stream: a}}\n", "a standing question's name"},
		{"empty watch", one + "watches: {w: }\n", "want standing questions by name"},
		{"scheme", "streams:\n  a: ftp://x/y\n", ":2:6: stream a: ingest: source URL: unknown scheme"},
		{"fps", "streams:\n  a: {source: sim://street, fps: 100}\n", ":2:34: want 0.05 to 30"},
		{"fps nan", "streams:\n  a: {source: sim://street, fps: .nan}\n", "want 0.05 to 30"},
		{"transport", "streams:\n  a: {source: sim://street, transport: sctp}\n", ":2:40: want tcp or udp"},
		{"stall", "streams:\n  a: {source: sim://street, stall_timeout: 10}\n", "want a duration such as 10s"},
		{"stall range", "streams:\n  a: {source: sim://street, stall_timeout: 1ms}\n", "want 1s to 1h"},
		{"warm", "streams:\n  a: {source: sim://street, warm: hot}\n", ":2:35: want off, newest or wait"},
		{"warm age", "stream_defaults: {warm_age: 1ms}\n" + one, "want 100ms to 1h"},
		{"strategy", "stream_defaults: {memory: {strategy: lru}}\n" + one, ":1:38: there is no memory strategy \"lru\"; want flash, "},
		{"strategy sizes", "streams:\n  a: {source: sim://street, memory: {frames: 4}}\n", ":2:46: the memory strategy flash has no option frames; it has synopsis, detail and compat (frames belongs to recent, uniform and reservoir)"},
		{"recent sizes", "streams:\n  a: {source: sim://street, memory: {strategy: recent, detail: 4}}\n", ":2:64: the memory strategy recent has no option detail; it has frames (detail belongs to flash)"},
		{"short strategy", "streams:\n  a: {source: sim://street, memory: lru}\n", ":2:37: there is no memory strategy \"lru\""},
		{"short strategy with options", "streams:\n  a: {source: sim://street, memory: \"recent:frames=0\"}\n", ":2:37: frames of recent: want a number of 1 to 4096"},
		{"memory list", "streams:\n  a: {source: sim://street, memory: [recent]}\n", ":2:37: want a strategy's name"},
		{"memory number", "streams:\n  a: {source: sim://street, memory: {strategy: 1}}\n", ":2:48: want a strategy's name: flash, "},
		{"memory null", "streams:\n  a: {source: sim://street, memory: {synopsis: }}\n", "synopsis has no value"},
		{"option type", "streams:\n  a: {source: sim://street, memory: {synopsis: many}}\n", ":2:48: synopsis of flash: want a number of 1 to 4096"},
		{"option fraction", "streams:\n  a: {source: sim://street, memory: {synopsis: 1.5}}\n", ":2:48: synopsis of flash: want a number"},
		{"option range", "streams:\n  a: {source: sim://street, memory: {synopsis: 99999999999999999999}}\n", ":2:48: synopsis of flash: want a number"},
		{"option bool", "streams:\n  a: {source: sim://street, memory: {strategy: reservoir, even: 1}}\n", ":2:65: even of reservoir: want true or false"},
		{"budget", "streams:\n  a: {source: sim://street, max_visual_tokens: -1}\n", ":2:48: want 0 (as many as the strategy shows) to 1048576"},
		{"default source", "stream_defaults: {source: sim://street}\n" + one, "cannot be shared"},
		{"variable", "model: ${NOWHERE}\n" + one, ":1:8: environment variable NOWHERE is not set"},
		{"secret variable", "streams:\n  a: rtsp://u:${CAM_PASSWORD}@h/\n", ":2:6: environment variable CAM_PASSWORD is not set; set it, or give a default as in ${NAME:default}\n"},
		{"password file", "streams:\n  a: {source: \"rtsp://u@h/\", password_file: cam.password}\n", "no such file or directory when reading the password_file"},
		{"password file's name", "streams:\n  a: {source: \"rtsp://u@h/\", password_file: cam.password}\n", "/cam.password\n"},
		{"password twice", "streams:\n  a: {source: \"rtsp://u:p@h/\", password_file: config.yaml}\n", "keep either the password in source or the password_file, not both"},
		{"two documents", one + "---\n" + one, "more than one document"},
		{"alias", "stream_defaults: &a {fps: 1}\n" + one, "anchors, aliases and tags"},
		{"syntax", "streams: {a: [\n", ":1:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := LoadConfig(writeConfig(t, tt.text), nil)
			require.Error(t, err)
			assert.Contains(t, err.Error(), "config.yaml")
			assert.Contains(t, err.Error(), tt.want)
		})
	}
	_, err := LoadConfig(filepath.Join(t.TempDir(), "absent.yaml"), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// No error about a configuration may repeat a credential, wherever in the file the mistake is.
func TestConfigErrorsHideCredentials(t *testing.T) {
	for _, text := range []string{
		"streams:\n  a: rtsp://admin:" + canary + "@h:99999/x\n",
		"streams:\n  a: rtsp://admin:" + canary + "\n",
		"streams:\n  a: rtsp://admin:pa/" + canary + "@h/x\n",
		"streams:\n  a: rtsp://admin:pa " + canary + "@h/x\n",
		"streams:\n  a: admin:" + canary + "@h/x\n",
		"streams:\n  a: ftp://h/x?token=" + canary + "\n",
		"streams:\n  a: {source: rtsp://u:" + canary + "@h/, fps: 99}\n",
		"streams:\n  a: {source: rtsp://u:" + canary + "@h/, sauce: 1}\n",
		"streams: rtsp://u:" + canary + "@h/\n",
		"threads: rtsp://u:" + canary + "@h/\nstreams: {a: sim://street}\n",
		"auth: {token: " + canary + "}\n",
		"password: " + canary + "\n",
		"streams:\n  a:\n    source: rtsp://u@h/\n    password: " + canary + "\n",
		"streams:\n  a:\n    source: rtsp://u@h/\n    password: \"" + canary + "\n",
		"streams:\n  rtsp://u:" + canary + "@h/: 1\n",
		"streams:\n  a: rtsp://${USER}:${PASS}@h:0/\n",
		"streams:\n  a: ${URL}\n  9: 1\n",
		"threads: ${URL}\n",
	} {
		_, err := LoadConfig(writeConfig(t, text), environ{"USER=u", "PASS=" + canary, "URL=rtsp://u:" + canary + "@h:0/"})
		require.Error(t, err, text)
		assert.NotContains(t, err.Error(), canary, text)
	}
}

func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		"", "streams: {a: sim://street}", "streams:\n  a:\n    source: rtsp://u:p@h/\n    memory: {strategy: recent, frames: 3}\n",
		"listen: ${A:b}", "a: &x {b: *x}", "? [a]\n: b", "--- |\n x\n", "streams: !!map {}", "\"a\": 'b'", "threads: 0x10", "stream_defaults: {fps: 1e3}",
		"${A}: ${B}", "a: [1, {b: ${C:[}}]", "\t- x", "streams:\n  a: >\n    rtsp://h/\n", "streams: {a: }", "%YAML 1.2\n---\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, doc, err := parseConfig([]byte(text), environ{"A=1", "B=x: y"})
		if err == nil {
			err = c.resolve("/nowhere", doc.root)
		}
		if err != nil {
			assert.NotEmpty(t, doc.show("config.yaml", err).Error())
			return
		}
		for _, s := range c.Streams {
			assert.False(t, s.URL.IsZero(), "a stream without a source passed")
			assert.Regexp(t, streamName, s.Name)
		}
	})
}

// The configuration that the README shows is one.
func TestReadmeConfig(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(readme), "```yaml\n")
	require.True(t, ok, "no configuration in the README")
	text, _, _ := strings.Cut(rest, "```")
	file := writeConfig(t, text)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(file), "yard.password"), []byte("secret\n"), 0o600))
	c, err := LoadConfig(file, environ{"CAM_PASSWORD=secret"})
	require.NoError(t, err)
	assert.Len(t, c.Streams, 4)
}

func TestOverrides(t *testing.T) {
	const text = `
streams:
  front-door: rtsp://u@192.0.2.1/one
  yard: {source: sim://street, fps: 4, memory: recent}
watches: {parcel: {stream: yard, ask: Is a parcel there?}}
`
	c, err := LoadConfig(writeConfig(t, text), environ{
		"AFTERIMAGE_STREAMS_FRONT_DOOR_FPS=0.5", "AFTERIMAGE_STREAMS_FRONT_DOOR_SOURCE=rtsp://u:" + canary + "@192.0.2.9/${two}",
		"AFTERIMAGE_STREAMS_YARD_MEMORY_FRAMES=8", "AFTERIMAGE_STREAMS_YARD_MASKS=[[0, 0, 0.5, 0.25]]", "AFTERIMAGE_STREAM_DEFAULTS_FREEZE_TIMEOUT=off",
		"AFTERIMAGE_STREAMS_NEW_CAM_SOURCE=sim://street?seed=2", "AFTERIMAGE_STREAMS_NEW_CAM_TRANSPORT=udp", "AFTERIMAGE_ALLOWED_HOSTS=a.example, b.example",
		"AFTERIMAGE_WATCHES_PARCEL_HOLD=0s", "AFTERIMAGE_WATCHES_DOOR_ASK=123", "AFTERIMAGE_WATCHES_DOOR_STREAM=new_cam", "AFTERIMAGE_WATCHES_DOOR_ON_CHANGE=true",
		"AFTERIMAGE_TLS=self-signed", "AFTERIMAGE_AUTH_TOKENS_FILE=/etc/tokens", "AFTERIMAGE_THREADS=2", "AFTERIMAGE_ROOT=/elsewhere", "AFTERIMAGE_QUANT=",
	})
	require.NoError(t, err)
	require.Len(t, c.Streams, 3)
	front, yard, added := c.Streams[0], c.Streams[1], c.Streams[2]
	assert.Equal(t, 0.5, front.FPS)
	assert.Contains(t, front.URL.Raw(), canary+"@192.0.2.9/${two}", "values are taken as they are")
	assert.Equal(t, orOff(-1), front.Freeze)
	assert.Equal(t, MemoryConfig{Strategy: "recent", Options: map[string]any{"frames": 8}}, yard.Memory)
	assert.Equal(t, [][]float64{{0, 0, 0.5, 0.25}}, yard.Masks)
	assert.Equal(t, 4.0, yard.FPS)
	assert.Equal(t, "new_cam", added.Name)
	assert.Equal(t, "udp", added.Transport)
	assert.Equal(t, []string{"a.example", "b.example"}, c.AllowedHosts)
	assert.Equal(t, 2, c.Threads)
	assert.True(t, c.TLS.SelfSigned)
	assert.Equal(t, "/etc/tokens", c.Auth.TokensFile)
	specs, err := c.specs()
	require.NoError(t, err)
	require.Len(t, specs, 2)
	assert.Equal(t, time.Duration(-1), specs[0].Hold)
	assert.Equal(t, "123", specs[1].Ask)
	assert.True(t, specs[1].OnChange)

	for _, tt := range []struct{ variable, want string }{
		{"AFTERIMAGE_STREAMS_YARD_SAUCE=1", "the configuration has no key that the environment variable AFTERIMAGE_STREAMS_YARD_SAUCE could replace"},
		{"AFTERIMAGE_STREAMS=x", "the configuration has no key"},
		{"AFTERIMAGE_AUTH=x", "the configuration has no key"},
		{"AFTERIMAGE_STREAMS_GARAGE_FPS=1", "the configuration has no key"},
		{"AFTERIMAGE_STREAMS_YARD_FPS=99", "AFTERIMAGE_STREAMS_YARD_FPS (over "},
		{"AFTERIMAGE_STREAMS_YARD_FPS=many", "AFTERIMAGE_STREAMS_YARD_FPS (over "},
		{"AFTERIMAGE_STREAMS_YARD_FPS={a: b}", "want one value, or a list of them, in the environment variable AFTERIMAGE_STREAMS_YARD_FPS"},
		{"AFTERIMAGE_STREAMS_YARD_FPS=*a", "in the environment variable AFTERIMAGE_STREAMS_YARD_FPS"},
		{"AFTERIMAGE_STREAMS_YARD_MASKS=[[0, 0, 2, 1]]", "AFTERIMAGE_STREAMS_YARD_MASKS (over "},
		{"AFTERIMAGE_STREAMS_YARD_SOURCE=rtsp://u:" + canary + "@h:0/", "AFTERIMAGE_STREAMS_YARD_SOURCE (over "},
		{"AFTERIMAGE_WATCHES_PARCEL_THRESHOLD=2", "AFTERIMAGE_WATCHES_PARCEL_THRESHOLD (over "},
	} {
		_, err := LoadConfig(writeConfig(t, text), environ{tt.variable})
		require.ErrorContains(t, err, tt.want, tt.variable)
		assert.NotContains(t, err.Error(), canary)
	}
	_, err = LoadConfig(writeConfig(t, "streams: {a: sim://street, a-fps: sim://street, A_FPS: sim://street}\n"), environ{"AFTERIMAGE_STREAMS_A_FPS=1"})
	require.ErrorContains(t, err, "streams.a.fps or streams.a-fps.source could be meant")

	// The short form leaves the rest of a stream as it is.
	c, err = LoadConfig(writeConfig(t, text), environ{"AFTERIMAGE_STREAMS_YARD=sim://street?seed=7"})
	require.NoError(t, err)
	assert.Equal(t, "sim://street?seed=7", c.Streams[1].URL.Raw())
	assert.Equal(t, 4.0, c.Streams[1].FPS)
	_, err = LoadConfig(writeConfig(t, text), environ{"AFTERIMAGE_STREAM_DEFAULTS=sim://street"})
	require.ErrorContains(t, err, "the configuration has no key")

	// A configuration may come from the environment alone.
	c, err = LoadConfig(writeConfig(t, ""), environ{"AFTERIMAGE_STREAMS_DOOR_SOURCE=sim://street"})
	require.NoError(t, err)
	assert.Equal(t, "door", c.Streams[0].Name)
}

func TestCredentialsDirectory(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "CAM_PASS"), []byte(canary+"\n"), 0o400))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "yard"), []byte("other\n"), 0o400))
	c, err := LoadConfig(writeConfig(t, "streams:\n  a: rtsp://u:${CAM_PASS}@h/\n  b: {source: \"rtsp://u@h/\", password_file: \"${CREDENTIALS_DIRECTORY}/yard\"}\n"),
		environ{"CREDENTIALS_DIRECTORY=" + dir})
	require.NoError(t, err)
	assert.Contains(t, c.Streams[0].URL.Raw(), canary)
	assert.Contains(t, c.Streams[1].URL.Raw(), "other")
}

// Whatever variables are set, the configuration loads or an error says which is wrong.
func FuzzOverride(f *testing.F) {
	for _, s := range [][2]string{{"STREAMS_A_FPS", "3"}, {"STREAMS_B_C_SOURCE", "sim://street"}, {"STREAMS_A_MEMORY_FRAMES", "[1, 2]"}, {"WATCHES_W_ASK", "a: b"},
		{"ALLOWED_HOSTS", "a,b,'"}, {"TLS_CERT", "${X}"}, {"STREAMS_A_MASKS", "[[*a]]"}, {"STREAM_DEFAULTS_MEMORY", "recent:frames=2"}, {"STREAMS_A_", ""}, {"AUTH_", "x"}} {
		f.Add("streams: {a: sim://street, b-c: {source: sim://street}}\ntls: self-signed\n", s[0], s[1])
	}
	f.Add("[]", "STREAMS_A_SOURCE", "x")
	f.Add("streams:\n", "STREAMS_A_SOURCE", "sim://street")
	f.Fuzz(func(t *testing.T, text, name, value string) {
		c, doc, err := parseConfig([]byte(text), environ{overridePrefix + name + "=" + value})
		if err == nil {
			err = c.resolve("/nowhere", doc.root)
		}
		if err != nil {
			assert.NotEmpty(t, doc.show("config.yaml", err).Error())
			return
		}
		_, err = c.specs()
		assert.NoError(t, err, "a standing question that passed is one")
	})
}
