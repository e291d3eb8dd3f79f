package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

//go:embed memory.html.tmpl
var memoryPage string

// WriteHTML writes the report to a file as one page that needs nothing else: no script, no network.
func (r *MemoryReport) WriteHTML(file string) error {
	part := file + ".part"
	f, err := os.Create(part)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	err = r.HTML(f)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(part, file)
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// HTML writes the report as a page, well formed as XML.
func (r *MemoryReport) HTML(w io.Writer) error {
	t, err := template.New("memory").Parse(memoryPage)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := t.Execute(w, r.page()); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// What the template is given.
type (
	page struct {
		Lead     string
		Facts    []fact
		Sections []section
	}
	fact    struct{ Name, Value string }
	section struct {
		ID, Title string
		Figures   []figure
	}
	figure struct {
		ID, Title, Desc string // Desc is read out in place of the picture, and printed below the title
		Plot            *plot  // nil: the table is all
		Legend          []legend
		Table           table
	}
	legend struct{ Class, Mark, Name string }
	plot   struct {
		W, H                     float64
		Left, Right, Top, Bottom float64 // of the plot area, in the picture's units
		XName, YName             string
		XTicks, YTicks           []tick
		Lines                    []line
	}
	tick struct {
		At   float64
		Name string
	}
	line struct {
		Class, Path string
		Marks       []mark
	}
	mark struct {
		X, Y, Lo, Hi float64 // Lo and Hi: the ends of the bar, equal to Y without one
		Shape, Name  string
		Bar          bool
	}
	table struct {
		Caption  string
		Head     []string
		Rows     [][]tableCell
		Breaks   []int   // rows that begin a part
		MinWidth float64 // em; columns are equally wide then; 0: as wide as they need be
	}
	tableCell struct{ Text, Class, Title string }
)

func (r *MemoryReport) page() page {
	m := r.Machine
	p := page{
		Lead: fmt.Sprintf("%d questions, each asked of %d memories within %d %s. All memories were given the same frames and the same questions at the same moments, and one model answered.",
			r.Questions, len(r.Strategies), len(r.Budgets), plural(len(r.Budgets), "budget of visual tokens", "budgets of visual tokens")),
	}
	for _, g := range r.Groups {
		p.Sections = append(p.Sections, r.section(g))
	}
	if s := r.costs(); len(s.Figures) > 0 {
		p.Sections = append(p.Sections, s)
	}
	add := func(name, format string, args ...any) {
		p.Facts = append(p.Facts, fact{name, fmt.Sprintf(format, args...)})
	}
	if len(r.EveryMinutes) > 0 {
		add("Seeds", "%s", seedWords(r.Seeds))
	}
	for _, g := range r.Groups {
		if every, ok := r.EveryMinutes[g]; ok {
			add("Streams of "+g, "%d questions at a moment of every %s minute", r.PerMinute, ordinal(every))
		}
	}
	if len(r.Videos) > 0 {
		add("Videos", "%s", strings.Join(r.Videos, ", "))
	}
	if r.DiskBytes > 0 {
		add("Disk", "each strategy had %s for a stream, to read the past back from", byteWords(float64(r.DiskBytes)))
	}
	add("Answers", "%d, of which %d were generated; equal prompts are asked once", r.Answers, r.Generated)
	if r.Refused > 0 {
		add("Without an answer", "%d, because nothing in memory fitted the budget; they count as wrong", r.Refused)
	}
	add("Model", "%s %s", m.Model, m.ModelHash)
	add("Program", "%s", m.Commit)
	add("Machine", "%s, %s, %d threads", m.CPU, m.Device, m.Threads)
	add("Date", "%s", m.Date)
	add("Time taken", "%.0f s", r.Seconds)
	return p
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func ordinal(n int) string {
	if n == 1 {
		return "single"
	}
	suffix := "th"
	if n/10%10 != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return strconv.Itoa(n) + suffix
}

// seedWords folds runs of seeds.
func seedWords(seeds []uint64) string {
	s, parts := slices.Sorted(slices.Values(seeds)), []string(nil)
	for i := 0; i < len(s); {
		j := i
		for j+1 < len(s) && s[j+1] == s[j]+1 {
			j++
		}
		part := strconv.FormatUint(s[i], 10)
		if j > i {
			part += "–" + strconv.FormatUint(s[j], 10)
		}
		parts, i = append(parts, part), j+1
	}
	return strings.Join(parts, ", ")
}

// section is a group's questions.
func (r *MemoryReport) section(g string) section {
	id := strings.ReplaceAll(g, " ", "-")
	s := section{ID: id, Title: upperFirst(r.groupWords(g))}
	budget := r.MainBudget()
	wilson := "Bars are 95 % intervals (Wilson)."
	exact := func(x Score) (Rate, bool) { return x.Rate, true }
	recall := func(x Score) (Rate, bool) { return x.Recall, x.Recall.N > 0 }
	evidence := "Share of questions about the past whose evidence was among the entries that the model was shown: a measure of the memory, whatever the model makes of it. " + wilson
	s.Figures = []figure{
		r.byAge(g, id+"-age", fmt.Sprintf("Answers against the question's age, %d tokens", budget),
			"Share of questions answered exactly, by the time that has passed since what they are about. “Whole” are questions that all of the past is the evidence for: how many there were, what did not happen. "+wilson,
			"% exact", budget, exact),
		r.byTokens(g, id+"-tokens", "Answers against visual tokens", "Share of questions answered exactly, within each budget of visual tokens. "+wilson, "% exact", exact),
		r.byAge(g, id+"-recall-age", fmt.Sprintf("Evidence shown against the question's age, %d tokens", budget), evidence, "% shown", budget, recall),
		r.byTokens(g, id+"-recall", "Evidence shown against visual tokens", evidence, "% shown", recall),
	}
	s.Figures = slices.DeleteFunc(s.Figures, func(f figure) bool { return len(f.Plot.Lines) == 0 })
	s.Figures = append(s.Figures, r.byType(g, id, budget))
	if r.Reference() != "" {
		s.Figures = append(s.Figures, r.against(g, id, budget))
	}
	return s
}

// against is a table of the differences from the reference.
func (r *MemoryReport) against(g, id string, budget int) figure {
	title := fmt.Sprintf("Against %s, question by question, %d tokens", r.Reference(), budget)
	f := figure{ID: id + "-against", Title: title, Table: table{Caption: title, Head: []string{"strategy"}},
		Desc: "Percentage points more of the same questions answered exactly, with 95 % intervals (Agresti and Min, paired). Bold where the interval does not hold zero."}
	ages := r.agesOf(g, budget)
	f.Table.Head = append(append(f.Table.Head, ages...), "all")
	for _, name := range r.Strategies {
		if name == r.Reference() {
			continue
		}
		row := []tableCell{{Text: name}}
		for _, a := range append(ages, "") {
			d, ok := r.Difference(g, name, budget, a)
			cell := tableCell{Text: pointWords(d), Title: fmt.Sprintf("n = %d", d.N)}
			switch {
			case !ok:
				cell = tableCell{Text: "–"}
			case d.CI95[0] > 0 || d.CI95[1] < 0:
				cell.Class = "clear"
			}
			row = append(row, cell)
		}
		f.Table.Rows = append(f.Table.Rows, row)
	}
	return f
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// style is the class and the mark of the i-th strategy. The baselines are grey.
func (r *MemoryReport) style(i int) (class, shape string) {
	name := r.Strategies[i]
	switch name {
	case NewestName:
		return "base", shapes[1]
	case BlindName:
		return "base", shapes[0]
	}
	n := 0
	for _, s := range r.Strategies[:i] {
		if s != NewestName && s != BlindName {
			n++
		}
	}
	return fmt.Sprintf("s%d", n%10), shapes[n%len(shapes)]
}

// shapes of marks around their place: circle, square, triangle, diamond, triangle down, cross.
var shapes = []string{
	"M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-3.6-3.6h7.2v7.2h-7.2z", "M0-4.8L4.6 3.6H-4.6z", "M0-5L5 0L0 5L-5 0z", "M0 4.8L4.6-3.6H-4.6z",
	"M-1.6-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
}

func newPlot(x, y string) *plot {
	return &plot{W: 560, H: 330, Left: 52, Right: 552, Top: 28, Bottom: 282, XName: x, YName: y}
}

func (p *plot) percents() {
	for v := 0; v <= 100; v += 20 {
		p.YTicks = append(p.YTicks, tick{p.y(float64(v) / 100), strconv.Itoa(v)})
	}
}

// y is where a share is.
func (p *plot) y(share float64) float64 { return round1(p.Bottom - share*(p.Bottom-p.Top)) }

func round1(x float64) float64 { return math.Round(x*10) / 10 }

// columns places n columns evenly and returns their middles, and how far apart k marks in one stand.
func (p *plot) columns(n, k int) (at []float64, apart float64) {
	width := (p.Right - p.Left) / float64(n)
	for i := range n {
		at = append(at, round1(p.Left+width*(float64(i)+.5)))
	}
	return at, min(11, width*.8/float64(max(k, 1)))
}

// rates draws one line of rates through columns.
func (p *plot) rates(r *MemoryReport, i int, at []float64, apart float64, names []string, rate func(column int) (Rate, bool), connect func(column int) bool) {
	class, shape := r.style(i)
	l := line{Class: class}
	shift := (float64(i) - float64(len(r.Strategies)-1)/2) * apart
	joined := false
	for c := range at {
		x, ok := rate(c)
		if !ok {
			joined = false
			continue
		}
		m := mark{X: round1(at[c] + shift), Y: p.y(x.Exact), Lo: p.y(x.CI95[0]), Hi: p.y(x.CI95[1]), Shape: shape, Bar: true,
			Name: fmt.Sprintf("%s, %s: %s %%, n = %d", r.Strategies[i], names[c], percentWords(x.Exact, x.CI95), x.N)}
		if joined && connect(c) {
			l.Path += fmt.Sprintf("L%g %g", m.X, m.Y)
		} else {
			l.Path += fmt.Sprintf("M%g %g", m.X, m.Y)
		}
		joined = true
		l.Marks = append(l.Marks, m)
	}
	if len(l.Marks) > 0 {
		p.Lines = append(p.Lines, l)
	}
}

func (r *MemoryReport) legends(skip func(string) bool) (out []legend) {
	for i, name := range r.Strategies {
		if skip == nil || !skip(name) {
			class, shape := r.style(i)
			out = append(out, legend{class, shape, name})
		}
	}
	return out
}

func (r *MemoryReport) byTokens(g, id, title, desc, y string, pick func(Score) (Rate, bool)) figure {
	p := newPlot("visual tokens at most", y)
	p.percents()
	at, apart := p.columns(len(r.Budgets), len(r.Strategies))
	f := figure{ID: id, Title: title, Desc: desc, Plot: p, Legend: r.legends(nil), Table: table{Caption: title + ", %", Head: []string{"strategy"}}}
	var names []string
	for i, b := range r.Budgets {
		names = append(names, fmt.Sprintf("%d tokens", b))
		p.XTicks = append(p.XTicks, tick{at[i], strconv.Itoa(b)})
		f.Table.Head = append(f.Table.Head, fmt.Sprintf("%d tokens", b), "used")
	}
	for i, name := range r.Strategies {
		rate := func(c int) (Rate, bool) {
			s, ok := r.Score(g, name, r.Budgets[c], "", "")
			if !ok {
				return Rate{}, false
			}
			return pick(s)
		}
		p.rates(r, i, at, apart, names, rate, func(int) bool { return true })
		row := []tableCell{{Text: name}}
		for c, b := range r.Budgets {
			s, _ := r.Score(g, name, b, "", "")
			row = append(row, rateCell(rate(c)), tableCell{Text: fmt.Sprintf("%.0f", s.Tokens)})
		}
		f.Table.Rows = append(f.Table.Rows, row)
	}
	return f
}

func rateCell(x Rate, ok bool) tableCell {
	if !ok || x.N == 0 {
		return tableCell{Text: "–"}
	}
	return tableCell{Text: percentWords(x.Exact, x.CI95), Title: fmt.Sprintf("n = %d", x.N)}
}

func (r *MemoryReport) byAge(g, id, title, desc, y string, budget int, pick func(Score) (Rate, bool)) figure {
	p := newPlot("from the end of the evidence to the question", y)
	p.percents()
	rate := func(name, age string) (Rate, bool) {
		s, ok := r.Score(g, name, budget, age, "")
		if !ok {
			return Rate{}, false
		}
		return pick(s)
	}
	var ages []string
	f := figure{ID: id, Title: title, Desc: desc, Plot: p, Legend: r.legends(nil), Table: table{Caption: title + ", " + y, Head: []string{"strategy"}}}
	for _, a := range Ages {
		if x, ok := rate(r.Strategies[0], a); ok {
			ages = append(ages, a)
			f.Table.Head = append(f.Table.Head, fmt.Sprintf("%s (n = %d)", a, x.N))
		}
	}
	f.Table.Head = append(f.Table.Head, "all")
	at, apart := p.columns(max(1, len(ages)), len(r.Strategies))
	for i, a := range ages {
		p.XTicks = append(p.XTicks, tick{at[i], a})
	}
	for i, name := range r.Strategies {
		of := func(c int) (Rate, bool) { return rate(name, ages[c]) }
		row := []tableCell{{Text: name}}
		if len(ages) > 0 {
			p.rates(r, i, at, apart, ages, of, func(c int) bool { return ages[c] != Ages[4] })
		}
		for c := range ages {
			row = append(row, rateCell(of(c)))
		}
		f.Table.Rows = append(f.Table.Rows, append(row, rateCell(rate(name, ""))))
	}
	return f
}

// byType is a table of everything at one budget: all questions, by age, and by type.
func (r *MemoryReport) byType(g, id string, budget int) figure {
	title := fmt.Sprintf("Answers by age and type of question, %d tokens", budget)
	f := figure{ID: id + "-type", Title: title, Desc: "Share of questions answered exactly, in %, and in brackets how many were asked. The deeper the colour, the more.",
		Table: table{Caption: title + ", % exact", Head: append([]string{"questions"}, r.Strategies...), MinWidth: 12 + 6*float64(len(r.Strategies))}}
	row := func(name string, value func(Score) (share float64, ci [2]float64, n int), age, kind string) {
		cells, n := []tableCell{{}}, 0
		for _, strategy := range r.Strategies {
			s, ok := r.Score(g, strategy, budget, age, kind)
			if !ok {
				continue // none of the strategies was asked
			}
			var share float64
			var ci [2]float64
			share, ci, n = value(s)
			cells = append(cells, tableCell{Text: fmt.Sprintf("%.0f", 100*share), Class: fmt.Sprintf("h%d", int(math.Round(10*share))),
				Title: fmt.Sprintf("%s, %s: %s %%, n = %d", strategy, name, percentWords(share, ci), n)})
		}
		cells[0].Text = fmt.Sprintf("%s (%d)", strings.ReplaceAll(name, "_", " "), n)
		if n > 0 {
			f.Table.Rows = append(f.Table.Rows, cells)
		}
	}
	micro := func(s Score) (float64, [2]float64, int) { return s.Exact, s.CI95, s.N }
	row("all questions", micro, "", "")
	row("mean of types", func(s Score) (float64, [2]float64, int) { return s.Macro.Mean, s.Macro.CI95, s.Macro.N }, "", "")
	for _, a := range Ages {
		row(a, micro, a, "")
	}
	f.Table.Breaks = append(f.Table.Breaks, 2, len(f.Table.Rows))
	for _, kind := range r.Types {
		row(kind, micro, "", kind)
	}
	for _, i := range f.Table.Breaks {
		if i < len(f.Table.Rows) {
			f.Table.Rows[i][0].Class = "break"
		}
	}
	return f
}

// costs is what the memories took in the longest streams.
func (r *MemoryReport) costs() section {
	longest, reach := "", 0.0
	for _, p := range r.Series {
		if p.AtS > reach {
			longest, reach = p.Group, p.AtS
		}
	}
	s := section{ID: "cost", Title: "What it costs"}
	if longest == "" {
		return s
	}
	budget, of := r.MainBudget(), r.groupWords(longest)
	baseline := func(name string) bool { return name == NewestName || name == BlindName }
	series := func(id, title, desc, y string, unit func(float64) string, value func(SeriesPoint) float64) {
		f := figure{ID: "cost-" + id, Title: title, Desc: desc, Legend: r.legends(baseline), Table: table{Caption: title, Head: []string{"strategy"}}}
		f.Plot = r.overTime(longest, reach, y, unit, value, baseline)
		if len(f.Plot.Lines) == 0 {
			return
		}
		shares := []float64{.1, .25, .5, .75, 1}
		for _, share := range shares {
			f.Table.Head = append(f.Table.Head, "at "+timeWords(share*reach))
		}
		for _, name := range r.Strategies {
			if baseline(name) {
				continue
			}
			row := []tableCell{{Text: name}}
			for _, share := range shares {
				row = append(row, tableCell{Text: unit(value(r.pointAt(longest, name, share*reach)))})
			}
			f.Table.Rows = append(f.Table.Rows, row)
		}
		s.Figures = append(s.Figures, f)
	}
	series("update", "Update time against stream length", "Time to take one frame in, the median of each stretch, on a logarithmic scale. "+upperFirst(of)+".",
		"update", microWords, func(p SeriesPoint) float64 { return p.MedianUS })
	series("bytes", "Memory held against stream length", "Bytes of rows, pictures and indicators that a memory holds, on a logarithmic scale. "+upperFirst(of)+".",
		"held", byteWords, func(p SeriesPoint) float64 { return p.Bytes })
	f := figure{ID: "cost-table", Title: fmt.Sprintf("Costs within %d tokens, %s", budget, of),
		Desc:  "An update is one frame's (median, mean, and the 99th percentile in the worst stretch of a stream), a selection one question's (mean and 99th percentile). Other threads encode and answer meanwhile: on few cores the longest ones are waits for those. Cached tokens and the first token are of answers that were generated, several at once.",
		Table: table{Caption: "Costs", Head: []string{"strategy", "update", "mean", "p99", "selection", "p99", "held at most", "entries", "visual tokens", "at most", "prompt tokens", "of them cached", "first token"}}}
	for _, c := range r.Costs {
		if c.Group != longest || c.Budget != budget {
			continue
		}
		f.Table.Rows = append(f.Table.Rows, []tableCell{{Text: c.Strategy}, {Text: microWords(c.MedianUS)}, {Text: microWords(c.UpdateUS)}, {Text: microWords(c.UpdateP99US)}, {Text: microWords(c.SelectUS)},
			{Text: microWords(c.SelectP99US)}, {Text: byteWords(float64(c.Bytes))}, {Text: strconv.Itoa(c.Entries)}, {Text: fmt.Sprintf("%.0f", c.Tokens)},
			{Text: strconv.Itoa(c.TokensMax)}, {Text: fmt.Sprintf("%.0f", c.PromptTokens)}, {Text: fmt.Sprintf("%.0f", c.CachedTokens)}, {Text: firstTokenWords(c)}})
	}
	s.Figures = append(s.Figures, f)
	return s
}

func firstTokenWords(c Cost) string {
	if c.FirstTokenMS == 0 {
		return "–" // all of its prompts had been asked
	}
	return fmt.Sprintf("%.0f ms", c.FirstTokenMS)
}

// pointAt is the sample of a strategy nearest to a time.
func (r *MemoryReport) pointAt(group, strategy string, at float64) (best SeriesPoint) {
	gap := math.Inf(1)
	for _, p := range r.Series {
		if d := math.Abs(p.AtS - at); p.Group == group && p.Strategy == strategy && d < gap {
			best, gap = p, d
		}
	}
	return best
}

// overTime draws values on a logarithmic scale.
func (r *MemoryReport) overTime(group string, reach float64, y string, unit func(float64) string, value func(SeriesPoint) float64, skip func(string) bool) *plot {
	p := newPlot("stream time", y)
	p.Left = 66
	lo, hi := math.Inf(1), 0.0
	for _, x := range r.Series {
		if v := value(x); x.Group == group && !skip(x.Strategy) && v > 0 {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	if hi == 0 {
		return p
	}
	from, to := math.Floor(math.Log10(lo)), math.Ceil(math.Log10(hi))
	if to == from {
		to++
	}
	place := func(v float64) float64 { return p.y((math.Log10(v) - from) / (to - from)) }
	for e := from; e <= to; e++ {
		p.YTicks = append(p.YTicks, tick{place(math.Pow(10, e)), unit(math.Pow(10, e))})
	}
	for i := range 5 {
		share := float64(i) / 4
		p.XTicks = append(p.XTicks, tick{round1(p.Left + share*(p.Right-p.Left-14)), timeWords(share * reach)})
	}
	for i, name := range r.Strategies {
		if skip(name) {
			continue
		}
		class, shape := r.style(i)
		l := line{Class: class}
		var points []SeriesPoint
		for _, x := range r.Series {
			if x.Group == group && x.Strategy == name && value(x) > 0 {
				points = append(points, x)
			}
		}
		for k, x := range points {
			m := mark{X: round1(p.Left + x.AtS/reach*(p.Right-p.Left-14)), Y: place(value(x)), Shape: shape, Name: fmt.Sprintf("%s at %s: %s", name, timeWords(x.AtS), unit(value(x)))}
			l.Path += fmt.Sprintf("%c%g %g", "ML"[min(k, 1)], m.X, m.Y)
			if every := max(1, len(points)/8); (k+i)%every == every-1 || k == len(points)-1 {
				l.Marks = append(l.Marks, m)
			}
		}
		if l.Path != "" {
			p.Lines = append(p.Lines, l)
		}
	}
	return p
}

func timeWords(s float64) string {
	switch m := s / 60; {
	case s == 0:
		return "0"
	case s < 90:
		return fmt.Sprintf("%.0f s", s)
	case m < 90:
		return fmt.Sprintf("%.3g min", math.Round(10*m)/10)
	default:
		return fmt.Sprintf("%.3g h", m/60)
	}
}

func microWords(us float64) string {
	switch {
	case us >= 1e6:
		return fmt.Sprintf("%.3g s", us/1e6)
	case us >= 1e3:
		return fmt.Sprintf("%.3g ms", us/1e3)
	}
	return fmt.Sprintf("%.3g µs", us)
}

func byteWords(n float64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.3g GB", n/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.3g MB", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.3g kB", n/1e3)
	}
	return fmt.Sprintf("%.3g B", n)
}
