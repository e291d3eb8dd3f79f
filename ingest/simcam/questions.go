package simcam

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"time"
)

// Truth is a question with its answer. Times are since stream start: At is when to ask, From..To is where the evidence lies.
// Answer is a full sentence, Short its canonical form as Score reads it out of any sentence. Evidence is every stretch of the past that
// the answer rests on (of EventOccurrence any one will do), by time; questions about now, about what never was, and off the topic have none.
type Truth struct {
	ID       string        `json:"id"`
	Type     string        `json:"type"`
	Form     string        `json:"form"` // how it is scored: yesno colour count direction which time none action facts order
	Question string        `json:"question"`
	Answer   string        `json:"answer"`
	Short    string        `json:"short"`
	At       time.Duration `json:"at_ns"`
	From     time.Duration `json:"from_ns"`
	To       time.Duration `json:"to_ns"`
	Closed   bool          `json:"closed"` // the answer is one of a few: yes/no, colour, count, direction, which
	Evidence []Span        `json:"evidence,omitempty"`
}

// Span is a stretch of stream time.
type Span struct {
	From time.Duration `json:"from_ns"`
	To   time.Duration `json:"to_ns"`
}

// The question types: VStream-QA's five, and what else people ask of a camera.
const (
	SceneSummary       = "scene_summary"
	ActionDescription  = "action_description"
	EventOccurrence    = "event_occurrence"
	OrderedNarrative   = "ordered_narrative"
	SequenceValidation = "sequence_validation"
	Counting           = "counting"
	Attribute          = "attribute"
	Direction          = "direction"
	Which              = "which"
	CurrentState       = "current_state"
	PastState          = "past_state"
	When               = "when"
	DidNotHappen       = "did_not_happen"
	OffTopic           = "off_topic"
)

// Types lists the types that Questions draws from.
var Types = []string{SceneSummary, ActionDescription, EventOccurrence, OrderedNarrative, SequenceValidation, Counting, Attribute,
	Direction, Which, CurrentState, PastState, When, DidNotHappen}

// settle is how long something must be in view, or a state have lasted, before a question relies on it: a frame or two of the
// stream may be lost, and a thing half out of the picture cannot be named.
const settle = 3 * time.Second

// happening is one moment worth telling.
type happening struct {
	at     time.Duration
	phrase string // a past clause without its time
	code   string // canonical, as codeOf reads the phrase
	a      Actor
}

// span is the happening as the pictures show it.
func (h happening) span() Span { return Span{h.at - time.Second, h.at + 2*time.Second} }

// appearances are when the episodes were in view.
func appearances(es ...Episode) (out []Span) {
	for _, e := range es {
		out = append(out, Span{e.Start, e.End})
	}
	return out
}

// asker draws questions about one script at one moment.
type asker struct {
	s       *Script
	r       *rand.Rand
	epoch   time.Time
	at      time.Duration
	seen    []Episode // in view for long enough
	entered map[Category]bool
	story   []happening // all that certainly happened, by time
}

// Questions returns up to n questions to be asked at stream time at by a viewer who has watched from the start, drawn with
// seed, the types in turn. Clock times in the text are epoch+t. Fewer come back when too little has happened yet. Answers are
// balanced per form: yes and no, colours, counts and orders are drawn first and a fitting question is looked for then.
func (s *Script) Questions(epoch time.Time, at time.Duration, n int, seed uint64) []Truth {
	return s.questions(epoch, at, n, seed, Types)
}

// TrainingQuestions is Questions with the off-topic type, which has no place in a score.
func (s *Script) TrainingQuestions(epoch time.Time, at time.Duration, n int, seed uint64) []Truth {
	return s.questions(epoch, at, n, seed, append([]string{OffTopic}, append(Types, Types...)...))
}

func (s *Script) questions(epoch time.Time, at time.Duration, n int, seed uint64, types []string) []Truth {
	a := &asker{s: s, r: source(seed^s.Seed*0x9e3779b97f4a7c15, fmt.Sprint("questions", at)), epoch: epoch, at: at}
	a.look()
	var out []Truth
	asked := map[string]bool{}
	order := a.r.Perm(len(types))
	for try := 0; len(out) < n && try < 6*n+2*len(types); try++ {
		q, ok := a.one(types[order[try%len(types)]])
		if !ok || asked[q.Question] {
			continue
		}
		asked[q.Question] = true
		q.ID, q.At = fmt.Sprintf("%d-%d-%d", s.Seed, at.Milliseconds(), len(out)), at
		q.To = min(q.To, at)
		sort.SliceStable(q.Evidence, func(i, j int) bool { return q.Evidence[i].From < q.Evidence[j].From })
		for i := range q.Evidence {
			e := &q.Evidence[i]
			e.From, e.To = max(0, e.From), min(e.To, at)
		}
		out = append(out, q)
	}
	return out
}

// look gathers what can be relied on at the moment of asking.
func (a *asker) look() {
	a.entered = map[Category]bool{}
	add := func(t time.Duration, actor Actor, code, phrase string) {
		if t > 0 && t <= a.at-settle {
			a.story = append(a.story, happening{t, phrase, code, actor})
		}
	}
	for _, e := range a.s.Episodes {
		if e.Start > a.at {
			break
		}
		if e.Start > a.at-settle {
			a.entered[e.Category] = true
			continue
		}
		a.seen = append(a.seen, e)
		who := article(e.Actor)
		switch e.Action {
		case Cross:
			add(e.Start, e.Actor, e.name()+":cross:"+side(e.Right), fmt.Sprintf("%s %s past to the %s", who, past(e.Category), side(e.Right)))
		case Park:
			add(e.Mid, e.Actor, e.name()+":park", who+" parked")
			add(e.Leave+time.Second, e.Actor, e.name()+":depart", who+" drove off")
		case Deliver:
			add(e.Mid+time.Second, e.Actor, e.name()+":deliver", who+" left a parcel")
		case Collect:
			add(e.Mid+time.Second, e.Actor, e.name()+":collect", who+" took the parcel")
		case Enter:
			add(e.Mid, e.Actor, e.name()+":enter", who+" went into the house")
		case Exit:
			add(e.Mid, e.Actor, e.name()+":exit", who+" came out of the house")
		}
	}
	for _, sw := range switches {
		for _, p := range a.s.On[sw] {
			if p.ByActor {
				continue
			}
			add(p.From, Actor{}, string(sw)+":on", "the "+string(sw)+" "+turned(sw, true))
			add(p.To, Actor{}, string(sw)+":off", "the "+string(sw)+" "+turned(sw, false))
		}
	}
	sort.SliceStable(a.story, func(i, j int) bool { return a.story[i].at < a.story[j].at })
}

func (a *asker) one(kind string) (Truth, bool) {
	switch kind {
	case SceneSummary:
		return a.scene()
	case ActionDescription:
		return a.action()
	case EventOccurrence:
		if a.r.IntN(2) == 0 {
			return a.occurredWithin()
		}
		return a.occurred()
	case OrderedNarrative:
		return a.narrative()
	case SequenceValidation:
		return a.sequence()
	case Counting:
		return a.count()
	case Attribute:
		return a.attribute()
	case Direction:
		return a.direction()
	case Which:
		return a.which()
	case CurrentState:
		return a.state()
	case PastState:
		return a.stateThen()
	case When:
		return a.when()
	case DidNotHappen:
		return a.never()
	case OffTopic:
		return a.offTopic()
	}
	return Truth{}, false
}

func (a *asker) coin() bool { return a.r.IntN(2) == 0 }

func (a *asker) pick(n int) int { return a.r.IntN(n) }
