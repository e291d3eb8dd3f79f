package bench

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Markdown is the report as a table.
func (r *SimReport) Markdown() string {
	var b strings.Builder
	name := r.Strategy
	switch r.Baseline {
	case "blind":
		name = "blind (shown nothing)"
	case "newest":
		name = "newest frame only"
	}
	fmt.Fprintf(&b, "%s: %d seeds of %g minutes, %d questions, at most %d visual tokens, codec %s, model %s\n\n",
		name, len(r.Seeds), r.Minutes, r.Questions, r.VisualTokens, r.Codec, r.Machine.Model)
	b.WriteString("| type | n | exact | 95 % |\n|---|---:|---:|---|\n")
	row := func(name string, x Rate) {
		fmt.Fprintf(&b, "| %s | %d | %.1f %% | %.1f – %.1f |\n", name, x.N, 100*x.Exact, 100*x.CI95[0], 100*x.CI95[1])
	}
	for _, t := range slices.Sorted(maps.Keys(r.Types)) {
		row(t, r.Types[t])
	}
	row("**all closed**", r.Closed)
	row("**order, whole list**", r.Order.Rate)
	fmt.Fprintf(&b, "\nKendall's tau of ordered narratives %.3f, first token %.0f ms (median), %.0f s in all on %s (%s).\n",
		r.Order.Kendall, r.FirstTokenMS, r.Seconds, r.Machine.CPU, r.Machine.Device)
	if a := r.Attention; a != nil {
		fmt.Fprintf(&b, "\nOf %d questions, the moment that got the largest share of the attention holds what is asked about in %.1f %% (95 %%: %.1f – %.1f)",
			a.Largest.N, 100*a.Largest.Exact, 100*a.Largest.CI95[0], 100*a.Largest.CI95[1])
		if a.Nearest.N > 0 {
			fmt.Fprintf(&b, ", the one nearest to the question in %.1f %% (%.1f – %.1f)", 100*a.Nearest.Exact, 100*a.Nearest.CI95[0], 100*a.Nearest.CI95[1])
		}
		fmt.Fprintf(&b, ", any moment in %.1f %%.\n", 100*a.Chance)
	}
	return b.String()
}

// Markdown is the report as a table.
func (r *EngineReport) Markdown() string {
	var b strings.Builder
	b.WriteString("| figure | value |\n|---|---:|\n")
	fmt.Fprintf(&b, "| frames encoded a second | %.1f |\n", r.EncodeFPS)
	fmt.Fprintf(&b, "| first token, full memory, nothing cached | %.1f ms |\n", r.FirstTokenMS)
	fmt.Fprintf(&b, "| first token, memory prefilled | %.1f ms |\n", r.FirstTokenWarmMS)
	fmt.Fprintf(&b, "| tokens a second while answering | %.0f |\n", r.TokensPerS)
	if r.IndicateMS > 0 {
		fmt.Fprintf(&b, "| what a frame shows, for questions to find it by | %.2f ms |\n| a question, to find frames by | %.2f ms |\n", r.IndicateMS, r.QueryMS)
	}
	fmt.Fprintf(&b, "| visual tokens of the memory | %d |\n", r.VisualTokens)
	for _, row := range r.Rows {
		if row.Unit == "%" || row.Unit == "nats" {
			fmt.Fprintf(&b, "| %s, %s | %g %s |\n", row.What, row.Shape, row.Value, row.Unit)
		}
	}
	fmt.Fprintf(&b, "\n%s, %s, %d threads, level %s.\n", r.Machine.CPU, r.Machine.Device, r.Threads, r.Level)
	return b.String()
}

// Markdown is the report as a table.
func (r *SoakReport) Markdown() string {
	var b strings.Builder
	b.WriteString("| minute | resident MB | CPU cores | frames | dropped | first token ms |\n|---:|---:|---:|---:|---:|---:|\n")
	for i, mb := range r.RSSMB {
		fmt.Fprintf(&b, "| %d | %.1f | %.2f | %d | %d | %.0f |\n", i+1, mb, r.CoresByMinute[i], r.FramesByMinute[i], r.DroppedByMinute[i], r.FirstTokenMS[i])
	}
	fmt.Fprintf(&b, "\n%.2f cores on average over %g minutes on %s (%s).\n", r.CPUCores, r.Minutes, r.Machine.CPU, r.Machine.Device)
	return b.String()
}
