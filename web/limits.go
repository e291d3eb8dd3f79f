package web

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Rate is how often something may happen: PerSecond in the long run, Burst at once. A negative PerSecond is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) limiter() *rate.Limiter {
	if r.PerSecond < 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst)
}

// budget is what one token may do; without tokens, all of this machine share one.
type budget struct {
	requests  *rate.Limiter
	questions *rate.Limiter
	sockets   chan struct{} // a slot each
}

// request takes one HTTP request or WebSocket message out of the budget.
func (b *budget) request() error {
	return take(b.requests, "too_many_requests", "requests come too fast with this token")
}

// question takes one question.
func (b *budget) question() error {
	return take(b.questions, "too_many_questions", "questions come too fast with this token")
}

func take(l *rate.Limiter, code, message string) error {
	now := time.Now()
	r := l.ReserveN(now, 1)
	if !r.OK() {
		return &denied{http.StatusTooManyRequests, code, message, time.Minute}
	}
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return &denied{http.StatusTooManyRequests, code, message, wait}
	}
	return nil
}

// socket takes a place for one socket, which done gives back.
func (b *budget) socket() (done func(), err error) {
	select {
	case b.sockets <- struct{}{}:
		return func() { <-b.sockets }, nil
	default:
		return nil, &denied{http.StatusTooManyRequests, "too_many_connections", "too many connections are open with this token", 5 * time.Second}
	}
}

// budgets keeps one a token.
type budgets struct {
	requests, questions Rate
	sockets             int

	mu     sync.Mutex
	byHash map[[sha256.Size]byte]*budget
}

// of returns the budget of a token. tokens are all that there are now: those of others go.
func (b *budgets) of(hash [sha256.Size]byte, tokens []Token) *budget {
	b.mu.Lock()
	defer b.mu.Unlock()
	if have := b.byHash[hash]; have != nil {
		return have
	}
	for old := range b.byHash {
		if lookUp(tokens, old) == nil {
			delete(b.byHash, old)
		}
	}
	made := &budget{b.requests.limiter(), b.questions.limiter(), make(chan struct{}, b.sockets)}
	b.byHash[hash] = made
	return made
}
