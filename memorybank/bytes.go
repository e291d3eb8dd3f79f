package memorybank

import "unsafe"

// Bytes is the memory that s holds: entries, their rows, exemplars, pictures and indicators, and the newest frame. What several
// entries share is counted once.
func (s *Snapshot) Bytes() int64 {
	var n int64
	rows, thumbs, codes := map[*float32]bool{}, map[*byte]bool{}, map[*byte]bool{}
	floats := func(data []float32) {
		if p := unsafe.SliceData(data); len(data) > 0 && !rows[p] {
			rows[p] = true
			n += 4 * int64(len(data))
		}
	}
	entry := func(e *Entry) {
		floats(e.Tokens.Data)
		if p := unsafe.SliceData(e.Thumb); len(e.Thumb) > 0 && !thumbs[p] {
			thumbs[p] = true
			n += int64(len(e.Thumb))
		}
		if p := unsafe.StringData(e.Indicator.codes); e.Indicator.codes != "" && !codes[p] {
			codes[p] = true
			n += int64(len(e.Indicator.codes))
		}
	}
	for i := range s.Entries {
		e := &s.Entries[i]
		n += int64(unsafe.Sizeof(*e))
		entry(e)
		if x := e.exemplar; x != nil {
			n += int64(unsafe.Sizeof(*x))
			entry(&x.frame)
			floats(x.own.Data)
		}
	}
	entry(&s.Newest)
	return n
}
