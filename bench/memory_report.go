package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"afterimage/ingest/simcam"
)

// MemoryReport is what Memory found. Streams are in groups: one a length of the simulated streams, one of the videos.
type MemoryReport struct {
	Benchmark    string         `json:"benchmark"` // "memory"
	Strategies   []string       `json:"strategies"`
	Budgets      []int          `json:"budgets"`
	Groups       []string       `json:"groups"`
	Ages         []string       `json:"ages"`
	Types        []string       `json:"types"` // that were asked
	Seeds        []uint64       `json:"seeds"`
	Videos       []string       `json:"videos"`
	PerMinute    int            `json:"questions_per_minute"` // asked at one moment
	EveryMinutes map[string]int `json:"every_minutes"`        // by group: how many minutes lie between moments
	DiskBytes    int64          `json:"disk_bytes"`           // that each strategy had for a stream; 0: none
	Questions    int            `json:"questions"`            // each asked of every strategy within every budget
	Answers      int            `json:"answers"`
	Generated    int            `json:"generated"` // answers that the model had to give: equal prompts are asked once
	Refused      int            `json:"refused"`   // questions that a memory had nothing for within the budget; they count as wrong
	Scores       []Score        `json:"scores"`
	Differences  []Difference   `json:"differences"`
	Costs        []Cost         `json:"costs"`
	Series       []SeriesPoint  `json:"series"`
	Seconds      float64        `json:"seconds"` // spent watching and answering
	Machine      Machine        `json:"machine"`
}

// Score is how a strategy answered a selection of the questions within a budget. Type and Age are "" for all of them.
type Score struct {
	Group    string  `json:"group"`
	Strategy string  `json:"strategy"`
	Budget   int     `json:"budget"`
	Age      string  `json:"age,omitempty"`
	Type     string  `json:"type,omitempty"`
	Rate             // micro average: over questions
	Macro    Average `json:"macro"`  // mean over question types
	Recall   Rate    `json:"recall"` // questions whose evidence was shown, of those that have evidence in the past
	Tokens   float64 `json:"visual_tokens_mean"`
}

// Average is a mean of rates with its 95 % confidence interval (normal, from the rates' own variances).
type Average struct {
	N    int        `json:"n"` // rates
	Mean float64    `json:"mean"`
	CI95 [2]float64 `json:"ci95"`
}

// Difference is how many more of the same questions a strategy answered exactly than the reference did, as a share of them. The interval
// is Agresti and Min's for paired proportions (2005), which looks only at questions that one of the two answered and the other did not.
type Difference struct {
	Group     string     `json:"group"`
	Strategy  string     `json:"strategy"`
	Reference string     `json:"reference"`
	Budget    int        `json:"budget"`
	Age       string     `json:"age,omitempty"` // "" for all
	N         int        `json:"n"`
	More      float64    `json:"more"`
	CI95      [2]float64 `json:"ci95"`
}

// newDifference is of n questions, gained by the one alone and lost to the other alone.
func newDifference(n, gained, lost int) (more float64, ci [2]float64) {
	b, c, m := float64(gained)+.5, float64(lost)+.5, float64(n)+2
	middle := (b - c) / m
	half := 1.959963984540054 * math.Sqrt(b+c-(b-c)*(b-c)/m) / m
	return float64(gained-lost) / float64(max(n, 1)), [2]float64{max(-1, middle-half), min(1, middle+half)}
}

// Reference is the strategy that others are compared with, question by question: recent, what a model without a memory sees; "" without
// it.
func (r *MemoryReport) Reference() string {
	for _, s := range r.Strategies {
		if name, _, _ := strings.Cut(s, ":"); name == "recent" {
			return s
		}
	}
	return ""
}

// Cost is what a strategy took. Times of the model are of the answers that it had to give.
type Cost struct {
	Group        string  `json:"group"`
	Strategy     string  `json:"strategy"`
	Budget       int     `json:"budget"`
	TokensMax    int     `json:"visual_tokens_max"`
	Tokens       float64 `json:"visual_tokens_mean"`
	PromptTokens float64 `json:"prompt_tokens_mean"`
	CachedTokens float64 `json:"cached_tokens_mean"`
	FirstTokenMS float64 `json:"first_token_ms_median"`
	UpdateUS     float64 `json:"update_us_mean"` // a frame's
	MedianUS     float64 `json:"update_us_median"`
	UpdateP99US  float64 `json:"update_us_p99"`  // of the worst stretch of a stream
	SelectUS     float64 `json:"select_us_mean"` // a question's
	SelectP99US  float64 `json:"select_us_p99"`
	Bytes        int64   `json:"bytes_max"`
	Entries      int     `json:"entries_max"`
}

// SeriesPoint is what a strategy took at one time of a group's streams, the mean over them.
type SeriesPoint struct {
	Group    string  `json:"group"`
	Strategy string  `json:"strategy"`
	AtS      float64 `json:"at_s"`
	UpdateUS float64 `json:"update_us_mean"`
	MedianUS float64 `json:"update_us_median"`
	P99US    float64 `json:"update_us_p99"`
	Bytes    float64 `json:"bytes"`
	Entries  float64 `json:"entries"`
}

// newAverage is the mean of rates.
func newAverage(rates []Rate) Average {
	if len(rates) == 0 {
		return Average{CI95: [2]float64{0, 1}}
	}
	sum, variance := 0.0, 0.0
	for _, r := range rates {
		sum += r.Exact
		// The middle of Wilson's interval in place of the rate, so that ten of ten is not taken for certain.
		p, n := (r.CI95[0]+r.CI95[1])/2, float64(r.N)
		variance += p * (1 - p) / n
	}
	m := float64(len(rates))
	half := 1.959963984540054 * math.Sqrt(variance) / m
	return Average{len(rates), sum / m, [2]float64{max(0, sum/m-half), min(1, sum/m+half)}}
}

// compare makes the report.
func compare(o MemoryOptions, groups []string, all []MemoryRecord, samples map[string][]MemorySample) *MemoryReport {
	r := &MemoryReport{
		Benchmark: "memory", Budgets: slices.Sorted(slices.Values(o.Budgets)), Groups: groups, Ages: Ages, Seeds: slices.Concat([]uint64{}, o.Seeds), Videos: []string{},
		PerMinute: o.PerMinute, DiskBytes: o.Disk, EveryMinutes: map[string]int{}, Answers: len(all),
	}
	for _, s := range o.Subjects {
		r.Strategies = append(r.Strategies, s.Name)
	}
	for _, l := range o.Lengths {
		if len(o.Seeds) > 0 {
			r.EveryMinutes[groupName(l)] = o.EveryMinutes(l)
		}
	}
	for _, v := range o.Videos {
		r.Videos = append(r.Videos, v.Name)
	}
	r.Questions = len(all) / (len(o.Subjects) * len(o.Budgets))
	r.Types = typesOf(all)

	type cell struct {
		group, strategy string
		budget          int
	}
	cells := map[cell][]MemoryRecord{}
	for _, x := range all {
		c := cell{x.Stream, x.Strategy, x.Budget}
		cells[c] = append(cells[c], x)
		if !x.Repeated && !x.FromCoverage && x.Refused == "" {
			r.Generated++
		}
		if x.Refused != "" {
			r.Refused++
		}
	}
	for _, g := range groups {
		for _, s := range r.Strategies {
			for _, b := range r.Budgets {
				records := cells[cell{g, s, b}]
				if len(records) == 0 {
					continue
				}
				score := func(age, kind string) {
					part := keep(records, func(x MemoryRecord) bool { return (age == "" || x.Age == age) && (kind == "" || x.Type == kind) })
					if len(part) > 0 {
						r.Scores = append(r.Scores, scoreOf(Score{Group: g, Strategy: s, Budget: b, Age: age, Type: kind}, part))
					}
				}
				score("", "")
				for _, a := range Ages {
					score(a, "")
				}
				for _, t := range r.Types {
					score("", t)
				}
				r.Costs = append(r.Costs, costOf(Cost{Group: g, Strategy: s, Budget: b}, records, samples[g]))
			}
		}
		if reference := r.Reference(); reference != "" {
			for _, b := range r.Budgets {
				for _, s := range r.Strategies {
					if s != reference {
						d := Difference{Group: g, Strategy: s, Reference: reference, Budget: b}
						r.Differences = append(r.Differences, differences(d, cells[cell{g, s, b}], cells[cell{g, reference, b}])...)
					}
				}
			}
		}
		r.Series = append(r.Series, seriesOf(g, r.Strategies, samples[g])...)
	}
	return r
}

// differences compares answers to the same questions: all, and of each age.
func differences(d Difference, of, reference []MemoryRecord) (out []Difference) {
	type question struct {
		seed      uint64
		video, id string
	}
	right := map[question]bool{}
	for _, x := range reference {
		right[question{x.Seed, x.Video, x.ID}] = x.Exact
	}
	for _, age := range append([]string{""}, Ages...) {
		n, gained, lost := 0, 0, 0
		for _, x := range of {
			was, ok := right[question{x.Seed, x.Video, x.ID}]
			if !ok || age != "" && x.Age != age {
				continue
			}
			n++
			switch {
			case x.Exact && !was:
				gained++
			case was && !x.Exact:
				lost++
			}
		}
		if n > 0 {
			d.Age, d.N = age, n
			d.More, d.CI95 = newDifference(n, gained, lost)
			out = append(out, d)
		}
	}
	return out
}

// Difference finds a comparison with the reference; false where there is none.
func (r *MemoryReport) Difference(group, strategy string, budget int, age string) (Difference, bool) {
	for _, d := range r.Differences {
		if d.Group == group && d.Strategy == strategy && d.Budget == budget && d.Age == age {
			return d, true
		}
	}
	return Difference{}, false
}

// typesOf lists the types that were asked, simcam's in their order and then others.
func typesOf(all []MemoryRecord) []string {
	seen := map[string]bool{}
	for _, x := range all {
		seen[x.Type] = true
	}
	var out []string
	for _, t := range simcam.Types {
		if seen[t] {
			out = append(out, t)
			delete(seen, t)
		}
	}
	for t := range seen {
		out = append(out, t)
	}
	slices.SortStableFunc(out, func(a, b string) int {
		known := func(t string) int {
			return map[bool]int{true: slices.Index(simcam.Types, t), false: len(simcam.Types)}[slices.Contains(simcam.Types, t)]
		}
		return cmp.Or(cmp.Compare(known(a), known(b)), cmp.Compare(a, b))
	})
	return out
}

func keep(records []MemoryRecord, fits func(MemoryRecord) bool) (out []MemoryRecord) {
	for _, x := range records {
		if fits(x) {
			out = append(out, x)
		}
	}
	return out
}

func scoreOf(s Score, records []MemoryRecord) Score {
	exact, found, could, tokens := 0, 0, 0, 0
	type tally struct{ exact, n int }
	types := map[string]*tally{}
	for _, x := range records {
		if types[x.Type] == nil {
			types[x.Type] = new(tally)
		}
		types[x.Type].n++
		if x.Exact {
			exact++
			types[x.Type].exact++
		}
		if x.Shown != nil {
			could++
			if *x.Shown {
				found++
			}
		}
		tokens += x.VisualTokens
	}
	var rates []Rate
	for _, t := range types {
		rates = append(rates, NewRate(t.exact, t.n))
	}
	slices.SortFunc(rates, func(a, b Rate) int { return cmp.Or(cmp.Compare(a.Exact, b.Exact), cmp.Compare(a.N, b.N)) }) // sums in one order
	s.Rate, s.Recall, s.Macro = NewRate(exact, len(records)), NewRate(found, could), newAverage(rates)
	s.Tokens = round3(float64(tokens) / float64(len(records)))
	return s
}

func costOf(c Cost, records []MemoryRecord, samples []MemorySample) Cost {
	var tokens, prompts, cached, first, selects []float64
	for _, x := range records {
		selects = append(selects, x.SelectUS)
		if x.Refused != "" || x.FromCoverage {
			continue
		}
		tokens, prompts = append(tokens, float64(x.VisualTokens)), append(prompts, float64(x.PromptTokens))
		c.TokensMax = max(c.TokensMax, x.VisualTokens)
		if !x.Repeated {
			cached, first = append(cached, float64(x.CachedTokens)), append(first, x.FirstTokenMS)
		}
	}
	c.Tokens, c.PromptTokens, c.CachedTokens, c.FirstTokenMS = round3(mean(tokens)), round3(mean(prompts)), round3(mean(cached)), median(first)
	c.SelectUS, c.SelectP99US = round3(mean(selects)), round3(percentile(selects, .99))
	sum, n := 0.0, 0
	var medians []float64
	for _, s := range samples {
		if s.Strategy != c.Strategy {
			continue
		}
		medians = append(medians, s.MedianUS)
		sum, n = sum+s.MeanUS*float64(s.Frames), n+s.Frames
		c.UpdateP99US, c.Bytes, c.Entries = max(c.UpdateP99US, s.P99US), max(c.Bytes, s.Bytes), max(c.Entries, s.Entries)
	}
	c.UpdateUS, c.MedianUS = round3(sum/float64(max(n, 1))), median(medians)
	return c
}

// seriesOf averages samples of the same strategy and time.
func seriesOf(group string, strategies []string, samples []MemorySample) []SeriesPoint {
	type key struct {
		strategy string
		at       float64
	}
	points, counts := map[key]*SeriesPoint{}, map[key]float64{}
	for _, s := range samples {
		k := key{s.Strategy, s.AtS}
		if points[k] == nil {
			points[k] = &SeriesPoint{Group: group, Strategy: s.Strategy, AtS: s.AtS}
		}
		p := points[k]
		p.UpdateUS, p.MedianUS, p.P99US = p.UpdateUS+s.MeanUS, p.MedianUS+s.MedianUS, p.P99US+s.P99US
		p.Bytes, p.Entries = p.Bytes+float64(s.Bytes), p.Entries+float64(s.Entries)
		counts[k]++
	}
	var out []SeriesPoint
	for k, p := range points {
		n := counts[k]
		p.UpdateUS, p.MedianUS, p.P99US = round3(p.UpdateUS/n), round3(p.MedianUS/n), round3(p.P99US/n)
		p.Bytes, p.Entries = math.Round(p.Bytes/n), round3(p.Entries/n)
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b SeriesPoint) int {
		return cmp.Or(cmp.Compare(slices.Index(strategies, a.Strategy), slices.Index(strategies, b.Strategy)), cmp.Compare(a.AtS, b.AtS))
	})
	return out
}

// Score finds what was scored; false where nothing of that kind was asked.
func (r *MemoryReport) Score(group, strategy string, budget int, age, kind string) (Score, bool) {
	for _, s := range r.Scores {
		if s.Group == group && s.Strategy == strategy && s.Budget == budget && s.Age == age && s.Type == kind {
			return s, true
		}
	}
	return Score{}, false
}

// MainBudget is the one that tables with one budget are about: 512 tokens, else the largest.
func (r *MemoryReport) MainBudget() int {
	if slices.Contains(r.Budgets, 512) {
		return 512
	}
	return slices.Max(r.Budgets)
}

// Markdown is the report as tables: for each group, strategies by the questions' age at MainBudget, and how they differ from Reference.
func (r *MemoryReport) Markdown() string {
	var b strings.Builder
	budget := r.MainBudget()
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "%s, at most %d visual tokens: %% exact (95 %% interval)\n\n", r.groupWords(g), budget)
		head, line := "| strategy |", "|---|"
		ages := r.agesOf(g, budget)
		for _, a := range ages {
			s, _ := r.Score(g, r.Strategies[0], budget, a, "")
			head, line = head+fmt.Sprintf(" %s (n = %d) |", a, s.N), line+"---:|"
		}
		fmt.Fprintf(&b, "%s all | mean of types | evidence shown | tokens |\n%s---:|---:|---:|---:|\n", head, line)
		for _, name := range r.Strategies {
			fmt.Fprintf(&b, "| %s |", name)
			for _, a := range ages {
				s, _ := r.Score(g, name, budget, a, "")
				fmt.Fprintf(&b, " %s |", percentWords(s.Exact, s.CI95))
			}
			s, _ := r.Score(g, name, budget, "", "")
			recall := "–"
			if s.Recall.N > 0 {
				recall = fmt.Sprintf("%.1f", 100*s.Recall.Exact)
			}
			fmt.Fprintf(&b, " %s | %s | %s | %.0f |\n", percentWords(s.Exact, s.CI95), percentWords(s.Macro.Mean, s.Macro.CI95), recall, s.Tokens)
		}
		b.WriteString("\n")
		if reference := r.Reference(); reference != "" {
			fmt.Fprintf(&b, "The same questions: points more than %s (95 %% interval)\n\n| strategy | %s | all |\n|---|%s---:|\n",
				reference, strings.Join(ages, " | "), strings.Repeat("---:|", len(ages)))
			for _, name := range r.Strategies {
				if name == reference {
					continue
				}
				fmt.Fprintf(&b, "| %s |", name)
				for _, a := range append(ages, "") {
					d, _ := r.Difference(g, name, budget, a)
					fmt.Fprintf(&b, " %s |", pointWords(d))
				}
				b.WriteString("\n")
			}
			b.WriteString("\n")
		}
	}
	fmt.Fprintf(&b, "%d questions, %d answers, %d of them generated, %.0f s in all on %s (%s), model %s %s, commit %s.\n",
		r.Questions, r.Answers, r.Generated, r.Seconds, r.Machine.CPU, r.Machine.Device, r.Machine.Model, r.Machine.ModelHash, r.Machine.Commit)
	if r.Refused > 0 {
		fmt.Fprintf(&b, "%d answers are missing because nothing in memory fitted the budget; they count as wrong.\n", r.Refused)
	}
	return b.String()
}

// agesOf are those ages that questions of a group had.
func (r *MemoryReport) agesOf(group string, budget int) (ages []string) {
	for _, a := range Ages {
		if _, ok := r.Score(group, r.Strategies[0], budget, a, ""); ok {
			ages = append(ages, a)
		}
	}
	return ages
}

// pointWords is a difference in percentage points.
func pointWords(d Difference) string {
	signed := func(format string, x float64) string {
		text := fmt.Sprintf(format, 100*x)
		if strings.Trim(text, "+-0.") == "" {
			return "0"
		}
		return strings.Replace(text, "-", "−", 1)
	}
	return fmt.Sprintf("%s (%s…%s)", signed("%+.1f", d.More), signed("%+.0f", d.CI95[0]), signed("%+.0f", d.CI95[1]))
}

func percentWords(p float64, ci [2]float64) string {
	return fmt.Sprintf("%.1f (%.0f–%.0f)", 100*p, 100*ci[0], 100*ci[1])
}

func (r *MemoryReport) groupWords(group string) string {
	switch {
	case group == videosGroup && len(r.Videos) == 1:
		return "1 video"
	case group == videosGroup:
		return fmt.Sprintf("%d videos", len(r.Videos))
	case len(r.Seeds) == 1:
		return "1 stream of " + group
	}
	return fmt.Sprintf("%d streams of %s", len(r.Seeds), group)
}
