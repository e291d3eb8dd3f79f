package bench

import (
	"math"
	"slices"
	"time"
)

// Rate is a share of successes with its 95 % confidence interval.
type Rate struct {
	N     int        `json:"n"`
	Exact float64    `json:"exact"` // successes / N; 0 when N is 0
	CI95  [2]float64 `json:"ci95"`  // Wilson score interval; [0, 1] when N is 0
}

// NewRate is k successes out of n.
func NewRate(k, n int) Rate {
	if n == 0 {
		return Rate{CI95: [2]float64{0, 1}}
	}
	const z = 1.959963984540054
	p, m := float64(k)/float64(n), float64(n)
	centre := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return Rate{N: n, Exact: p, CI95: [2]float64{max(0, centre-half), min(1, centre+half)}}
}

// percentile returns the value below which a share p of values lies, by nearest rank; 0 for none.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Clone(values)
	slices.Sort(s)
	return s[min(len(s)-1, max(0, int(math.Ceil(p*float64(len(s))))-1))]
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(len(values), 1))
}

func median(values []float64) float64 { return percentile(values, 0.5) }

func ms(d time.Duration) float64 { return round3(float64(d) / float64(time.Millisecond)) }

func round3(x float64) float64 { return math.Round(x*1000) / 1000 }
