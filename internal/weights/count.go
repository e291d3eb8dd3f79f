package weights

// Count returns how many numbers the checkpoint's matrices have (tensors of two dimensions or more), and all others.
func (c *Checkpoint) Count() (matrices, vectors int64) {
	for _, t := range c.tensors {
		n := int64(1)
		for _, d := range t.shape {
			n *= int64(d)
		}
		if len(t.shape) > 1 {
			matrices += n
		} else {
			vectors += n
		}
	}
	return matrices, vectors
}
