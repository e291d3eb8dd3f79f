package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// normalizer changes a piece of text before it is cut.
type normalizer func(text string, at edge, deadline time.Time) string

// isNull reports whether a JSON value is missing or null.
func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// pattern is how a Split or Replace says what it looks for.
type pattern struct {
	Regex  *string
	String *string
}

func (p pattern) finder() (finder, error) {
	switch {
	case p.Regex != nil:
		re, err := compile(*p.Regex)
		if err != nil {
			return nil, err
		}
		return findRegex(re), nil
	case p.String != nil && *p.String != "":
		return findString(*p.String), nil
	}
	return nil, errors.New("no pattern")
}

// readNormalizer appends what one element of the file's normalizer does.
func readNormalizer(list []normalizer, raw json.RawMessage, where string) ([]normalizer, error) {
	if isNull(raw) {
		return list, nil
	}
	var n struct {
		Type        string            `json:"type"`
		Normalizers []json.RawMessage `json:"normalizers"`
		Prepend     string            `json:"prepend"`
		Pattern     pattern           `json:"pattern"`
		Content     string            `json:"content"`
		Left        bool              `json:"strip_left"`
		Right       bool              `json:"strip_right"`
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	simple := func(f func(string) string) ([]normalizer, error) {
		return append(list, func(text string, _ edge, _ time.Time) string { return f(text) }), nil
	}
	switch n.Type {
	case "Sequence":
		for i, sub := range n.Normalizers {
			var err error
			if list, err = readNormalizer(list, sub, fmt.Sprintf("%s.normalizers[%d]", where, i)); err != nil {
				return nil, err
			}
		}
		return list, nil
	case "NFC":
		return simple(norm.NFC.String)
	case "NFD":
		return simple(norm.NFD.String)
	case "NFKC":
		return simple(norm.NFKC.String)
	case "NFKD":
		return simple(norm.NFKD.String)
	case "Lowercase":
		return simple(lower)
	case "Strip":
		return simple(func(s string) string {
			if n.Left {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if n.Right {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		})
	case "Prepend":
		return append(list, func(text string, at edge, _ time.Time) string {
			if text == "" || at.inside {
				return text
			}
			return n.Prepend + text
		}), nil
	case "Replace":
		find, err := n.Pattern.finder()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		if n.Pattern.String != nil {
			return simple(func(s string) string { return strings.ReplaceAll(s, *n.Pattern.String, n.Content) })
		}
		return append(list, replace(find, n.Content)), nil
	}
	return nil, fmt.Errorf("%s: type %.40q is not supported", where, n.Type)
}

func replace(find finder, content string) normalizer {
	return func(text string, _ edge, deadline time.Time) string {
		var b strings.Builder
		at := 0
		find(text, deadline, func(from, to int) {
			b.WriteString(text[at:from])
			b.WriteString(content)
			at = to
		})
		return b.String() + text[at:]
	}
}

// lower is Rust's char::to_lowercase for each character.
func lower(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == 'İ' {
			b.WriteString("i\u0307")
		} else {
			b.WriteRune(unicode.ToLower(r))
		}
	}
	return b.String()
}
