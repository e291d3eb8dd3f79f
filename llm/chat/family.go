package chat

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"afterimage/llm"
)

// For returns the template of config.json's model_type. Where the language model decides, its own model_type (of llm_config or
// text_config) follows after a slash, as in "internvl_chat/phi3". A model_type that several families share ("llama") is refused;
// then the family itself may be named: "smollm2", "llama3", "vicuna".
func For(modelType string) (*Template, error) {
	switch modelType {
	case "qwen2_vl", "qwen2_5_vl", "flash_vstream_qwen2_vl":
		return qwenVL(modelType), nil
	case "qwen2":
		return chatML(modelType, "You are a helpful assistant."), nil
	case "llava_onevision", "llava_onevision/qwen2", "llava_qwen":
		return oneVision(modelType), nil
	case "smolvlm", "idefics3":
		return smolVLM(modelType), nil
	case "smollm2":
		return chatML(modelType, "You are a helpful AI assistant named SmolLM, trained by Hugging Face"), nil
	case "llama3":
		return llama3(modelType), nil
	case "vstream", "llava", "llava/llama", "llava_llama", "vicuna":
		return vicuna(modelType), nil
	case "internvl_chat/internlm2":
		return internLM2(modelType), nil
	case "internvl_chat/phi3":
		return internPhi3(modelType), nil
	case "phi3":
		return phi3(modelType), nil
	case "internvl_chat":
		return nil, fmt.Errorf("chat: model_type %q: the language model's own model_type decides, as in %q", modelType, modelType+"/phi3")
	case "llama":
		return nil, fmt.Errorf("chat: model_type %q is shared by families that are laid out differently: name smollm2, llama3 or vicuna", modelType)
	}
	return nil, fmt.Errorf("chat: model_type %.60q has no known template", modelType)
}

// ForConfig returns the template of a whole config.json; special reports whether the model's tokenizer has a special token, which
// tells families apart that share a model_type.
func ForConfig(config []byte, special func(name string) bool) (*Template, error) {
	var c struct {
		ModelType string `json:"model_type"`
		LLM       struct {
			ModelType     string   `json:"model_type"`
			Architectures []string `json:"architectures"`
		} `json:"llm_config"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("chat: config.json: %w", err)
	}
	switch c.ModelType {
	case "internvl_chat":
		language := c.LLM.ModelType
		if language == "" && slices.Contains(c.LLM.Architectures, "Phi3ForCausalLM") {
			language = "phi3" // older files name the class only
		} else if language == "" && slices.Contains(c.LLM.Architectures, "InternLM2ForCausalLM") {
			language = "internlm2"
		}
		return For("internvl_chat/" + language)
	case "llama":
		switch {
		case special("<|start_header_id|>"):
			return For("llama3")
		case special("<|im_start|>"):
			return For("smollm2")
		}
		return For("vicuna")
	}
	return For(c.ModelType)
}

// chatML is <|im_start|>role, the words on a line of their own, <|im_end|>.
func chatML(name, system string) *Template {
	return &Template{Name: name, system: system,
		open: func(w *writer, role string, _ *llm.Part) {
			w.control("<|im_start|>")
			w.text(role + "\n")
		},
		shut: func(w *writer, _ string) {
			w.control("<|im_end|>")
			w.text("\n")
		},
	}
}

// qwenVL is Qwen2-VL's, Qwen2.5-VL's and Flash-VStream-Qwen's.
func qwenVL(name string) *Template {
	t := chatML(name, "You are a helpful assistant.")
	t.before, t.after = []string{"<|vision_start|>"}, []string{"<|vision_end|>"}
	return t
}

// oneVision is LLaVA-OneVision's qwen_1_5: a picture is a line of its own before the words.
func oneVision(name string) *Template {
	t := chatML(name, "You are a helpful assistant.")
	t.line = true
	return t
}

// smolVLM is SmolVLM's and SmolVLM2's: one <|im_start|> in all, and a space after the colon unless a picture comes next.
func smolVLM(name string) *Template {
	return &Template{Name: name, bos: "<|im_start|>",
		before: []string{"<fake_token_around_image>", "<global-img>"}, after: []string{"<fake_token_around_image>"},
		open: func(w *writer, role string, first *llm.Part) {
			w.text(capital(role) + ":")
			if first != nil && first.Visual.Rows == 0 {
				w.text(" ")
			}
		},
		shut: func(w *writer, _ string) {
			w.control("<end_of_utterance>")
			w.text("\n")
		},
	}
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func llama3(name string) *Template {
	return &Template{Name: name, bos: "<|begin_of_text|>", trim: true,
		open: func(w *writer, role string, _ *llm.Part) {
			w.control("<|start_header_id|>")
			w.text(role)
			w.control("<|end_header_id|>")
			w.text("\n\n")
		},
		shut: func(w *writer, _ string) { w.control("<|eot_id|>") },
	}
}

// vicuna is Vicuna v1.1 as LLaVA-1.5 and Flash-VStream-7b were trained with it.
func vicuna(name string) *Template {
	return &Template{Name: name, bos: "<s>", line: true, quiet: true,
		system: "A chat between a curious user and an artificial intelligence assistant. " +
			"The assistant gives helpful, detailed, and polite answers to the user's questions.",
		open: func(w *writer, role string, first *llm.Part) {
			switch {
			case role == User:
				w.text("USER: ")
			case role == Assistant && first == nil:
				w.text("ASSISTANT:")
			case role == Assistant:
				w.text("ASSISTANT: ")
			}
		},
		shut: func(w *writer, role string) {
			if role == Assistant {
				w.control("</s>")
			} else {
				w.text(" ")
			}
		},
	}
}

const internSystem = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"

// internLM2 is InternVL2's with InternLM2: ChatML without the line ends between turns.
func internLM2(name string) *Template {
	t := chatML(name, internSystem)
	t.bos, t.line = "<s>", true
	t.before, t.after = []string{"<img>"}, []string{"</img>"}
	t.shut = func(w *writer, _ string) { w.control("<|im_end|>") }
	return t
}

// internPhi3 is InternVL2's with Phi-3, and so VideoChat-Online's.
func internPhi3(name string) *Template {
	t := phi3(name)
	t.bos, t.system, t.line = "<s>", internSystem, true
	t.before, t.after = []string{"<img>"}, []string{"</img>"}
	t.shut = func(w *writer, _ string) { w.control("<|end|>") }
	return t
}

func phi3(name string) *Template {
	return &Template{Name: name,
		open: func(w *writer, role string, _ *llm.Part) {
			w.control("<|" + role + "|>")
			w.text("\n")
		},
		shut: func(w *writer, _ string) {
			w.control("<|end|>")
			w.text("\n")
		},
	}
}
