package llm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"afterimage/internal/compute"
)

// Rows that one pass takes at most: of a question's prompt, which other answers wait for, and of warming, which questions wait for.
const (
	promptChunk = 4096
	warmChunk   = 512
)

// scheduler runs many requests on one decoder (continuous batching). Its goroutine owns the decoder, the pages and the requests
// that are under way. What it does next is decided anew before every pass:
//
//   - Requests are admitted while the decoder has segments and pages for all they may come to need: clients in turn, each client's
//     in the order they came. The one whose turn it is waits for pages; nobody overtakes it.
//   - Rows of prompts go in passes of their own, one request's chunk a pass, requests in turn. They alternate with step passes,
//     in which every decoding request has its last token run and as much of its draft as there is room for: neither starves.
//   - The end of a prompt that fits into a step pass goes there.
//   - Warming runs only while there is no question, in chunks of at most warmChunk rows.
//
// Passes never mix rows whose results would depend on each other, so tokens are the same alone and in company.
type scheduler struct {
	dec      compute.Decoder
	limits   compute.DecoderLimits
	drafter  Drafter
	context  int
	vocab    int
	maxQueue int
	life     context.Context // ends with close
	end      context.CancelFunc
	wake     chan struct{}
	done     chan struct{} // closed when the goroutine is gone

	mu       sync.Mutex
	waiting  queue
	warming  []*request // waiting too, in order
	forgets  []forgetting
	closed   error // why nothing is accepted any more
	counters Counters

	// The goroutine's own.
	pool      *pool
	active    []*request // who was served longest ago comes first
	warm      *request   // under way; nil while there are questions
	prefilled bool       // the last pass was one of prompt rows
	riders    []*request // of the pass under way
	pass      []compute.Segment
}

func newScheduler(dec compute.Decoder, d Drafter, contextRows, vocab, maxQueue int) *scheduler {
	s := &scheduler{dec: dec, limits: dec.Limits(), drafter: d, context: contextRows, vocab: vocab, maxQueue: maxQueue,
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.pool = newPool(s.limits.Pages)
	s.life, s.end = context.WithCancel(context.Background())
	s.count()
	go s.run()
	return s
}

// submit puts a request in line.
func (s *scheduler) submit(r *request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed != nil:
		return s.closed
	case r.warms():
		s.warming = append(s.warming, r)
	case s.waiting.n >= s.maxQueue, r.choosing != nil && s.waiting.n >= (s.maxQueue+1)/2: // machines that ask leave room for people
		s.counters.Refused++
		return fmt.Errorf("%w: %d questions are waiting", ErrBusy, s.waiting.n)
	default:
		s.waiting.push(r)
	}
	s.nudge()
	return nil
}

// withdraw ends a request whose asker has gone: at once when it waits, after the pass under way when it does not. out is closed
// when that is done.
func (s *scheduler) withdraw(r *request) {
	s.mu.Lock()
	found := s.waiting.remove(r)
	for i, w := range s.warming {
		if w == r {
			s.warming, found = append(s.warming[:i:i], s.warming[i+1:]...), true
			break
		}
	}
	s.mu.Unlock()
	if found {
		r.close("", r.ended())
	}
	s.nudge()
}

// forgetting is what Forget asks the goroutine for.
type forgetting struct {
	match func(visual uint64) bool
	done  chan struct{}
}

// forget has everything dropped that was computed from visual parts that match, and waits for that.
func (s *scheduler) forget(match func(visual uint64) bool) {
	f := forgetting{match, make(chan struct{})}
	s.mu.Lock()
	s.forgets = append(s.forgets, f)
	s.mu.Unlock()
	s.nudge()
	select {
	case <-f.done:
	case <-s.done: // it holds nothing any more
	}
}

// forgetAll does what was asked for. Requests that have such rows go on, but leave nothing behind.
func (s *scheduler) forgetAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.forgets {
		requests := append(append(append([]*request(nil), s.active...), s.warming...), s.waiting.all()...)
		if s.warm != nil {
			requests = append(requests, s.warm)
		}
		for _, r := range requests {
			if r.forgot = r.forgot || anyVisual(r.seq.keys, f.match); r.forgot && r.kv != nil {
				r.kv.forgot = true
			}
		}
		s.pool.forget(f.match)
		close(f.done)
	}
	s.forgets = nil
}

func (s *scheduler) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// close ends every request with ErrClosed, waits for the goroutine and closes the decoder.
func (s *scheduler) close() error {
	s.mu.Lock()
	again := errors.Is(s.closed, ErrClosed)
	s.closed = ErrClosed
	s.mu.Unlock()
	s.end()
	s.nudge()
	<-s.done
	if again {
		return nil
	}
	return s.dec.Close()
}

// run is the goroutine.
func (s *scheduler) run() {
	defer close(s.done)
	for s.admit() {
		s.count()
		s.step()
	}
	s.failAll(ErrClosed)
	s.count()
}

// admit waits until there is something to run; false means that the engine is closed.
func (s *scheduler) admit() bool {
	for s.life.Err() == nil {
		s.forgetAll()
		for _, r := range append(s.riders[:0], s.active...) {
			if err := r.ended(); err != nil {
				s.finish(r, "", err)
			}
		}
		if s.warm != nil && s.warm.ended() != nil {
			s.finish(s.warm, "", s.warm.ended())
		}
		for len(s.active) < s.limits.Segments && s.admitOne() {
		}
		if len(s.active) == 0 && s.warm == nil {
			s.admitWarm()
		}
		if len(s.active) > 0 || s.warm != nil {
			return true
		}
		s.count()
		select {
		case <-s.wake:
		case <-s.life.Done():
		}
	}
	return false
}

// admitOne admits the next question, if there is one and pages for it.
func (s *scheduler) admitOne() bool {
	s.mu.Lock()
	r := s.waiting.first()
	if r != nil && s.warm != nil { // its pages may be needed, and its turn is over
		s.warm.kv.close()
		s.warm.kv = nil
		s.warming = append([]*request{s.warm}, s.warming...)
		s.warm = nil
	}
	if r == nil {
		s.mu.Unlock()
		return false
	}
	kv, copied, ok := s.pool.open(r.seq.keys, r.rows(s.context))
	if ok {
		s.waiting.pop()
	}
	s.mu.Unlock()
	if !ok {
		return false
	}
	s.active = append(s.active, r)
	s.begin(r, kv, copied)
	return true
}

// admitWarm admits the next prompt to warm.
func (s *scheduler) admitWarm() {
	s.mu.Lock()
	if len(s.warming) == 0 {
		s.mu.Unlock()
		return
	}
	r := s.warming[0]
	s.warming = s.warming[1:]
	s.mu.Unlock()
	kv, copied, ok := s.pool.open(r.seq.keys, r.rows(s.context))
	s.warm = r
	if !ok { // no question is under way, so every page can be had
		s.finish(r, "", fmt.Errorf("%w for %d rows", compute.ErrNoMemory, len(r.seq.keys)))
		return
	}
	s.begin(r, kv, copied)
}

// begin gives an admitted request its K/V.
func (s *scheduler) begin(r *request, kv *kv, copied [2]int32) {
	r.kv, r.cached = kv, len(kv.keys)
	kv.forgot = r.forgot
	if r.started.IsZero() {
		r.started = time.Now()
	}
	if copied[0] < 0 {
		return
	}
	if err := s.dec.CopyPages(s.life, copied[1:], copied[:1]); err != nil {
		s.fail([]*request{r}, err)
	}
}

// step runs the next pass.
func (s *scheduler) step() {
	if s.warm != nil {
		s.runPrompt(s.warm, min(warmChunk, s.limits.ChunkRows))
		return
	}
	var long *request
	stepping := false
	for _, r := range s.active {
		if r.rest() > s.limits.StepRows {
			r.kv.adopt(r.seq.keys)
		}
		switch {
		case r.rest() <= s.limits.StepRows:
			stepping = true
		case long == nil:
			long = r
		}
	}
	if s.prefilled = long != nil && !(stepping && s.prefilled); s.prefilled {
		s.runPrompt(long, min(promptChunk, s.limits.ChunkRows))
	} else if stepping {
		s.runStep()
	}
}

// runPrompt runs the next chunk of a prompt. Chunks end where pages do, so that others with the same prompt can go on from there.
func (s *scheduler) runPrompt(r *request, chunk int) {
	n := r.rest()
	if n > chunk {
		past := len(r.kv.keys)
		n = chunk
		if end := (past + chunk) / pageRows * pageRows; end > past {
			n = end - past
		}
	}
	r.prefill(n)
	s.riders = append(s.riders[:0], r)
	s.forward()
}

// runStep runs the rows of all that fit into a step pass: one row each (a whole path of one that chooses), then ends of prompts, then drafts, as there
// is room.
func (s *scheduler) runStep() {
	s.riders = s.riders[:0]
	room := s.limits.StepRows
	for _, r := range s.active {
		need := 1
		if r.choosesNow() {
			need = len(r.choosing.path())
		}
		if r.rest() <= s.limits.StepRows && len(s.riders) < s.limits.Segments && need <= room {
			s.riders = append(s.riders, r)
			room -= need
		}
	}
	decoding := 0
	for _, r := range s.riders {
		rest := r.rest()
		if r.choosesNow() {
			r.choose()
			continue
		}
		if rest <= 0 {
			decoding++
			continue
		}
		n := min(rest, 1+room)
		room -= n - 1
		r.prefill(n)
	}
	for _, r := range s.riders {
		if r.rest() > 0 || r.choosing != nil {
			continue
		}
		draft := r.draft(s.drafter, min(r.most(s.context), (room+decoding-1)/decoding), s.vocab)
		room -= len(draft)
		decoding--
		r.verify(draft)
	}
	s.forward()
}

// forward runs the segments of the riders and hands them what was drawn.
func (s *scheduler) forward() {
	s.pass = s.pass[:0]
	rows := 0
	for _, r := range s.riders {
		s.pass = append(s.pass, r.segment)
		rows += r.segment.Rows()
	}
	err := s.dec.Forward(s.life, s.pass)
	clear(s.pass) // the prompts' rows belong to the callers
	s.tally(rows)
	if err != nil {
		s.fail(s.riders, err)
		return
	}
	for _, r := range s.riders {
		s.rotate(r)
		before := r.accepts
		finish, err := r.accept(s.context)
		s.tallyDraft(r.drafted-r.tallied, r.accepts-before)
		r.tallied = r.drafted
		if finish != "" || err != nil {
			s.finish(r, finish, err)
		}
	}
}

// rotate puts an active request behind all others.
func (s *scheduler) rotate(r *request) {
	for i, a := range s.active {
		if a == r {
			copy(s.active[i:], s.active[i+1:])
			s.active[len(s.active)-1] = r
			return
		}
	}
}

// finish ends a request that is under way; its K/V stays for others.
func (s *scheduler) finish(r *request, finish string, err error) {
	if r.kv != nil {
		r.kv.close()
	}
	s.leave(r)
	s.count() // whoever has its answer finds it counted
	r.close(finish, err)
}

// leave takes a request from those under way.
func (s *scheduler) leave(r *request) {
	if s.warm == r {
		s.warm = nil
	}
	for i, a := range s.active {
		if a == r {
			s.active = append(s.active[:i], s.active[i+1:]...)
			return
		}
	}
}

// fail ends the requests whose pass failed. When the device is lost there is nothing left for anybody: all end, and all to come.
func (s *scheduler) fail(riders []*request, err error) {
	if s.life.Err() != nil {
		err = ErrClosed
	}
	for _, r := range append([]*request(nil), riders...) {
		r.kv.drop()
		s.leave(r)
		s.count()
		r.close("", err)
	}
	if errors.Is(err, compute.ErrDeviceLost) {
		s.failAll(err)
		s.pool.reset()
	}
}

// failAll ends everything, for good.
func (s *scheduler) failAll(err error) {
	s.mu.Lock()
	if s.closed == nil {
		s.closed = err
	}
	all := append(s.waiting.drain(), s.warming...)
	s.warming = nil
	s.mu.Unlock()
	for _, r := range append(s.active, all...) {
		if r.kv != nil {
			r.kv.drop()
		}
		r.close("", err)
	}
	s.active = nil
	if s.warm != nil {
		s.warm.kv.drop()
		s.warm.close("", err)
		s.warm = nil
	}
}

func (r *request) close(finish string, err error) {
	r.finish, r.err = finish, err
	close(r.out)
}

// tally counts the pass that just ended.
func (s *scheduler) tally(rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.counters
	switch {
	case s.warm != nil:
		c.WarmPasses++
		c.WarmRows += uint64(rows)
	case s.prefilled:
		c.PromptPasses++
		c.PromptRows += uint64(rows)
	default:
		c.StepPasses++
		c.StepRows += uint64(rows)
		c.StepRequests += uint64(len(s.riders))
	}
}

// tallyDraft counts a draft of which the first tokens were right.
func (s *scheduler) tallyDraft(drafted, accepted int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters.Drafted += uint64(drafted)
	s.counters.Accepted += uint64(accepted)
	for i := range accepted {
		s.counters.AcceptedAt[i]++
	}
}

// count brings the counters of what is held up to date.
func (s *scheduler) count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.counters
	c.Active, c.Waiting = len(s.active), s.waiting.n
	c.Pages, c.FreePages, c.CachedPages, c.EvictedPages = s.pool.total, len(s.pool.free), s.pool.cached(), s.pool.evicted
	c.Bytes, c.WeightBytes, c.KVBytes = s.limits.Bytes, s.limits.Weights, s.limits.KV
}

// read returns the counters.
func (s *scheduler) read() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters.Waiting = s.waiting.n
	return s.counters
}

// queue holds waiting requests: clients take turns, each client's requests in order.
type queue struct {
	turn []uint64
	by   map[uint64][]*request
	n    int
}

func (q *queue) push(r *request) {
	if q.by == nil {
		q.by = map[uint64][]*request{}
	}
	if len(q.by[r.client]) == 0 {
		q.turn = append(q.turn, r.client)
	}
	q.by[r.client] = append(q.by[r.client], r)
	q.n++
}

// first is whose turn it is, nil when nobody waits.
func (q *queue) first() *request {
	if q.n == 0 {
		return nil
	}
	return q.by[q.turn[0]][0]
}

// pop takes the first out; its client's next one waits for the other clients.
func (q *queue) pop() {
	client := q.turn[0]
	q.turn = q.turn[1:]
	q.n--
	if q.by[client] = q.by[client][1:]; len(q.by[client]) > 0 {
		q.turn = append(q.turn, client)
	} else {
		delete(q.by, client)
	}
}

// remove takes a request out wherever it stands.
func (q *queue) remove(r *request) bool {
	for i, w := range q.by[r.client] {
		if w != r {
			continue
		}
		q.n--
		if q.by[r.client] = append(q.by[r.client][:i:i], q.by[r.client][i+1:]...); len(q.by[r.client]) == 0 {
			delete(q.by, r.client)
			for j, c := range q.turn {
				if c == r.client {
					q.turn = append(q.turn[:j:j], q.turn[j+1:]...)
					break
				}
			}
		}
		return true
	}
	return false
}

// all lists all, in no order.
func (q *queue) all() (all []*request) {
	for _, list := range q.by {
		all = append(all, list...)
	}
	return all
}

// drain takes all out.
func (q *queue) drain() (all []*request) {
	for q.n > 0 {
		all = append(all, q.first())
		q.pop()
	}
	return all
}
