package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := configSchema()
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("config.json", doc))
	s, err := c.Compile("config.json")
	require.NoError(t, err)
	return s
}

// asJSON is a YAML text as a schema sees it.
func asJSON(t *testing.T, text string) any {
	t.Helper()
	var v any
	require.NoError(t, yaml.Unmarshal([]byte(text), &v), text)
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	require.NoError(t, err)
	return doc
}

// The schema takes what the loader takes, and refuses what it refuses.
func TestSchemaAgreesWithTheLoader(t *testing.T) {
	s := compiledSchema(t)
	const one = "streams: {a: sim://street}\n"
	for _, text := range []string{
		one, "streams: {a: {source: sim://street}}\n", "listen: 127.0.0.1:1\nthreads: 4\ndevice: cuda:all\nquant: int8\n" + one, "threads: ${N}\n" + one,
		"threads: 2000\n" + one, "threads: many\n" + one, "threads: -1\n" + one, "device: tpu\n" + one, "quant: int3\n" + one, "lisen: x\n" + one, "listen: 127.0.0.1:1\n",
		"streams: {}\n", "streams: [a]\n", "streams: {9a: sim://street}\n", "streams: {a/b: sim://street}\n", "streams: {a: {fps: 1}}\n", "streams: {a: 1}\n",
		"streams: {a: {source: sim://street, sauce: 1}}\n",
		"streams: {a: {source: sim://street, fps: 0.05}}\n", "streams: {a: {source: sim://street, fps: 0}}\n", "streams: {a: {source: sim://street, fps: 31}}\n", "streams: {a: {source: sim://street, fps: 0.01}}\n",
		"streams: {a: {source: sim://street, transport: udp}}\n", "streams: {a: {source: sim://street, transport: sctp}}\n",
		"streams: {a: {source: sim://street, stall_timeout: 1m30s}}\n", "streams: {a: {source: sim://street, stall_timeout: 10}}\n", "streams: {a: {source: sim://street, stall_timeout: soon}}\n",
		"streams: {a: {source: sim://street, freeze_timeout: off}}\n", "streams: {a: {source: sim://street, freeze_timeout: 90s}}\n", "streams: {a: {source: sim://street, freeze_timeout: never}}\n",
		"streams: {a: {source: sim://street, disk_budget: 1.5 GiB}}\n", "streams: {a: {source: sim://street, disk_budget: 100}}\n", "streams: {a: {source: sim://street, disk_budget: big}}\n",
		"streams: {a: {source: sim://street, warm: wait}}\n", "streams: {a: {source: sim://street, warm: hot}}\n",
		"streams: {a: {source: sim://street, masks: [[0, 0, 0.5, 1]]}}\n", "streams: {a: {source: sim://street, masks: [0, 1]}}\n",
		"streams: {a: {source: sim://street, max_visual_tokens: 5}}\n", "streams: {a: {source: sim://street, max_visual_tokens: -1}}\n",
		"streams: {a: {source: sim://street, memory: recent}}\n", "streams: {a: {source: sim://street, memory: lru}}\n", "streams: {a: {source: sim://street, memory: \"recent:frames=3\"}}\n",
		"streams: {a: {source: sim://street, memory: {strategy: recent, frames: 4}}}\n", "streams: {a: {source: sim://street, memory: {strategy: recent, detail: 4}}}\n",
		"streams: {a: {source: sim://street, memory: {detail: 4}}}\n", "streams: {a: {source: sim://street, memory: {nothing: 4}}}\n", "streams: {a: {source: sim://street, memory: [recent]}}\n",
		"stream_defaults: {fps: 1}\n" + one, "stream_defaults: {source: sim://street}\n" + one,
		"tls: self-signed\n" + one, "tls: {cert: a, key: b}\n" + one, "tls: {cert: a}\n" + one, "tls: please\n" + one, "tls: {cert: a, key: b, ca: c}\n" + one,
		"auth: {tokens_file: tokens}\n" + one, "auth: {token: x}\n" + one, "allowed_hosts: [a.example]\n" + one, "allowed_hosts: a.example\n" + one,
		"webhooks: {secret_file: s, allow_http: true}\n" + one, "webhooks: {allow_http: maybe}\n" + one,
		"watches: {w: {stream: a, ask: What?}}\n" + one, "watches: {w: {stream: a, ask: What?, threshold: 0.9, hold: 0s, cooldown: 10m, every: 2s, on_change: true}}\n" + one,
		"watches: {w: {stream: a, ask: What?, threshold: 0.1}}\n" + one, "watches: {w: {stream: a}}\n" + one, "watches: {w: {ask: What?}}\n" + one, "watches: {w: {stream: a, ask: What?, look: up}}\n" + one,
		"watches: {w: {stream: a, ask: What?, hold: 5}}\n" + one, "watches: {w: What?}\n" + one, "watches: {w: {stream: a, ask: What?, choices: [red, blue], fire: [blue], webhook: \"https://h/x\", paused: true}}\n" + one,
	} {
		_, loads := LoadConfig(writeConfig(t, text), environ{"N=2"})
		valid := s.Validate(asJSON(t, text))
		if loads == nil {
			assert.NoError(t, valid, text)
		} else {
			assert.Error(t, valid, "%s%v", text, loads)
		}
	}
}

// Every key is described, and nothing else is.
func TestSchemaDescribesEveryKey(t *testing.T) {
	text, err := configSchema()
	require.NoError(t, err)
	var root schema
	require.NoError(t, json.Unmarshal(text, &root))
	seen := map[string]bool{}
	var walk func(s map[string]any, path string)
	walk = func(s map[string]any, path string) {
		for key, v := range s {
			switch v := v.(type) {
			case map[string]any:
				if key != "properties" {
					walk(v, path)
					continue
				}
				for name, p := range v {
					at := strings.TrimPrefix(path+"."+name, ".")
					if strings.HasPrefix(at, "streams.memory.") {
						continue
					}
					at = strings.Replace(at, "stream_defaults.", "streams.", 1)
					if strings.HasPrefix(at, "streams.memory.") {
						continue
					}
					seen[at] = true
					p := p.(map[string]any)
					assert.NotEmpty(t, p["description"], at)
					walk(p, at)
				}
			case []any:
				for _, x := range v {
					if x, ok := x.(map[string]any); ok {
						walk(x, path)
					}
				}
			}
		}
	}
	walk(root, "")
	assert.ElementsMatch(t, slices.Collect(maps.Keys(schemaAbout)), slices.Collect(maps.Keys(seen)))
}

// The configuration that the README shows fits the schema, too.
func TestReadmeConfigFitsTheSchema(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(readme), "```yaml\n")
	text, _, _ := strings.Cut(rest, "```")
	assert.NoError(t, compiledSchema(t).Validate(asJSON(t, text)))
}
