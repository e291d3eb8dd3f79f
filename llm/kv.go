package llm

// key says what a row of the KV cache was computed from; equal prefixes of keys mean equal K/V. A visual row is keyed by its
// part's ID, its place in the part and the part's height, never by its values.
type key struct {
	visual uint64
	row    int32 // a token's ID, or the row within the visual part
	of     int32 // 0 for a token, the rows of the visual part
}

// cacheable tells a key that may be found again: a visual part with ID 0 is nobody's, so it never equals anything.
func (k key) cacheable() bool { return k.of == 0 || k.visual != 0 }

// cache remembers the keys of the rows that the model's KV cache holds.
type cache struct{ keys []key }

// reuse returns how many leading rows of want are there already and forgets all rows after them. At least one row of want is
// always left to run, because a prompt's last logits are not kept.
func (c *cache) reuse(want []key) int {
	n := 0
	for n < len(c.keys) && n < len(want)-1 && c.keys[n] == want[n] && want[n].cacheable() {
		n++
	}
	c.keys = c.keys[:n]
	return n
}
