package memorybank

import (
	"fmt"
	"math/bits"
)

// Uniform shows N frames (16 when N is 0) spread evenly over the whole stream so far, the newest one among them: what offline video models
// are given, made to work on a stream without an end. It is a baseline: what a question asks changes nothing.
//
// It holds the frames whose number is a multiple of a stride, and the stride is the smallest power of two with which that is at most 2N
// frames. So between N and 2N frames are held once N were seen, a frame that was dropped is never needed again, and which ones are held
// depends on the number of frames alone. Those shown are spread evenly over those held: each is at most half a stride off an even
// spacing. A smaller budget shows fewer, the newest first.
type Uniform struct{ N int }

func (u Uniform) size() int {
	if u.N <= 0 {
		return 16
	}
	return min(u.N, 1<<24)
}

// Update implements Strategy.
func (u Uniform) Update(old []Entry, e Entry) []Entry {
	n := e.Frame()
	stride := u.stride(n)
	if n%stride != 0 {
		return old
	}
	entries := make([]Entry, 0, len(old)+1)
	if n == 0 || u.stride(n-1) == stride {
		return append(append(entries, old...), e)
	}
	for i := range old {
		if old[i].Frame()%stride == 0 {
			entries = append(entries, old[i])
		}
	}
	return append(entries, e)
}

// stride is that of the frames that are held once frame n has come.
func (u Uniform) stride(n uint64) uint64 {
	return 1 << bits.Len64(n/uint64(2*u.size()))
}

// Select implements Strategy: Detail entries in time order, the newest frame last as Newest.
func (u Uniform) Select(s *Snapshot, _ []float32, budget int) []Entry {
	return evenly(s, u.size(), budget)
}

// evenly shows at most most frames, spread evenly over the entries, which are single frames in time order; the newest frame is one of them.
func evenly(s *Snapshot, most, budget int) []Entry {
	left := newBudget(budget)
	entries, newest := s.Entries, s.Newest.Tokens.Rows > 0 && left.take(s.Newest)
	if newest {
		most--
		if k := len(entries) - 1; k >= 0 && entries[k].ID == s.Newest.ID {
			entries = entries[:k]
		}
	}
	shown := append([]Entry(nil), thin(entries, most, &left)...)
	if newest {
		shown = append(shown, s.Newest)
	}
	return shown
}

// restored implements restorer.
func (u Uniform) restored(entries []Entry) error { return checkFrames(entries, 2*u.size()) }

// checkFrames is what holds of a list of single frames in time order.
func checkFrames(entries []Entry, most int) error {
	if len(entries) > most {
		return fmt.Errorf("%d frames, at most %d can be held", len(entries), most)
	}
	for i, e := range entries {
		switch {
		case e.Start != e.At || e.End != e.At || e.Level != 0 || e.Weight != 1:
			return fmt.Errorf("entry.%d is not a single frame", i)
		case i > 0 && (e.At < entries[i-1].At || e.ID <= entries[i-1].ID):
			return fmt.Errorf("entry.%d is before the one before it", i)
		}
	}
	return nil
}
