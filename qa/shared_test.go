package qa_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/llm"
	"afterimage/qa"
)

type idRecorder struct{ ids []uint64 }

func (r *idRecorder) Generate(_ context.Context, p llm.Prompt, _ llm.Options, _ func(llm.Token) error) (llm.Stats, error) {
	for _, part := range p {
		r.ids = append(r.ids, part.ID)
	}
	return llm.Stats{}, nil
}

func TestSharedKeepsStreamsApart(t *testing.T) {
	prompt := llm.Prompt{{Text: "no ID"}, {ID: 256}, {ID: 513}}
	seen := map[uint64]bool{}
	for stream := range uint16(3) {
		var r idRecorder
		_, err := qa.Shared(&r, stream).Generate(t.Context(), prompt, llm.Options{}, nil)
		require.NoError(t, err)
		require.Len(t, r.ids, 3)
		assert.Zero(t, r.ids[0], "a part without an ID must stay uncached")
		for _, id := range r.ids[1:] {
			assert.False(t, seen[id], "ID %d belongs to two streams", id)
			seen[id] = true
		}
	}
	assert.Equal(t, uint64(256), prompt[1].ID, "the caller's prompt was changed")
}
