package memorybank

// Reservoir holds N frames (16 when N is 0) by random replacement: once it is full, a new frame takes the place of a random one. That is
// how MAMBA keeps its bank (Sun et al., "MAMBA: Multi-level Aggregation via Memory Bank for Video Object Detection", AAAI 2021, arXiv
// 2401.09923): no branch, no state, unbiased; a baseline that knows nothing of what frames show. MAMBA's bank holds feature vectors of
// boxes, up to 20,000; this one holds frames. A frame survives n later ones with probability (1-1/N)^n, so the bank remembers N frames
// back on average, and of what is ten times older almost nothing.
//
// With Even, it is reservoir sampling instead (Vitter's algorithm R, 1985): frame number i is taken with probability N/i, so that
// at any time every frame of the stream is held with the same probability, however old.
//
// The random numbers are a hash of Seed and the frame's ID: the same stream gives the same bank. The newest frame is always shown, as the
// last of at most N; a smaller budget shows fewer, spread evenly over those held. What a question asks changes nothing.
type Reservoir struct {
	N    int
	Seed uint64
	Even bool
}

func (r Reservoir) size() int {
	if r.N <= 0 {
		return 16
	}
	return r.N
}

// Update implements Strategy. Entries are in time order: which place a frame is put in makes no difference to its chances.
func (r Reservoir) Update(old []Entry, e Entry) []Entry {
	n := r.size()
	entries := make([]Entry, 0, min(len(old)+1, n))
	if len(old) < n {
		return append(append(entries, old...), e)
	}
	from := uint64(n)
	if r.Even {
		from = e.Frame() + 1
	}
	slot := hash(r.Seed, e.ID) % from
	if slot >= uint64(n) {
		return old
	}
	return append(append(append(entries, old[:slot]...), old[slot+1:]...), e)
}

// hash mixes two numbers (SplitMix64 of Steele, Lea and Flood, 2014).
func hash(seed, x uint64) uint64 {
	z := seed*0x9e3779b97f4a7c15 + x
	for range 2 {
		z += 0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
	}
	return z
}

// Select implements Strategy: Detail entries in time order, the newest frame last as Newest.
func (r Reservoir) Select(s *Snapshot, _ []float32, budget int) []Entry {
	return evenly(s, r.size(), budget)
}

// restored implements restorer.
func (r Reservoir) restored(entries []Entry) error { return checkFrames(entries, r.size()) }
