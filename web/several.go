package web

import (
	"context"
	"fmt"

	"afterimage/qa"
)

// combined is one answer, with what it rests on of each stream that was asked.
type combined struct {
	qa.Answer
	about []about
}

type about struct {
	stream   string
	evidence qa.Evidence
}

// ask asks one stream, or several as qa.Several does.
func (s *Server) ask(ctx context.Context, streams []*served, q qa.Question, emit func(string) error) (combined, error) {
	if len(streams) == 1 {
		a, err := streams[0].Ask(ctx, q, emit)
		return combined{a, []about{{streams[0].Name(), a.Evidence}}}, err
	}
	if q.MaxVisualTokens > 0 && q.MaxVisualTokens < len(streams) {
		return combined{}, fmt.Errorf("%w: less than one visual token for each of %d streams", qa.ErrQuestion, len(streams))
	}
	names, all := make([]string, len(streams)), qa.Several{Streams: make(map[string]qa.Asker, len(streams))}
	for i, st := range streams {
		names[i], all.Streams[st.Name()] = st.Name(), st.Stream
	}
	a, err := s.metrics.measure(ctx, "", emit, func(emit func(string) error) (qa.Answer, error) { return all.Ask(ctx, names, q, emit) })
	c := combined{Answer: a}
	for _, camera := range a.Evidence.Cameras {
		for _, it := range a.Evidence.Items {
			if it.Stream == camera.Stream {
				camera.Items = append(camera.Items, it)
			}
		}
		c.about = append(c.about, about{camera.Stream, camera.Evidence})
	}
	return c, err
}
