package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// environ is the environment as NAME=value. It does not change while the program runs.
type environ []string

// lookup returns one variable.
func (e environ) lookup(name string) (string, bool) {
	for _, pair := range e {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			return v, true
		}
	}
	return "", false
}

// find returns what ${name} stands for: a variable, or else the credential of that name that the service manager hands over in
// CREDENTIALS_DIRECTORY, without the end of its last line.
func (e environ) find(name string) (string, bool) {
	if v, ok := e.lookup(name); ok {
		return v, true
	}
	dir, ok := e.lookup("CREDENTIALS_DIRECTORY")
	if !ok || dir == "" {
		return "", false
	}
	text, err := os.ReadFile(filepath.Join(dir, name)) // a name has no slash
	if err != nil {
		return "", false
	}
	return strings.TrimRight(string(text), "\r\n"), true
}

// keyPlace is a key of the configuration, below the root.
type keyPlace struct {
	path []string
	kind reflect.Type // what is there; an interface where anything may be
}

const overridePrefix = "AFTERIMAGE_"

// overridden are the top-level keys below which every variable must name a key: a mistake there is surely meant for the configuration.
// Beside them there are variables that have nothing to do with it.
var overridden = regexp.MustCompile(`^(STREAMS|STREAM_DEFAULTS|WATCHES|AUTH|TLS|WEBHOOKS)(_|$)`)

// override puts the values of variables such as AFTERIMAGE_STREAMS_YARD_FPS in the place of the file's. A name in a variable is that of the
// file in capitals, with _ for -. AFTERIMAGE_STREAMS_NAME_SOURCE and AFTERIMAGE_WATCHES_NAME_ASK also add what the file does not have. Empty
// variables do nothing.
func (d *document) override(env environ) error {
	vars := map[string]string{}
	var names []string
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, overridePrefix) && value != "" {
			if _, twice := vars[name]; !twice {
				names = append(names, name)
				vars[name] = value
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int { // those that add come first
		if x, y := adds(a), adds(b); x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		key := name[len(overridePrefix):]
		places := d.places(reflect.TypeFor[Config](), key, nil)
		switch {
		case len(places) == 0 && overridden.MatchString(key):
			return fmt.Errorf("the configuration has no key that the environment variable %s could replace", name)
		case len(places) == 0:
			continue
		case len(places) > 1:
			return fmt.Errorf("%s or %s could be meant by the environment variable %s", strings.Join(places[0].path, "."), strings.Join(places[1].path, "."), name)
		}
		value, err := d.value(name, vars[name], places[0].kind)
		if err != nil {
			return fmt.Errorf("%w, in the environment variable %s", err, name)
		}
		if err := d.put(name, places[0].path, value); err != nil {
			return fmt.Errorf("%w, in the environment variable %s", err, name)
		}
	}
	return nil
}

func adds(name string) bool {
	return strings.HasPrefix(name, "AFTERIMAGE_STREAMS_") && strings.HasSuffix(name, "_SOURCE") ||
		strings.HasPrefix(name, "AFTERIMAGE_WATCHES_") && strings.HasSuffix(name, "_ASK")
}

// inCapitals is a key as it stands in a variable's name.
func inCapitals(key string) string { return strings.ToUpper(strings.ReplaceAll(key, "-", "_")) }

// places are the keys that rest can mean where a t is, at path.
func (d *document) places(t reflect.Type, rest string, path []string) (out []keyPlace) {
	below := func(key string, inner reflect.Type) {
		at := append(slices.Clone(path), key)
		if rest == inCapitals(key) && inner == reflect.TypeFor[StreamConfig]() && len(path) == 1 {
			out = append(out, keyPlace{append(at, "source"), reflect.TypeFor[secretText]()}) // the short form, which leaves the rest as it is
		} else if rest == inCapitals(key) && settable(inner) {
			out = append(out, keyPlace{at, inner})
		} else if r, ok := strings.CutPrefix(rest, inCapitals(key)+"_"); ok {
			out = append(out, d.places(inner, r, at)...)
		}
	}
	named := func(inner reflect.Type, suffix string) {
		for _, p := range d.pairs(path) {
			if k, ok := p.Key.(*ast.StringNode); ok {
				below(k.Value, inner)
			}
		}
		if name, ok := strings.CutSuffix(rest, "_"+suffix); ok && len(out) == 0 && streamName.MatchString(name) {
			out = []keyPlace{{append(slices.Clone(path), strings.ToLower(name), strings.ToLower(suffix)), reflect.TypeFor[string]()}}
		}
	}
	switch t {
	case reflect.TypeFor[StreamConfigs]():
		named(reflect.TypeFor[StreamConfig](), "SOURCE")
	case reflect.TypeFor[WatchConfigs]():
		named(reflect.TypeFor[WatchConfig](), "ASK")
	case reflect.TypeFor[MemoryConfig]():
		if rest != "" {
			out = []keyPlace{{append(slices.Clone(path), strings.ToLower(rest)), reflect.TypeFor[any]()}}
		}
	default:
		if t.Kind() == reflect.Struct {
			for _, f := range reflect.VisibleFields(t) {
				if key, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); key != "" && key != "-" {
					below(key, f.Type)
				}
			}
		}
	}
	return out
}

// settable reports whether a t can be written as one value: of the mappings, only those with a short form.
func settable(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[MemoryConfig](), reflect.TypeFor[TLSConfig]():
		return true
	case reflect.TypeFor[StreamConfigs](), reflect.TypeFor[WatchConfigs]():
		return false
	}
	return t.Kind() != reflect.Struct
}

// value is a variable's text as a node for a kind. Lists of texts may also be written with commas.
func (d *document) value(name, text string, kind reflect.Type) (ast.Node, error) {
	for kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	read := text
	switch k := kind.Kind(); {
	case kind == reflect.TypeFor[[]string]() && !strings.HasPrefix(strings.TrimSpace(text), "["):
		quoted := []string{}
		for part := range strings.SplitSeq(text, ",") {
			quoted = append(quoted, "'"+strings.ReplaceAll(strings.TrimSpace(part), "'", "''")+"'")
		}
		read = "[" + strings.Join(quoted, ", ") + "]"
	case k == reflect.Slice, k == reflect.Interface, k == reflect.Bool, (k == reflect.Int || k == reflect.Float64) && kind.PkgPath() == "":
	default:
		tk := token.New(text, text, &token.Position{Line: 1, Column: 1})
		tk.Type = token.DoubleQuoteType // plain text, whatever it looks like
		s := ast.String(tk)
		s.Value = text
		d.from[tk] = name
		return s, nil
	}
	file, err := parser.ParseBytes([]byte(read), 0)
	if err != nil || len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return nil, errors.New("its value is not YAML that can be read")
	}
	body := file.Docs[0].Body
	if err := d.plain(name, body); err != nil {
		return nil, err
	}
	return body, nil
}

// plain remembers where the nodes below n come from. Only scalars and lists of them are allowed.
func (d *document) plain(name string, n ast.Node) error {
	switch n := n.(type) {
	case *ast.SequenceNode:
		for _, v := range n.Values {
			if err := d.plain(name, v); err != nil {
				return err
			}
		}
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode, *ast.LiteralNode:
	default:
		return errors.New("want one value, or a list of them")
	}
	d.from[n.GetToken()] = name
	return nil
}

// pairs is what the mapping at path holds.
func (d *document) pairs(path []string) []*ast.MappingValueNode {
	n := d.root
	for _, key := range path {
		var next ast.Node
		for _, p := range mapping(n) {
			if k, ok := p.Key.(*ast.StringNode); ok && k.Value == key {
				next = p.Value
			}
		}
		n = next
	}
	return mapping(n)
}

func mapping(n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

// put sets what is at path. What stood there in a short form becomes the long form.
func (d *document) put(name string, path []string, value ast.Node) error {
	text := func(s string) *ast.StringNode {
		tk := token.String(s, s, &token.Position{Line: 1, Column: 1})
		d.from[tk] = name
		return ast.String(tk)
	}
	long := func(n ast.Node, depth int) (*ast.MappingNode, error) {
		switch n := n.(type) {
		case nil, *ast.NullNode:
			return ast.Mapping(text("{").Token, false), nil
		case *ast.MappingNode:
			return n, nil
		case *ast.MappingValueNode:
			return ast.Mapping(n.Start, false, n), nil
		case *ast.StringNode:
			m := ast.Mapping(n.Token, false)
			switch {
			case depth == 2 && path[0] == "streams":
				m.Values = append(m.Values, ast.MappingValue(n.Token, text("source"), n))
			case path[depth-1] == "memory":
				m.Values = append(m.Values, ast.MappingValue(n.Token, text("strategy"), n))
			}
			return m, nil
		}
		return nil, fmt.Errorf("the file has no mapping at %s", strings.Join(path[:depth], "."))
	}
	top, err := long(d.root, 0)
	if err != nil {
		return err
	}
	d.root = top
	at := top
	for depth, key := range path {
		var pair *ast.MappingValueNode
		for _, p := range at.Values {
			if k, ok := p.Key.(*ast.StringNode); ok && k.Value == key {
				pair = p
			}
		}
		if pair == nil {
			pair = ast.MappingValue(text(":").Token, text(key), ast.Null(text("null").Token))
			at.Values = append(at.Values, pair)
		}
		if depth == len(path)-1 {
			pair.Value = value
			return nil
		}
		next, err := long(pair.Value, depth+1)
		if err != nil {
			return err
		}
		pair.Value, at = next, next
	}
	return nil
}
