package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

type decoderJSON struct {
	Type        string        `json:"type"`
	Decoders    []decoderJSON `json:"decoders"`
	Pattern     pattern       `json:"pattern"`
	Content     string        `json:"content"`
	Start       int           `json:"start"`
	Stop        int           `json:"stop"`
	Replacement string        `json:"replacement"`
	Scheme      *string       `json:"prepend_scheme"`
	Old         *bool         `json:"add_prefix_space"`
}

// steps returns the decoders that are not sequences, in order.
func (d decoderJSON) steps(where string) (list []decoderJSON, wheres []string) {
	if d.Type != "Sequence" {
		return []decoderJSON{d}, []string{where}
	}
	for i, sub := range d.Decoders {
		l, w := sub.steps(fmt.Sprintf("%s.decoders[%d]", where, i))
		list, wheres = append(list, l...), append(wheres, w...)
	}
	return list, wheres
}

// decoder reads how tokens become text and returns what a token of a name says by itself. A stream has to know that at once, so only
// those orders of steps are taken in which a token's text depends on nothing after it.
func (t *Tokenizer) decoder(raw json.RawMessage, byteLevel bool) (func(name string) piece, error) {
	if byteLevel && isNull(raw) {
		return sayBytes, nil
	}
	if isNull(raw) {
		return nil, errors.New("decoder: there is none")
	}
	var d decoderJSON
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("decoder: %w", err)
	}
	list, wheres := d.steps("decoder")
	if len(list) == 1 && list[0].Type == "ByteLevel" {
		return sayBytes, nil
	}
	if byteLevel {
		return nil, fmt.Errorf("decoder: type %.40q is not supported together with pre_tokenizer ByteLevel", d.Type)
	}
	var from, to []string // what Replace does to a token
	bytes, fused := false, false
	for i, step := range list {
		where := wheres[i]
		switch step.Type {
		case "Replace":
			switch {
			case step.Pattern.String == nil || *step.Pattern.String == "":
				return nil, fmt.Errorf("%s: only a String pattern is supported", where)
			case bytes || fused:
				return nil, fmt.Errorf("%s: Replace is supported before ByteFallback and Fuse only", where)
			}
			from, to = append(from, *step.Pattern.String), append(to, step.Content)
		case "ByteFallback":
			if fused {
				return nil, fmt.Errorf("%s: ByteFallback is supported before Fuse only", where)
			}
			bytes, t.decode.bytes = true, runs
		case "Fuse":
			fused = true
		case "Strip":
			if !fused || step.Stop != 0 || step.Start < 0 || step.Start > 1 || step.Content == "" || t.decode.drop != "" {
				return nil, fmt.Errorf("%s: Strip is supported after Fuse, of one character at the beginning, only", where)
			}
			if step.Start == 1 {
				t.decode.drop = step.Content
			}
		case "Metaspace":
			if len(list) > 1 {
				return nil, fmt.Errorf("%s: Metaspace is supported alone only", where)
			}
			scheme, err := prependScheme(step.Scheme, step.Old)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			if step.Replacement == "" {
				return nil, fmt.Errorf("%s: no replacement", where)
			}
			if scheme == never {
				from, to = append(from, step.Replacement), append(to, " ")
			} else {
				t.decode.marker = step.Replacement
			}
		default:
			return nil, fmt.Errorf("%s: type %.40q is not supported", where, step.Type)
		}
	}
	return func(name string) piece {
		for i := range from {
			name = strings.ReplaceAll(name, from[i], to[i])
		}
		if b, ok := byteOf(name); bytes && ok {
			return piece{byte: int16(b)}
		}
		return piece{text: name, byte: -1}
	}, nil
}

// byteOf returns the byte that a byte token such as "<0x0A>" stands for.
func byteOf(name string) (byte, bool) {
	if len(name) != 6 || name[:3] != "<0x" || name[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(name[3:5], 16, 8)
	return byte(b), err == nil
}

// sayBytes is what a token of a byte-level vocabulary says.
func sayBytes(name string) piece {
	if raw, ok := rawBytes(name); ok {
		name = raw
	}
	return piece{text: name, byte: -1}
}
