package hub

import (
	"embed"
	"strings"
)

// Entry is what is known of a public model before it is here.
type Entry struct {
	Short    string // the name that users type
	Repo     string
	Revision string // "main", or the one that has safetensors
	Family   string // model_type of its config.json
	Licence  string // as the hub names it; "" if that is not known
	Bytes    int64  // of its files of weights, to three figures as its page lists them; 0 if that is not known
	For      string // what it is good for
	Hardware string // advice by the size of its weights; "doctor --model" measures
	Memory   string // how it remembers
}

const (
	tokensAfter = "a picture is what the language model reads (after the join); spans of time are averages of such rows"
	laptop      = "a laptop's processor, int8 for speed"
	cores       = "many cores, or a GPU of 8 GB"
	gpu12       = "a GPU of 12 GB; 8 GB with int8 or int4"
	gpu24       = "a GPU of 24 GB; 12 GB with int8, 8 GB with int4"
)

// Catalogue is every short name, by family and size.
//
// Sizes are those of the files' pages on the hub, except qwen2-vl-2b's, whose re-saved copies were looked at. Where a field is empty,
// no source was found: flash-vstream-qwen-7b (size, licence), videochat-online-4b (licence: its page names none), smolvlm-500m and
// smolvlm-2.2b (sizes). The size of qwen2.5-vl-7b is that of its configuration in bfloat16.
var Catalogue = []Entry{
	{"smolvlm2-256m", "HuggingFaceTB/SmolVLM2-256M-Video-Instruct", mainRevision, "smolvlm", "apache-2.0", 1_030_000_000,
		"describing what a camera shows, in short sentences; the smallest", laptop, tokensAfter + "; 64 rows a picture"},
	{"smolvlm2-500m", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", mainRevision, "smolvlm", "apache-2.0", 2_030_000_000,
		"the same, with fewer mistakes", laptop, tokensAfter + "; 64 rows a picture"},
	{"smolvlm2-2.2b", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", mainRevision, "smolvlm", "apache-2.0", 8_990_000_000,
		"questions about details and short events", cores, tokensAfter + "; 81 rows a picture"},
	{"smolvlm-256m", "HuggingFaceTB/SmolVLM-256M-Instruct", mainRevision, "idefics3", "apache-2.0", 513_000_000,
		"still pictures; smolvlm2-256m was also trained on video", laptop, tokensAfter + "; 64 rows a picture"},
	{"smolvlm-500m", "HuggingFaceTB/SmolVLM-500M-Instruct", mainRevision, "idefics3", "apache-2.0", 0,
		"still pictures; smolvlm2-500m was also trained on video", laptop, tokensAfter + "; 64 rows a picture"},
	{"smolvlm-2.2b", "HuggingFaceTB/SmolVLM-Instruct", mainRevision, "idefics3", "apache-2.0", 0,
		"still pictures; smolvlm2-2.2b was also trained on video", cores, tokensAfter + "; 81 rows a picture"},
	{"qwen2-vl-2b", "Qwen/Qwen2-VL-2B-Instruct", mainRevision, "qwen2_vl", "apache-2.0", 4_420_000_000,
		"reading text in pictures, several languages", cores, tokensAfter + "; two frames make one unit, its rows as many as its size asks for"},
	{"qwen2-vl-7b", "Qwen/Qwen2-VL-7B-Instruct", mainRevision, "qwen2_vl", "apache-2.0", 16_570_000_000,
		"the same, much better", gpu24, tokensAfter + "; two frames make one unit, its rows as many as its size asks for"},
	{"qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", mainRevision, "qwen2_5_vl", "qwen-research", 7_510_000_000,
		"text, places in pictures, longer video", gpu12, tokensAfter + "; two frames make one unit, its rows as many as its size asks for"},
	{"qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", mainRevision, "qwen2_5_vl", "apache-2.0", 16_600_000_000,
		"the same, better", gpu24, tokensAfter + "; two frames make one unit, its rows as many as its size asks for"},
	{"flash-vstream-qwen-7b", "zhang9302002/Flash-VStream-Qwen-7b", mainRevision, "flash_vstream_qwen2_vl", "", 0,
		"long video in constant memory (Flash-VStream, 2025)", gpu24,
		"flash with compat: 60 averaged units and 30 whole ones, kept before the join; up to 11,520 rows a question"},
	{"internvl2-2b", "OpenGVLab/InternVL2-2B", mainRevision, "internvl_chat", "mit", 4_410_000_000,
		"general questions, text in pictures", cores, "pictures are kept before the join (16x16 rows of 4096)"},
	{"internvl2-4b", "OpenGVLab/InternVL2-4B", mainRevision, "internvl_chat", "mit", 8_300_000_000,
		"the same, better; a long prompt costs much K/V", gpu12, "pictures are kept before the join (16x16 rows of 4096)"},
	{"videochat-online-4b", "MCG-NJU/VideoChatOnline-4B", mainRevision, "internvl_chat", "", 8_290_000_000,
		"questions while a video runs (VideoChat-Online)", gpu12,
		"pyramid: three lists of 16x16, 8x8 and 4x4 rows, kept before the join, each with the second it was seen at"},
	{"llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", mainRevision, "llava", "llama2", 14_130_000_000,
		"still pictures; a well-known baseline", gpu24, tokensAfter + "; 576 rows a picture"},
	{"flash-vstream-7b", "IVGSZ/Flash-VStream-7b", "refs/pr/1", "vstream", "llama2", 14_130_000_000,
		"hours of video in 681 rows (Flash-VStream, 2024)", gpu24,
		"star: spatial, temporal, abstract and retrieved memory of 8x8 rows a frame, kept before the join; 681 rows a question"},
	{"llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", mainRevision, "llava_onevision", "apache-2.0", 1_790_000_000,
		"short answers; the small model of most papers on memory", laptop, tokensAfter + "; 196 rows a frame"},
	{"llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf", mainRevision, "llava_onevision", "apache-2.0", 16_060_000_000,
		"the model that most papers on memory use", gpu24, tokensAfter + "; 196 rows a frame"},
}

// Find returns the entry of a short name, in any case.
func Find(short string) (Entry, bool) {
	for _, e := range Catalogue {
		if strings.EqualFold(e.Short, short) {
			return e, true
		}
	}
	return Entry{}, false
}

// entryOf returns the entry of a repository at a revision.
func entryOf(repo, revision string) (Entry, bool) {
	for _, e := range Catalogue {
		if e.Repo == repo && e.Revision == revision {
			return e, true
		}
	}
	return Entry{}, false
}

// Entry returns what the Catalogue has of a name, by its repository.
func (n Name) Entry() (Entry, bool) {
	if e, ok := Find(n.Short); ok {
		return e, true
	}
	for _, e := range Catalogue {
		if strings.EqualFold(e.Repo, n.Repo) {
			return e, true
		}
	}
	return Entry{}, false
}

//go:embed configs/*.json
var configs embed.FS

// Config is the config.json that the model was published with, as far as its sizes and settings go; nil where it could not be
// established (configs/README.md says how, and which). It is for measuring what a model takes without its weights.
func (e Entry) Config() []byte {
	data, err := configs.ReadFile("configs/" + e.Short + ".json")
	if err != nil {
		return nil
	}
	return data
}
