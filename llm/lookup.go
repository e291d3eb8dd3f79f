package llm

// Lookup drafts by prompt lookup: it finds the latest earlier place where the last tokens stood and proposes what followed there.
// It costs no model and wins where answers repeat the prompt or themselves. The zero value matches three tokens, then two.
type Lookup struct {
	Most, Least int // tokens to match, tried from Most down to Least
}

// Draft implements Drafter.
func (l Lookup) Draft(committed []int32, n int) []int32 {
	most, least := l.Most, l.Least
	if most <= 0 {
		most, least = 3, 2
	}
	for size := most; size >= max(least, 1); size-- {
		at := len(committed) - size
		if at < 1 {
			continue
		}
		for from := at - 1; from >= 0; from-- {
			if matches(committed, from, at, size) {
				return committed[from+size : min(from+size+n, len(committed))]
			}
		}
	}
	return nil
}

// matches compares size tokens at two places; visual rows (-1) match nothing, not even each other.
func matches(tokens []int32, a, b, size int) bool {
	for i := range size {
		if tokens[a+i] < 0 || tokens[a+i] != tokens[b+i] {
			return false
		}
	}
	return true
}
