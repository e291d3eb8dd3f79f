package memorybank

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	stdhash "hash"
	"math"
)

// Hash is a digest of all that a snapshot remembers: the bits of rows, spans, times, IDs, weights, indicators, thumbnails, the frames that
// stand for spans, and what strategies note on entries, in order. The epoch is not in it: the same frames watched on another day give the
// same hash, on the same build and machine.
func (s *Snapshot) Hash() string {
	h := hasher{Hash: sha256.New()}
	h.numbers(s.Version, uint64(s.Now), uint64(len(s.Entries)))
	for i := range s.Entries {
		h.entry(&s.Entries[i])
	}
	h.entry(&s.Newest)
	return hex.EncodeToString(h.Sum(nil))
}

// hash is a digest of one entry.
func (e *Entry) hash() string {
	h := hasher{Hash: sha256.New()}
	h.entry(e)
	return hex.EncodeToString(h.Sum(nil))
}

type hasher struct {
	stdhash.Hash
	raw []byte
}

func (h *hasher) numbers(list ...uint64) {
	h.raw = h.raw[:0]
	for _, v := range list {
		h.raw = binary.LittleEndian.AppendUint64(h.raw, v)
	}
	h.Write(h.raw)
}

func (h *hasher) bytes(b []byte) {
	h.numbers(uint64(len(b)))
	h.Write(b)
}

func (h *hasher) entry(e *Entry) {
	h.numbers(e.ID, uint64(e.Start), uint64(e.End), uint64(e.At), uint64(math.Float32bits(e.Weight)), uint64(e.Role), uint64(e.Level),
		uint64(e.Grid.H), uint64(e.Grid.W), uint64(e.part), e.seq, uint64(e.merges), uint64(e.Tokens.Rows), uint64(e.Tokens.Cols))
	h.raw = h.raw[:0]
	for _, v := range e.Tokens.Data {
		h.raw = binary.LittleEndian.AppendUint32(h.raw, math.Float32bits(v))
	}
	h.Write(h.raw)
	h.bytes(e.Thumb)
	h.bytes([]byte(e.Indicator.codes))
	if e.exemplar == nil {
		h.numbers(0)
		return
	}
	h.numbers(1)
	h.entry(&e.exemplar.frame)
}
