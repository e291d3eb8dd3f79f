package tokenizer

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// Byte-level vocabularies, those over characters, and SentencePiece's own files.
var (
	byteNames  = []string{"afterimage", "gpt2", "qwen2", "llama3", "smollm", "smollm2"}
	runeNames  = []string{"llama2", "llama2first", "phi3", "gemma", "metaspace", "words", "split", "added", "unigram", "unigrambytes"}
	modelNames = []string{"spllama", "spuser", "spunused", "spnmt"}
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return b
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(read(t, name), v))
}

// texts are 43 hand-made strings, then 3,000 fuzzed ones.
func texts(t testing.TB) []string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(read(t, "texts.json.gz")))
	require.NoError(t, err)
	var list []string
	require.NoError(t, json.NewDecoder(z).Decode(&list))
	require.GreaterOrEqual(t, len(list), 3035)
	return list
}

func load1(t testing.TB, name string) *Tokenizer {
	t.Helper()
	var tok *Tokenizer
	var err error
	if slices.Contains(modelNames, name) {
		tok, err = LoadModel(read(t, name+".tokenizer.model"))
	} else {
		tok, err = Load(read(t, name+".tokenizer.json"))
	}
	require.NoError(t, err)
	return tok
}

type golden struct {
	Size    int
	IDs     string
	Texts   string
	Checks  []byte
	First   [][]int32
	Random  [][]int32
	Decoded []string
	Mixed   []struct {
		Parts [][2]string // a special token's name or a text
		IDs   []int32
	}
}

// TestGolden compares with Hugging Face's own library and Google's own: see testdata/make_golden.py.
func TestGolden(t *testing.T) {
	list := texts(t)
	for _, name := range slices.Concat(byteNames, runeNames, modelNames) {
		t.Run(name, func(t *testing.T) {
			tok := load1(t, name)
			var g golden
			readJSON(t, name+".golden.json", &g)
			require.Equal(t, g.Size, tok.VocabSize())
			require.Len(t, g.Checks, 2*len(list))
			allIDs, allTexts, bad := sha256.New(), sha256.New(), 0
			for i, text := range list {
				ids := tok.Encode(text)
				if i < len(g.First) {
					require.Equal(t, g.First[i], append([]int32{}, ids...), "%q", text)
				}
				back := tok.Decode(ids)
				a := sha256.Sum256([]byte(strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ","), "[]")))
				b := sha256.Sum256([]byte(back))
				allIDs.Write(a[:])
				allTexts.Write(b[:])
				if a[0] != g.Checks[2*i] || b[0] != g.Checks[2*i+1] {
					bad++
					if bad <= 5 {
						t.Errorf("text %d, %q: ids differ: %v, decoded text differs: %v", i, text, a[0] != g.Checks[2*i], b[0] != g.Checks[2*i+1])
						t.Logf("%v %q", ids, back)
					}
				}
			}
			require.Zero(t, bad, "of %d texts", len(list))
			require.Equal(t, g.IDs, hex.EncodeToString(allIDs.Sum(nil)))
			require.Equal(t, g.Texts, hex.EncodeToString(allTexts.Sum(nil)))
			for i, ids := range g.Random {
				require.Equal(t, g.Decoded[i], tok.Decode(ids), "%v", ids)
			}
			for _, m := range g.Mixed {
				require.Equal(t, m.IDs, mixed(tok, m.Parts), "%q", m.Parts)
			}
		})
	}
}

// mixed encodes a prompt of special tokens and texts part by part.
func mixed(tok *Tokenizer, parts [][2]string) []int32 {
	ids := []int32{}
	for i, p := range parts {
		if id, ok := tok.Special(p[0]); ok {
			ids = append(ids, id)
			continue
		}
		var at Place
		if i > 0 && (i > 1 || parts[0][0] != tok.BOS()) {
			at.After = parts[i-1][0]
		}
		if i+1 < len(parts) {
			at.Before = parts[i+1][0]
		}
		ids = append(ids, tok.EncodeAt(p[1], at)...)
	}
	return ids
}

// TestPublicVocabularies compares on real vocabularies, which are not committed: see testdata/public.py.
func TestPublicVocabularies(t *testing.T) {
	root := os.Getenv("AFTERIMAGE_TOKENIZERS")
	if root == "" {
		t.Skip("AFTERIMAGE_TOKENIZERS does not name the directory that testdata/public.py made")
	}
	dirs, err := os.ReadDir(root)
	require.NoError(t, err)
	list := texts(t)
	for _, d := range dirs {
		t.Run(d.Name(), func(t *testing.T) {
			began := time.Now()
			tok, err := Open(os.DirFS(filepath.Join(root, d.Name())))
			require.NoError(t, err)
			loaded := time.Since(began)
			raw, err := os.ReadFile(filepath.Join(root, d.Name(), "expected.json"))
			require.NoError(t, err)
			var want struct {
				IDs     [][]int32
				Decoded []string
			}
			require.NoError(t, json.Unmarshal(raw, &want))
			require.Len(t, want.IDs, len(list))
			ids, decoded := 0, 0
			for i, text := range list {
				got := append([]int32{}, tok.Encode(text)...)
				if !slices.Equal(want.IDs[i], got) {
					ids++
					t.Errorf("%q: %v, want %v", text, got, want.IDs[i])
				} else if back := tok.Decode(got); back != want.Decoded[i] {
					decoded++
					t.Errorf("%q: %q, want %q", text, back, want.Decoded[i])
				}
			}
			t.Logf("%d tokens, loaded in %v: of %d texts %d differ in ids, %d more in text", tok.VocabSize(), loaded, len(list), ids, decoded)
		})
	}
}

func TestSplitBehaviours(t *testing.T) {
	list := texts(t)
	var cases []struct {
		PreTokenizer json.RawMessage `json:"pre_tokenizer"`
		IDs          [][]int32
	}
	readJSON(t, "behaviours.json", &cases)
	require.Len(t, cases, 30)
	for _, c := range cases {
		tok, err := Load(patch(t, "pre_tokenizer", string(c.PreTokenizer)))
		require.NoError(t, err)
		for i, ids := range c.IDs {
			require.Equal(t, ids, append([]int32{}, tok.Encode(list[i])...), "%s on %q", c.PreTokenizer, list[i])
		}
	}
}

// patch returns the first golden tokenizer with one value replaced; path is dotted.
func patch(t testing.TB, path, value string) []byte { return patched(t, "afterimage", path, value) }

func patched(t testing.TB, name, path, value string) []byte {
	t.Helper()
	var root map[string]any
	readJSON(t, name+".tokenizer.json", &root)
	at, keys := root, strings.Split(path, ".")
	for _, k := range keys[:len(keys)-1] {
		at = at[k].(map[string]any)
	}
	at[keys[len(keys)-1]] = json.RawMessage(value)
	b, err := json.Marshal(root)
	require.NoError(t, err)
	return b
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ path, value, want string }{
		{"normalizer", `{"type":"Precompiled"}`, `normalizer: type "Precompiled" is not supported`},
		{"normalizer", `{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"BertNormalizer"}]}`, `normalizer.normalizers[1]: type "BertNormalizer"`},
		{"normalizer", `{"type":"Replace","content":"x"}`, `normalizer: no pattern`},
		{"normalizer", `{"type":"Replace","pattern":{"Regex":"(a"},"content":"x"}`, `normalizer: regex "(a"`},
		{"pre_tokenizer", `{"type":"Metaspace"}`, `pre_tokenizer: replacement "" is not one character`},
		{"pre_tokenizer", `{"type":"Metaspace","replacement":"▁","prepend_scheme":"second"}`, `prepend_scheme "second"`},
		{"pre_tokenizer", `{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","add_prefix_space":false}`, `contradicts add_prefix_space`},
		{"pre_tokenizer", `{"type":"UnicodeScripts"}`, `pre_tokenizer: type "UnicodeScripts"`},
		{"pre_tokenizer", `null`, `neither byte tokens nor an unknown token`},
		{"pre_tokenizer", `{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]}`, `pretokenizers[1]: nothing may follow ByteLevel`},
		{"pre_tokenizer", `{"type":"Split","behavior":"Isolated","pattern":{"Regex":"(a"}}`, `regex "(a"`},
		{"pre_tokenizer", `{"type":"Split","behavior":"Isolated","pattern":{"Regex":"[a&&b]"}}`, `intersection`},
		{"pre_tokenizer", `{"type":"Split","behavior":"Isolated","pattern":{}}`, `no pattern`},
		{"pre_tokenizer", `{"type":"Split","behavior":"Sideways","pattern":{"String":"a"}}`, `behavior "Sideways"`},
		{"decoder", `{"type":"Fuse"}`, `decoder: type "Fuse" is not supported together with pre_tokenizer ByteLevel`},
		{"model.type", `"Unigram"`, `model.type "Unigram" is not supported together with ByteLevel`},
		{"model.type", `"WordPiece"`, `model.type "WordPiece"`},
		{"model.byte_fallback", `true`, `byte_fallback`},
		{"model.dropout", `0.1`, `dropout`},
		{"model.continuing_subword_prefix", `"##"`, `continuing_subword_prefix`},
		{"model.end_of_word_suffix", `"</w>"`, `end_of_word_suffix`},
		{"model.vocab", `{}`, `model.vocab is empty`},
		{"model.vocab", `{"a":0,"b":0}`, `share id 0`},
		{"model.vocab", `{"a":-1}`, `out of range`},
		{"model.vocab", `{"a":2147483647}`, `out of range`},
		{"model.merges", `["a"]`, `merge "a" is not two tokens`},
		{"model.merges", `[["a","b","c"]]`, `a merge of 3 tokens`},
		{"model.merges", `["q 門"]`, `model.merges[0]: "門" is not in model.vocab`},
		{"added_tokens", `[{"id":5000000,"content":"xyz"}]`, `added_tokens[0]: id 5000000`},
		{"added_tokens", `[{"id":1,"content":"<|bos|>"}]`, `has id 1, but 0 in model.vocab`},
		{"added_tokens", `[{"id":500,"content":""}]`, `empty content`},
		{"added_tokens", `[{"id":37,"content":"Z","special":true}]`, `"Z" has id`},
	} {
		t.Run(c.path+" "+c.value, func(t *testing.T) {
			_, err := Load(patch(t, c.path, c.value))
			require.ErrorContains(t, err, "tokenizer: load: ")
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := Load([]byte("{"))
	require.Error(t, err)
	_, err = Load(nil)
	require.Error(t, err)
}

func TestRefusalsInCharacters(t *testing.T) {
	for _, c := range []struct{ name, path, value, want string }{
		{"llama2", "decoder", `{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]}`, `decoder.decoders[1]: ByteFallback is supported before Fuse only`},
		{"llama2", "decoder", `{"type":"Strip","content":" ","start":1,"stop":0}`, `decoder: Strip is supported after Fuse`},
		{"llama2", "decoder", `{"type":"Replace","pattern":{"Regex":"a"},"content":""}`, `decoder: only a String pattern`},
		{"llama2", "decoder", `{"type":"WordPiece"}`, `decoder: type "WordPiece" is not supported`},
		{"llama2", "decoder", `null`, `decoder: there is none`},
		{"llama2", "decoder", `{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","start":0,"stop":1}]}`, `decoders[1]: Strip`},
		{"llama2", "decoder", `{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Replace","pattern":{"String":"a"},"content":""}]}`, `Replace is supported before`},
		{"llama2", "decoder", `{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Metaspace","replacement":"_"}]}`, `Metaspace is supported alone`},
		{"llama2", "decoder", `{"type":"Metaspace"}`, `decoder: no replacement`},
		{"llama2", "model.byte_fallback", `false`, ``},
		{"llama2", "model.unk_token", `"<nothing>"`, ``},
		{"words", "model.unk_token", `"<nothing>"`, `model.unk_token: "<nothing>" is not in model.vocab`},
		{"words", "model.unk_token", `null`, `neither byte tokens nor an unknown token`},
		{"unigram", "model.unk_id", `null`, `neither byte tokens nor an unknown token`},
		{"unigram", "model.unk_id", `-1`, `model.unk_id -1 is out of range`},
		{"unigram", "model.unk_id", `100000`, `model.unk_id 100000 is out of range`},
		{"unigram", "model.vocab", `[]`, `model.vocab is empty`},
		{"unigram", "model.vocab", `[["a",0],["a",0]]`, `model.vocab[1] is not a new piece and its score`},
		{"unigram", "model.vocab", `[["a"]]`, `model.vocab[0] is not`},
		{"unigram", "model.vocab", `{"a":0}`, `model.vocab: json`},
	} {
		_, err := Load(patched(t, c.name, c.path, c.value))
		if c.want == "" {
			require.NoError(t, err, c.path)
		} else {
			require.ErrorContains(t, err, c.want)
		}
	}
}

// A byte's token that is special would make some text produce a special token, or not encode at all.
func TestRefusesSpecialByte(t *testing.T) {
	var f struct {
		Model struct{ Vocab map[string]int }
	}
	readJSON(t, "afterimage.tokenizer.json", &f)
	b, err := json.Marshal([]Added{{ID: int32(f.Model.Vocab["a"]), Content: "a", Special: true}})
	require.NoError(t, err)
	_, err = Load(patch(t, "added_tokens", string(b)))
	require.ErrorContains(t, err, "no token for byte 0x61")
}

func TestSpecialTokensCannotBeForged(t *testing.T) {
	for _, name := range byteNames {
		tok := load1(t, name)
		for _, s := range []string{"<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|segment|>", "<|detail|>", "<|newest|>"} {
			id, ok := tok.Special(s)
			require.True(t, ok, s)
			ids := tok.Encode("x" + s + s + " " + s)
			require.NotContains(t, ids, id)
			require.Equal(t, strings.TrimLeft(tok.Decode(ids), " "), "x"+s+s+" "+s)
			require.Empty(t, tok.Decode([]int32{id}))
		}
		_, ok := tok.Special("a")
		require.False(t, ok)
	}
}

// Of vocabularies over characters too, no text becomes a special token, unless it is the unknown one where there is nothing else.
func TestSpecialTokensCannotBeForgedInCharacters(t *testing.T) {
	for _, name := range slices.Concat(runeNames, modelNames) {
		tok := load1(t, name)
		var all strings.Builder
		for s := range tok.special {
			all.WriteString(s + " x" + s + s)
		}
		for _, id := range tok.Encode(all.String() + "<0x3C>") {
			for s, sp := range tok.special {
				require.True(t, sp.id != id || s == "<unk>", "%s: %q", name, s)
			}
		}
	}
	// Neither a merge, nor a character, nor a byte token may lead to one.
	data := []byte(`{"normalizer":null,"pre_tokenizer":null,"decoder":{"type":"Fuse"},"added_tokens":[
		{"id":1,"content":"ab","special":true},{"id":1,"content":"ab"},{"id":2,"content":"c","special":true,"normalized":true}],
		"model":{"type":"BPE","unk_token":"<unk>","ignore_merges":true,"vocab":{"<unk>":0,"ab":1,"c":2,"a":3,"b":4},"merges":["a b"]}}`)
	tok, err := Load(data)
	require.NoError(t, err)
	require.Equal(t, []int32{3, 4, 0, 3, 4}, tok.Encode("abcab"))
	var f map[string]any
	readJSON(t, "llama2.tokenizer.json", &f)
	f["added_tokens"] = []Added{{ID: 13, Content: "<0x0A>", Special: true}}
	data, err = json.Marshal(f)
	require.NoError(t, err)
	_, err = Load(data)
	require.ErrorContains(t, err, "model.vocab: 255 of the 256 byte tokens")
}

// A prompt's text that goes on where another stopped has no space before it.
func TestEncodeInside(t *testing.T) {
	for _, name := range []string{"llama2", "llama2first", "phi3", "spllama", "gpt2"} {
		tok := load1(t, name)
		require.Equal(t, "two words", strings.TrimPrefix(tok.Decode(append(tok.Encode("two "), tok.EncodeAt("words", Place{Inside: true})...)), " "), name)
		require.NotEqual(t, tok.Encode("words"), tok.EncodeAt("words", Place{Inside: true}), name)
		require.Empty(t, tok.EncodeAt("", Place{Inside: true}))
	}
}

func TestStreamByteFallback(t *testing.T) {
	bike := []byte("🚲")
	for name, want := range map[string][2]string{
		"llama2":  {"", "🚲"}, // Hugging Face takes byte tokens in a row together
		"spllama": {"🚲", ""}, // SentencePiece character by character
	} {
		tok := load1(t, name)
		var bytes *[256]int32
		switch m := tok.model.(type) {
		case *runeBPE:
			bytes = m.bytes
		case *spBPE:
			bytes = m.bytes
		}
		space, x := tok.Encode("a")[0], tok.EncodeAt("a", Place{Inside: true})[0]
		s := tok.NewStream()
		require.Equal(t, strings.TrimPrefix(tok.pieces[space].text, " "), s.Push(space), "the space before the first word goes")
		for _, b := range bike[:3] {
			require.Empty(t, s.Push(bytes[b]))
		}
		require.Equal(t, want[0], s.Push(bytes[bike[3]]))
		eos, ok := tok.Special("</s>")
		require.True(t, ok)
		require.Empty(t, s.Push(eos))
		require.Equal(t, want[1]+"a", s.Push(x))
		require.Empty(t, s.Push(bytes[0xF0]))
		require.Equal(t, "\uFFFDa", s.Push(x), "a character that never became whole")
		require.Empty(t, s.Push(bytes[0xF0]))
		require.Empty(t, s.Push(bytes[0x9F]))
		require.Equal(t, "\uFFFD\uFFFD", s.Flush())
	}
}

func TestDecodeSkipsUnknown(t *testing.T) {
	tok := load1(t, "afterimage")
	require.Equal(t, "ab", tok.Decode([]int32{-1, tok.Encode("a")[0], 1 << 30, int32(tok.VocabSize()), tok.Encode("b")[0]}))
	require.Empty(t, tok.Decode(nil))
}

func TestStreamHoldsBackHalfCharacters(t *testing.T) {
	tok := load1(t, "smollm")
	byteOf := func(b byte) int32 { return tok.model.(*byteBPE).bytes[b] }
	s := tok.NewStream()
	require.Equal(t, "a", s.Push(byteOf('a')))
	for _, b := range []byte("🚲")[:3] {
		require.Empty(t, s.Push(byteOf(b)))
	}
	require.Equal(t, "🚲", s.Push(byteOf("🚲"[3])))
	require.Empty(t, s.Flush())
	require.Empty(t, s.Push(byteOf(0xE2)))
	require.Equal(t, "\uFFFDb", s.Push(byteOf('b')), "the half character is given up when another begins")
	require.Empty(t, s.Push(byteOf(0xF0)))
	require.Equal(t, "\uFFFD", s.Flush())
	require.Equal(t, "c", s.Push(byteOf('c')), "a Stream may go on after Flush")
}

// One word of a megabyte, and text made for the patterns to backtrack on, must not stop the machine.
func TestHostileTextIsBounded(t *testing.T) {
	for _, name := range slices.Concat(byteNames, runeNames, modelNames) {
		tok := load1(t, name)
		for _, text := range []string{
			strings.Repeat("a", 1<<16), strings.Repeat(" ", 1<<14) + "x", strings.Repeat("ab 1", 1<<13), strings.Repeat("\n ", 1<<12),
			strings.Repeat("<", 1<<14), strings.Repeat("<b> ", 1<<12), strings.Repeat("門", 1<<14),
		} {
			start := time.Now()
			back := tok.Decode(tok.Encode(text))
			require.Less(t, time.Since(start), 20*time.Second, "it takes milliseconds")
			if slices.Contains(byteNames, name) {
				require.Equal(t, strings.TrimLeft(text, " "), strings.TrimLeft(back, " "))
			}
		}
	}
}

func TestRegexTimeout(t *testing.T) {
	tok, err := Load(patch(t, "pre_tokenizer", `{"type":"Sequence","pretokenizers":[
		{"type":"Split","behavior":"Isolated","pattern":{"Regex":"(a+)+$|x"}},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}`))
	require.NoError(t, err)
	text := "x" + strings.Repeat("a", 64) + "! and more words é" + strings.Repeat(" a", 20)
	start := time.Now()
	require.Equal(t, text, tok.Decode(tok.Encode(text)))
	require.Less(t, time.Since(start), time.Minute, "the match is given up; without that it would take years")
}

func TestInvalidUTF8(t *testing.T) {
	tok := load1(t, "afterimage")
	require.Equal(t, "a\uFFFD\uFFFDb", tok.Decode(tok.Encode("a\xff\xe2b")))
}

func FuzzRoundTrip(f *testing.F) {
	for _, s := range texts(f)[:60] {
		f.Add(s)
	}
	f.Add("\xff\xed\xa0\x80")
	var toks []*Tokenizer
	for _, n := range []string{"afterimage", "llama3", "smollm"} {
		toks = append(toks, load1(f, n))
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := string([]rune(s)) // s itself where it is valid
		for _, tok := range toks {
			ids := tok.Encode(s)
			require.Equal(t, want, tok.Decode(ids))
			var b strings.Builder
			st := tok.NewStream()
			for _, id := range ids {
				require.GreaterOrEqual(t, id, int32(8), "no special token")
				p := st.Push(id)
				require.True(t, utf8.ValidString(p))
				b.WriteString(p)
			}
			require.Equal(t, want, b.String()+st.Flush())
		}
	})
}

// FuzzStream pushes any tokens at all: what comes out is whole characters, and no special token's name.
func FuzzStream(f *testing.F) {
	var toks []*Tokenizer
	for _, n := range slices.Concat(byteNames, runeNames, modelNames) {
		toks = append(toks, load1(f, n))
	}
	f.Add([]byte("\x01\x00\xF0\x00\x9F\x00\x05\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, tok := range toks {
			s := tok.NewStream()
			for ; len(data) > 1; data = data[2:] {
				require.True(t, utf8.ValidString(s.Push(int32(data[0])|int32(data[1])<<8)))
			}
			require.True(t, utf8.ValidString(s.Flush()))
			require.Empty(t, s.Flush())
		}
	})
}

// FuzzRoundTripCharacters is FuzzRoundTrip for vocabularies over characters, for which ▁ is a space.
func FuzzRoundTripCharacters(f *testing.F) {
	for _, s := range texts(f)[:60] {
		f.Add(s)
	}
	f.Add("\xff\xed\xa0\x80 ▁▁")
	toks := map[string]*Tokenizer{}
	for _, n := range []string{"llama2", "llama2first", "phi3", "gemma", "spllama", "spuser"} {
		toks[n] = load1(f, n)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all := strings.ReplaceAll(string([]rune(s)), "▁", " ")
		for name, tok := range toks {
			want := all
			if name == "llama2first" { // which puts no space before a text that begins with one, but takes one off
				want = strings.TrimPrefix(all, " ")
			}
			ids := tok.Encode(s)
			require.Equal(t, want, tok.Decode(ids), name)
			var b strings.Builder
			st := tok.NewStream()
			for _, id := range ids {
				require.Greater(t, id, int32(2), "no special token")
				p := st.Push(id)
				require.True(t, utf8.ValidString(p))
				b.WriteString(p)
			}
			require.Equal(t, want, b.String()+st.Flush())
		}
	})
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}`), "a")
	f.Add([]byte(`{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:a)"},"behavior":"Removed"},{"type":"ByteLevel"}]}}`), "b c")
	f.Add([]byte(`{"added_tokens":[{"id":3,"content":"a","special":true}],"decoder":{"type":"ByteLevel"}}`), "é")
	f.Add([]byte(`{"model":{"merges":["a b",["a","b"]]},"normalizer":{"type":"NFC"}}`), "")
	f.Add([]byte(`{"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"x"},{"type":"Replace","pattern":{"Regex":" +"},"content":""}]}}`), "a  b")
	f.Add([]byte(`{"pre_tokenizer":{"type":"Metaspace","replacement":"a","prepend_scheme":"first"},"decoder":{"type":"Metaspace","replacement":"a"}}`), "ba a")
	f.Add([]byte(`{"added_tokens":[{"id":3,"content":" x","lstrip":true,"rstrip":true,"single_word":true,"normalized":true}]}`), " x  x x")
	bases := []map[string]json.RawMessage{{}, {}, {}}
	for i, name := range []string{"afterimage", "llama2", "unigram"} {
		readJSON(f, name+".tokenizer.json", &bases[i])
	}
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		_, _ = Load(data) // must not panic, whatever it is
		// And the same pieces laid over a good file, so that hostile settings meet a whole vocabulary.
		var over map[string]json.RawMessage
		if json.Unmarshal(data, &over) != nil || len(text) > 1000 {
			return
		}
		for _, base := range bases {
			merged := maps.Clone(base)
			for k, v := range over {
				if k != "model" {
					merged[k] = v
				}
			}
			b, err := json.Marshal(merged)
			require.NoError(t, err)
			tok, err := Load(b)
			if err != nil {
				continue
			}
			unk := int32(-1)
			switch m := tok.model.(type) {
			case *runeBPE:
				unk = m.unk
			case *unigram:
				unk = m.unk
			}
			ids := tok.Encode(text)
			for _, id := range ids {
				require.Less(t, int(id), tok.VocabSize())
				for name, s := range tok.special {
					require.True(t, s.id != id || id == unk, name)
				}
			}
			require.True(t, utf8.ValidString(tok.Decode(ids)))
		}
	})
}

// BenchmarkEncodeText encodes 200 KB of text, as it is and as a single word.
func BenchmarkEncodeText(b *testing.B) {
	text := strings.Join(texts(b), " ")
	for len(text) < 200<<10 {
		text += text
	}
	text = strings.ToValidUTF8(text[:200<<10], "")
	for _, name := range []string{"qwen2", "llama3", "smollm", "llama2", "gemma", "unigram", "spllama", "spnmt"} {
		tok := load1(b, name)
		for kind, s := range map[string]string{"text": text, "word": strings.Repeat("parcels門", 20<<10)} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.SetBytes(int64(len(s)))
				for b.Loop() {
					tok.Encode(s)
				}
			})
		}
	}
}

func BenchmarkEncodeQuestion(b *testing.B) {
	tok := load1(b, "afterimage")
	const text = "Did the woman in the red coat leave before the van arrived at 14:03:10?"
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		tok.Encode(text)
	}
}
