package memorybank

import (
	"testing"
	"time"
)

// BenchmarkRecallOfAll is a question about all of the past: as many entries as a store holds at most, 128 components each.
func BenchmarkRecallOfAll(b *testing.B) {
	const files, each = 2000, 100
	s := &Store{dir: b.TempDir()}
	w := newWalk(1)
	w.dim = 128
	w.rows = make([]float32, 8*128)
	for f := range files {
		c := &coldFile{coldMeta: coldMeta{Grid: [2]int{2, 4}}, name: "gone", r: 8, d: 128, n: each}
		ind := NewIndicator(gist(w.next().Tokens))
		for i := range each {
			at := time.Duration(f*each+i) * time.Second
			c.items = append(c.items, coldItem{frame: uint64(f*each + i + 1), start: at, end: at, at: at, weight: 1, averaged: 1, indicator: ind})
		}
		s.files = append(s.files, c)
	}
	snap := &Snapshot{Version: files * each, Now: files * each * time.Second, archive: s, strategy: Recent{}}
	query := NewIndicator(gist(w.next().Tokens)).Vector()
	b.ReportAllocs()
	for b.Loop() {
		found := distinct(s.find(snap, 0, snap.Now+1, query))
		if len(found) != mostFound || len(plan(found, AnyTime, query, 800)) == 0 {
			b.Fatal(len(found))
		}
	}
}
