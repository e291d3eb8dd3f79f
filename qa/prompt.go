package qa

import (
	"time"

	"afterimage/llm"
	"afterimage/memorybank"
)

// The control tokens of a prompt. Models are trained on exactly this layout.
const (
	bosToken       = "<|bos|>"
	userToken      = "<|user|>"
	assistantToken = "<|assistant|>"
)

var roleTokens = [...]string{memorybank.Synopsis: "<|segment|>", memorybank.Detail: "<|detail|>", memorybank.Newest: "<|newest|>"}

// AskPrompt lays out a question about entries, in the order that Select gave them: for each one its role, its wall time in six
// digits (HHMMSS in epoch's Location: a synopsis's start, else the frame's own) and its rows; then the question. The part
// before the question depends on the entries only, so its keys and values can be reused for the next question.
func AskPrompt(entries []memorybank.Entry, epoch time.Time, question string) llm.Prompt {
	return append(memoryPrompt(entries, epoch), llm.Part{Text: question}, llm.Part{Control: assistantToken})
}

// memoryPrompt is a prompt up to the question's words: the part that is the same for every question.
func memoryPrompt(entries []memorybank.Entry, epoch time.Time) llm.Prompt {
	p := make(llm.Prompt, 0, 3*len(entries)+4)
	p = append(p, llm.Part{Control: bosToken})
	for _, e := range entries {
		at := e.At
		if e.Role == memorybank.Synopsis {
			at = e.Start
		}
		p = append(p,
			llm.Part{Control: roleTokens[e.Role]},
			llm.Part{Text: epoch.Add(at).Format("150405")},
			llm.Part{Visual: e.Tokens, ID: e.ID})
	}
	return append(p, llm.Part{Control: userToken})
}
