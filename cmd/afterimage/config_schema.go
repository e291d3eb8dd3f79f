package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// schemaAbout says of each key what editors show and which values the loader takes. Names below a stream or a watch stand for all of them.
var schemaAbout = map[string]schema{
	"listen":                    {"description": "Address of the page and the API; beyond this machine only with tokens.", "default": defaultListen},
	"auth":                      {"description": "Who may use the server."},
	"auth.token_file":           {"description": "A file whose first line is a bearer token for everything."},
	"auth.tokens_file":          {"description": "A file of tokens with a role and streams each; see afterimage token --help."},
	"tls":                       {"description": "How connections are encrypted: self-signed, or a certificate and a key from PEM files. They are read again when they change."},
	"tls.cert":                  {"description": "PEM file of the certificate and its chain."},
	"tls.key":                   {"description": "PEM file of the key."},
	"allowed_hosts":             {"description": "Names that the server answers to besides its own, without port."},
	"allowed_origins":           {"description": "Other pages that may use the server, as https://host[:port]."},
	"model":                     {"description": "A model directory, or one that was pulled; without it, the model inside the program."},
	"threads":                   {"description": "Threads of the processor, for all models together; 0: every core.", "minimum": 0, "maximum": 1024},
	"device":                    {"description": "Where models run.", "pattern": "^(auto|cpu|cuda(:([0-9]+|all))?)?$", "default": "auto"},
	"quant":                     {"description": "How weights are held.", "enum": []string{"", "bf16", "int8", "int4", "f32"}, "default": "bf16"},
	"memory_dir":                {"description": "Where memories outlive the program, a directory for each stream; off: nowhere."},
	"stream_defaults":           {"description": "What streams have that do not say otherwise."},
	"streams":                   {"description": "What is watched, by name."},
	"streams.source":            {"description": "rtsp://, rtsps://, http(s)://, a file, v4l2:/dev/videoN or sim://street?seed=N."},
	"streams.fps":               {"description": "Pictures a second that are looked at.", "anyOf": []schema{{"minimum": 0.05, "maximum": 30}, {"const": 0}}, "default": 2},
	"streams.transport":         {"description": "How RTSP sends.", "enum": []string{"", "tcp", "udp"}, "default": "tcp"},
	"streams.stall_timeout":     {"description": "No picture for this long: stalled, and connected again. 1s to 1h.", "default": "10s"},
	"streams.freeze_timeout":    {"description": "The same picture to the last pixel for this long: frozen, and not remembered. 1s to 24h, or off.", "default": "1m"},
	"streams.masks":             {"description": "Rectangles that are black before anything sees them: left, top, right, bottom, as shares of the picture.", "maxItems": 64},
	"streams.memory":            {"description": "How it remembers: a strategy's name, or strategy with its options."},
	"streams.max_visual_tokens": {"description": "Most visual tokens that a question is shown; 0: as many as the strategy likes.", "minimum": 0, "maximum": 1 << 20},
	"streams.password_file":     {"description": "A file whose first line is the password of the user in source."},
	"streams.warm":              {"description": "When the model reads what is new in the memory.", "enum": []string{"", "off", "newest", "wait"}},
	"streams.warm_age":          {"description": "newest: how old what an answer is from may be. 100ms to 1h.", "default": "2s"},
	"streams.disk_budget":       {"description": "Most that its memory takes on disk, at least 64MiB.", "default": "2GiB"},
	"streams.clip":              {"description": "Most of the stream that a crash may lose. 1s to 1m.", "default": "8s"},
	"webhooks":                  {"description": "How standing questions tell others."},
	"webhooks.secret_file":      {"description": "A file whose first line signs what is sent."},
	"webhooks.allow_http":       {"description": "Send to http URLs beyond this machine too, where anyone on the way can read and change it."},
	"watches":                   {"description": "Standing questions, by name."},
	"watches.stream":            {"description": "The stream that is asked about."},
	"watches.ask":               {"description": "The question.", "minLength": 1, "maxLength": 500},
	"watches.choices":           {"description": "What the model chooses among; yes and no without it.", "maxItems": 16},
	"watches.fire":              {"description": "Which of the choices count; the first without it."},
	"watches.threshold":         {"description": "From which probability on it counts.", "anyOf": []schema{{"minimum": 0.5, "maximum": 1}, {"const": 0}}},
	"watches.hysteresis":        {"description": "It ceases to count below threshold minus this.", "minimum": 0, "maximum": 1},
	"watches.every":             {"description": "Between two checks."},
	"watches.on_change":         {"description": "Check only where the picture has changed."},
	"watches.hold":              {"description": "For how long it must count before it fires; 0s: at once."},
	"watches.cooldown":          {"description": "From a firing to the next, at least; 0s: none."},
	"watches.deadline":          {"description": "Without a firing for so long, an error says so once."},
	"watches.look":              {"description": "What the model is shown: the newest picture or the memory.", "enum": []string{"", "now", "memory"}},
	"watches.webhook":           {"description": "https URL that is told too."},
	"watches.paused":            {"description": "Kept, not checked."},
}

// schema is a JSON schema, or a part of one.
type schema map[string]any

// configSchema is the JSON schema of the configuration file, for editors. What a schema cannot say (files that must exist, streams that
// watches name, the form of URLs) the loader alone checks.
func configSchema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[Config](), "")
	s["$schema"], s["title"] = "https://json-schema.org/draft/2020-12/schema", "Afterimage configuration"
	s["required"] = []string{"streams"}
	s["properties"].(schema)["streams"].(schema)["minProperties"] = 1
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return nil, fmt.Errorf("configuration schema: %w", err)
	}
	return text, nil
}

const (
	nameSchema     = "^[A-Za-z][A-Za-z0-9_-]{0,63}$"
	durationSchema = `^\+?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`
	sizeSchema     = `^ *[0-9.]+(e\+?[0-9]+)? *([TGMK]iB|[TGMK]B)$`
	variableSchema = `\$\{[A-Za-z_]`
)

// orVariable also lets ${VAR} stand in place of s, as part of the text or all of it.
func orVariable(s schema) schema {
	return schema{"anyOf": []schema{s, {"type": "string", "pattern": variableSchema}}}
}

// schemaOf is what a value of type t may be at the key path of schemaAbout.
func schemaOf(t reflect.Type, path string) (s schema) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	about := schemaAbout[path]
	defer func() {
		for k, v := range about {
			if k == "description" || k == "default" {
				s[k] = v
			}
		}
	}()
	with := func(s schema) schema { // what is not for people limits the value itself
		for k, v := range about {
			if k != "description" && k != "default" {
				s[k] = v
			}
		}
		return s
	}
	switch t {
	case reflect.TypeFor[duration]():
		return orVariable(schema{"type": "string", "pattern": durationSchema})
	case reflect.TypeFor[orOff]():
		return orVariable(schema{"anyOf": []schema{{"type": "string", "pattern": durationSchema}, {"enum": []any{"off", false}}}})
	case reflect.TypeFor[size]():
		return orVariable(schema{"type": "string", "pattern": sizeSchema})
	case reflect.TypeFor[secretText]():
		return schema{"type": "string"}
	case reflect.TypeFor[StreamConfigs]():
		one := object(reflect.TypeFor[StreamConfig](), path)
		one["required"] = []string{"source"}
		return byName(schema{"anyOf": []schema{{"type": "string"}, one}})
	case reflect.TypeFor[WatchConfigs]():
		one := object(reflect.TypeFor[WatchConfig](), path)
		one["required"] = []string{"stream", "ask"}
		return byName(one)
	case reflect.TypeFor[StreamConfig](): // stream_defaults
		s := object(t, "streams")
		delete(s["properties"].(schema), "source")
		delete(s["properties"].(schema), "password_file")
		return s
	case reflect.TypeFor[MemoryConfig]():
		return memorySchema()
	case reflect.TypeFor[TLSConfig]():
		files := object(t, path)
		files["required"] = []string{"cert", "key"}
		return schema{"anyOf": []schema{{"enum": []string{"self-signed"}}, {"type": "string", "pattern": variableSchema}, files}}
	}
	switch t.Kind() {
	case reflect.Struct:
		return object(t, path)
	case reflect.Slice:
		return with(schema{"type": "array", "items": schemaOf(t.Elem(), path+"[]")})
	case reflect.Int:
		return orVariable(with(schema{"type": "integer"}))
	case reflect.Float64:
		return orVariable(with(schema{"type": "number"}))
	case reflect.Bool:
		return orVariable(schema{"type": "boolean"})
	}
	return orVariable(with(schema{"type": "string"}))
}

func object(t reflect.Type, path string) schema {
	properties := schema{}
	for _, f := range reflect.VisibleFields(t) {
		if key, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); key != "" && key != "-" {
			properties[key] = schemaOf(f.Type, strings.TrimPrefix(path+"."+key, "."))
		}
	}
	return schema{"type": "object", "properties": properties, "additionalProperties": false}
}

func byName(one schema) schema {
	return schema{"type": "object", "patternProperties": schema{nameSchema: one}, "additionalProperties": false}
}

// memorySchema takes a strategy's name, perhaps with options after a colon, or a mapping in which only the options of its strategy stand.
func memorySchema() schema {
	properties := schema{"strategy": schema{"enum": strategyNames()}}
	var rules []schema
	for _, s := range strategies {
		keys := []string{"strategy"}
		for _, o := range s.options {
			keys = append(keys, o.name)
			properties[o.name] = true
		}
		rules = append(rules, schema{
			"if":   schema{"properties": schema{"strategy": schema{"const": s.name}}, "required": []string{"strategy"}},
			"then": schema{"propertyNames": schema{"enum": keys}},
		})
	}
	short := schema{"type": "string", "pattern": "^(" + strings.Join(strategyNames(), "|") + ")(:.*)?$"}
	long := schema{"type": "object", "properties": properties, "additionalProperties": false, "allOf": rules}
	return schema{"anyOf": []schema{short, {"type": "string", "pattern": variableSchema}, long}}
}
