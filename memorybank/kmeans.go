package memorybank

import (
	"math"
	"slices"

	"afterimage/internal/compute"
)

// kmeans is the clustering of both releases of Flash-VStream, for their Compat: start are the rows that the centroids begin as; a row
// belongs to the nearest centroid (ties: the first); at most 10 rounds, fewer once the centroids together move less than 1e-4. A cluster that
// comes out empty becomes the row that spare names. labels may lag centroids by one round, as there. Sums are in float64.
func kmeans(rows [][]float64, weights []float64, start []int, spare func() int) (centroids [][]float64, labels []int) {
	centroids = make([][]float64, len(start))
	labels = make([]int, len(rows))
	for i := range labels {
		labels[i] = -1
	}
	for j, i := range start {
		centroids[j] = rows[i]
	}
	// A row that a centroid is a copy of needs no distances: its centroid is that one, or an equal one before it.
	for j, i := range start {
		labels[i] = j
		for k := range j {
			if slices.Equal(rows[i], centroids[k]) {
				labels[i] = k
				break
			}
		}
	}
	moved := make([]bool, len(start)) // in the last round
	for round := range 10 {
		for i, x := range rows {
			own := labels[i]
			if own >= 0 && round == 0 {
				continue
			}
			best, least := -1, math.Inf(1)
			stays := own >= 0 && !moved[own]
			if stays {
				best, least = own, squares(x, centroids[own])
			}
			for j, c := range centroids {
				if stays && !moved[j] {
					continue // compared before
				}
				if d := squares(x, c); d < least || d == least && j < best {
					best, least = j, d
				}
			}
			labels[i] = max(best, 0)
		}
		next, members := make([][]float64, len(centroids)), make([]int, len(centroids))
		for _, j := range labels {
			members[j]++
		}
		total := 0.0
		for j := range next {
			switch members[j] {
			case 0:
				next[j] = rows[spare()]
			case 1:
				next[j] = rows[slices.Index(labels, j)]
			default:
				next[j] = make([]float64, len(rows[0]))
				sum := 0.0
				for i, x := range rows {
					if labels[i] != j {
						continue
					}
					sum += weights[i]
					for c, v := range x {
						next[j][c] += weights[i] / sum * (v - next[j][c]) // exact where all are equal
					}
				}
			}
			moved[j] = !slices.Equal(centroids[j], next[j])
			if moved[j] {
				total += math.Sqrt(squares(centroids[j], next[j]))
			}
		}
		if total < 1e-4 {
			break
		}
		centroids = next
	}
	return centroids, labels
}

// squares returns the squared distance.
func squares(a, b []float64) float64 {
	var s0, s1 float64
	i := 0
	for ; i+2 <= len(a); i += 2 {
		d0, d1 := a[i]-b[i], a[i+1]-b[i+1]
		s0, s1 = s0+d0*d0, s1+d1*d1
	}
	for ; i < len(a); i++ {
		s0 += (a[i] - b[i]) * (a[i] - b[i])
	}
	return s0 + s1
}

// wide returns rows in float64, one a slice.
func wide(entries []Entry) [][]float64 {
	rows := make([][]float64, len(entries))
	for i, e := range entries {
		rows[i] = make([]float64, len(e.Tokens.Data))
		for c, v := range e.Tokens.Data {
			rows[i][c] = float64(v)
		}
	}
	return rows
}

// narrow returns a centroid as an entry's tokens.
func narrow(row []float64, like compute.Matrix) compute.Matrix {
	m := compute.NewMatrix(like.Rows, like.Cols)
	for c, v := range row {
		m.Data[c] = float32(v)
	}
	return m
}

// permutation returns a permutation of 0..n-1 that stands for the released code's unseeded one: for i from 0, swap i with i + hash(id, i) mod
// (n-i).
func permutation(n int, id uint64) []int {
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	for i := range n {
		j := i + int(hash(id, uint64(i))%uint64(n-i))
		p[i], p[j] = p[j], p[i]
	}
	return p
}

// spares returns what kmeans takes for empty clusters: rows hash(id, n), hash(id, n+1)... mod n.
func spares(n int, id uint64) func() int {
	k := uint64(n)
	return func() int {
		k++
		return int(hash(id, k-1) % uint64(n))
	}
}

// clusterable reports whether entries' rows have one shape and are all numbers, so that they can be clustered.
func clusterable(entries []Entry) bool {
	for _, e := range entries {
		if !alike(e, entries[0]) {
			return false
		}
		for _, v := range e.Tokens.Data {
			if v-v != 0 {
				return false
			}
		}
	}
	return true
}

// cluster makes one entry of members, in the order in which they came, with a centroid's rows; a member that is alone stays as it is. Spans
// and weights add up, the picture is the heaviest member's (ties: the first).
func cluster(members []Entry, centroid []float64, id uint64) Entry {
	m := members[0]
	if len(members) == 1 {
		return m
	}
	heaviest := m
	for _, b := range members[1:] {
		m.Indicator = mixIndicators(m.Indicator, m.Weight, b.Indicator, b.Weight)
		m.Start, m.End = min(m.Start, b.Start), max(m.End, b.End)
		m.Weight += b.Weight
		m.merges += b.merges + 1
		if b.Weight > heaviest.Weight {
			heaviest = b
		}
	}
	m.ID, m.At, m.Thumb, m.exemplar = id, heaviest.At, heaviest.Thumb, heaviest.exemplar
	m.Tokens = narrow(centroid, m.Tokens)
	return m
}

// heaviest returns the places of the heaviest entries, at most most, the heaviest first (ties: the first in entries).
func heaviest(entries []Entry, most int) []int {
	var places []int
	for i := range entries {
		w := entries[i].Weight
		at := len(places)
		for at > 0 && entries[places[at-1]].Weight < w {
			at--
		}
		if at < most {
			places = slices.Insert(places[:min(len(places), most-1)], at, i)
		}
	}
	return places
}
