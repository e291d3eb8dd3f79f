package main

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxConfig bounds what is parsed: a configuration of a thousand streams is a tenth of it.
const maxConfig = 1 << 20

// placedError is an error at a node of the configuration.
type placedError struct {
	node ast.Node // nil means nowhere in particular
	msg  string
}

func (e *placedError) Error() string { return e.msg }

// document is a configuration as it was read.
type document struct {
	text string
	root ast.Node                // nil for an empty one
	from map[*token.Token]string // the environment variables that values came from, where they are not the text's
}

// parseConfig decodes text strictly after ${VAR} and ${VAR:default} are replaced in its values, and values by the environment's. The
// document, by which later checks find their places, is never nil.
func parseConfig(text []byte, env environ) (c *Config, doc *document, err error) {
	doc = &document{text: string(text), from: map[*token.Token]string{}}
	defer func() {
		// The YAML library has panicked on malformed text before; a user's file must not end the program.
		if r := recover(); r != nil {
			c, err = nil, errors.New("not YAML that can be read")
		}
	}()
	if len(text) > maxConfig {
		return nil, doc, fmt.Errorf("longer than %d bytes", maxConfig)
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, doc, err
	}
	switch {
	case len(file.Docs) > 1:
		return nil, doc, &placedError{file.Docs[1].Body, "more than one document"}
	case len(file.Docs) == 1 && file.Docs[0].Body != nil:
		if doc.root, err = expand(file.Docs[0].Body, env.find); err != nil {
			return nil, doc, err
		}
	}
	if err := doc.override(env); err != nil {
		return nil, doc, err
	}
	c = new(Config)
	if doc.root == nil {
		return c, doc, nil
	}
	if err := yaml.NodeToValue(doc.root, c, yaml.Strict()); err != nil {
		return nil, doc, err
	}
	return c, doc, nil
}

var variable = regexp.MustCompile(`\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(:[^}]*)?\}`)

// expand replaces variables in the values (never the keys) below n. A value that consists of plain text is read again
// afterwards, so that threads: ${N} is a number; what was replaced can never become structure.
func expand(n ast.Node, lookup func(string) (string, bool)) (ast.Node, error) {
	var err error
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			if v.Value, err = expand(v.Value, lookup); err != nil {
				return nil, err
			}
		}
	case *ast.MappingValueNode:
		n.Value, err = expand(n.Value, lookup)
	case *ast.SequenceNode:
		for i := range n.Values {
			if n.Values[i], err = expand(n.Values[i], lookup); err != nil {
				return nil, err
			}
		}
	case *ast.StringNode:
		return expandString(n, lookup)
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		return nil, &placedError{n, "anchors, aliases and tags are not used here"}
	}
	return n, err
}

func expandString(n *ast.StringNode, lookup func(string) (string, bool)) (ast.Node, error) {
	missing := ""
	value := variable.ReplaceAllStringFunc(n.Value, func(m string) string {
		if strings.HasPrefix(m, "$$") {
			return m[1:]
		}
		name, fallback, has := strings.Cut(m[2:len(m)-1], ":")
		if v, ok := lookup(name); ok {
			return v
		}
		if !has {
			missing = name
		}
		return fallback
	})
	if missing != "" {
		return nil, &placedError{n, fmt.Sprintf("environment variable %s is not set; set it, or give a default as in ${NAME:default}", missing)}
	}
	if value == n.Value {
		return n, nil
	}
	tk := *n.Token
	tk.Value, tk.Origin = value, value
	if n.Token.Type == token.StringType { // unquoted
		if _, err := strconv.ParseInt(value, 10, 64); err == nil {
			tk.Type = token.IntegerType
			return ast.Integer(&tk), nil
		}
		if _, err := strconv.ParseFloat(value, 64); err == nil {
			tk.Type = token.FloatType
			return ast.Float(&tk), nil
		}
	}
	s := ast.String(&tk)
	s.Value = value
	return s, nil
}

// find returns the node at a dotted path below root, or the nearest one above it that exists.
func find(root ast.Node, path string) ast.Node {
	best := root
	for key := range strings.SplitSeq(path, ".") {
		var pairs []*ast.MappingValueNode
		switch n := best.(type) {
		case *ast.MappingNode:
			pairs = n.Values
		case *ast.MappingValueNode:
			pairs = []*ast.MappingValueNode{n}
		}
		next := ast.Node(nil)
		for _, p := range pairs {
			if k, ok := p.Key.(*ast.StringNode); ok && k.Value == key {
				next = p.Value
			}
		}
		if next == nil {
			return best
		}
		best = next
	}
	return best
}

// show writes err as file:line:column: message, then the line with a caret below; or as the environment variable that is wrong. Values
// that may be secret are cut out.
func (d *document) show(file string, err error) error {
	var tk *token.Token
	msg := err.Error()
	var placed *placedError
	var y yaml.Error
	switch {
	case errors.As(err, &placed):
		msg = placed.msg
		if placed.node != nil {
			tk = placed.node.GetToken()
		}
	case errors.As(err, &y):
		msg, tk = y.GetMessage(), y.GetToken()
	}
	msg = hideSecrets(msg)
	if name, ok := d.from[tk]; ok {
		return fmt.Errorf("config: %s (over %s): %s", name, file, msg)
	}
	if tk == nil || tk.Position == nil {
		return fmt.Errorf("config: %s: %s", file, msg)
	}
	p := tk.Position
	lines := strings.Split(d.text, "\n")
	if p.Line < 1 || p.Line > len(lines) {
		return fmt.Errorf("config: %s:%d:%d: %s", file, p.Line, p.Column, msg)
	}
	runes := []rune(strings.TrimRight(strings.ReplaceAll(lines[p.Line-1], "\t", " "), "\r"))
	at := min(max(p.Column-1, 0), len(runes))
	before := hideSecrets(string(runes[:at]))
	margin := fmt.Sprintf("%6d | ", p.Line)
	caret := strings.Repeat(" ", len(margin)+len([]rune(before))) + "^"
	return fmt.Errorf("config: %s:%d:%d: %s\n%s%s\n%s", file, p.Line, p.Column, msg, margin, hideSecrets(string(runes)), caret)
}

var (
	hiddenURL   = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*:(?://)?)[^\s"',]*@.*|([A-Za-z][A-Za-z0-9+.-]*://)\S.*`)
	hiddenValue = regexp.MustCompile(`(?i)(\S*(?:pass|secret|token|key|auth)[^\s:]*\s*[:=]\s*)[^\s{].*`)
)

// hideSecrets cuts everything that could be a credential out of one line, rather too much than too little.
func hideSecrets(line string) string {
	line = hiddenURL.ReplaceAllString(line, "$1$2…")
	return hiddenValue.ReplaceAllString(line, "$1…")
}

func checkHostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("want host:port, as in " + defaultListen)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return errors.New("want a port of 0 to 65535")
	}
	return nil
}
