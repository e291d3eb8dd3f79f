package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Open reads the tokenizer of a model directory: tokenizer.json, else tokenizer.model with the added tokens that
// tokenizer_config.json or added_tokens.json names, else vocab.json and merges.txt of the kind that tokenizer_config.json names. Its
// errors name the file; where there is none of these, it wraps fs.ErrNotExist.
func Open(fsys fs.FS) (*Tokenizer, error) {
	t, err := open(fsys)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return t, nil
}

func open(fsys fs.FS) (*Tokenizer, error) {
	data, err := fs.ReadFile(fsys, "tokenizer.json")
	if err == nil {
		return named("tokenizer.json")(load(data))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c, err := readBeside(fsys)
	if err != nil {
		return nil, err
	}
	data, err = fs.ReadFile(fsys, "tokenizer.model")
	if err == nil {
		dummy := always
		if c.Legacy != nil && !*c.Legacy { // then a text after a special token begins without a space
			dummy = first
		}
		return named("tokenizer.model")(loadModel(data, c.added, dummy))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	vocab, err := fs.ReadFile(fsys, "vocab.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("neither tokenizer.json, nor tokenizer.model, nor vocab.json with merges.txt: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	merges, err := fs.ReadFile(fsys, "merges.txt")
	if err != nil {
		return nil, err
	}
	return named("vocab.json and merges.txt")(c.fromVocab(vocab, merges))
}

func named(file string) func(*Tokenizer, error) (*Tokenizer, error) {
	return func(t *Tokenizer, err error) (*Tokenizer, error) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return t, nil
	}
}

// beside is what files beside a vocabulary say of it.
type beside struct {
	Class      string           `json:"tokenizer_class"`
	Legacy     *bool            `json:"legacy"`
	Decoder    map[string]Added `json:"added_tokens_decoder"`
	Additional []tokenName      `json:"additional_special_tokens"`

	added []Added // in order of their IDs
}

// tokenName is a token's name, alone or in an object with its other properties.
type tokenName string

func (n *tokenName) UnmarshalJSON(b []byte) error {
	var o struct{ Content string }
	if len(b) > 0 && b[0] == '{' {
		err := json.Unmarshal(b, &o)
		*n = tokenName(o.Content)
		return err
	}
	return json.Unmarshal(b, (*string)(n))
}

func readBeside(fsys fs.FS) (*beside, error) {
	var c beside
	if err := readOptional(fsys, "tokenizer_config.json", &c); err != nil {
		return nil, err
	}
	for id, a := range c.Decoder {
		n, err := strconv.ParseInt(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("tokenizer_config.json: added_tokens_decoder: %.40q is no ID", id)
		}
		a.ID = int32(n)
		c.added = append(c.added, a)
	}
	var older map[string]int32 // that name the token only; whether it is special stands elsewhere
	if err := readOptional(fsys, "added_tokens.json", &older); err != nil {
		return nil, err
	}
	var specials struct {
		Additional []tokenName `json:"additional_special_tokens"`
	}
	if err := readOptional(fsys, "special_tokens_map.json", &specials); err != nil {
		return nil, err
	}
	for name, id := range older {
		if slices.ContainsFunc(c.added, func(a Added) bool { return a.Content == name }) {
			continue
		}
		special := slices.Contains(c.Additional, tokenName(name)) || slices.Contains(specials.Additional, tokenName(name))
		c.added = append(c.added, Added{ID: id, Content: name, Special: special})
	}
	slices.SortFunc(c.added, func(a, b Added) int { return int(a.ID) - int(b.ID) })
	return &c, nil
}

// readOptional reads a file into v and leaves v as it is if there is no such file.
func readOptional(fsys fs.FS, name string, v any) error {
	data, err := fs.ReadFile(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		if err = json.Unmarshal(data, v); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	return err
}

// fromVocab puts vocab.json and merges.txt together with the pipeline that their class of tokenizer has.
func (c *beside) fromVocab(vocab, merges []byte) (*Tokenizer, error) {
	var f file
	switch strings.TrimSuffix(c.Class, "Fast") {
	case "Qwen2Tokenizer":
		f.Normalizer = json.RawMessage(`{"type":"NFC"}`)
		f.PreTokenizer = json.RawMessage(`{"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated","pattern":{"Regex":` +
			strconv.Quote(qwen2Pattern) + `}},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}`)
	case "GPT2Tokenizer":
		f.PreTokenizer = json.RawMessage(`{"type":"ByteLevel","add_prefix_space":false}`)
	default:
		return nil, fmt.Errorf("tokenizer_config.json: tokenizer_class %.40q is not supported", c.Class)
	}
	f.Decoder = json.RawMessage(`{"type":"ByteLevel"}`)
	f.Added, f.Model.Type, f.Model.Vocab = c.added, "BPE", vocab
	for i, line := range strings.Split(string(merges), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" || i == 0 && strings.HasPrefix(line, "#version") {
			continue
		}
		var m mergeJSON
		if err := m.parse(line); err != nil {
			return nil, fmt.Errorf("merges.txt: line %d: %w", i+1, err)
		}
		f.Model.Merges = append(f.Model.Merges, m)
	}
	return build(&f)
}

// qwen2Pattern is where Qwen2's tokenizer cuts a text.
const qwen2Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
