package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"afterimage/encoder"
	"afterimage/hub"
	"afterimage/internal/weights"
	"afterimage/llm"
)

type listModelsCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (c *listModelsCmd) Help() string {
	return `First those that are on this machine, with what they take of the disk, then the short names that can be pulled. Sizes of models that are
not here are those of their weights as their pages list them; "?" is not known.`
}

// modelDoc is a model for programs: one that is here, or one that could be pulled.
type modelDoc struct {
	Name     string   `json:"name"`
	Repo     string   `json:"repo"`
	Commit   string   `json:"commit,omitempty"`
	Refs     []string `json:"refs,omitempty"`
	Dir      string   `json:"directory,omitempty"`
	Bytes    int64    `json:"bytes,omitempty"` // of its files; of its weights, where it is not here
	Missing  string   `json:"missing,omitempty"`
	Family   string   `json:"family,omitempty"`
	Licence  string   `json:"licence,omitempty"`
	For      string   `json:"for,omitempty"`
	Hardware string   `json:"hardware,omitempty"`
	Here     bool     `json:"here"`
}

func (c *listModelsCmd) Run(a *app) error {
	h, err := hub.FromEnv(a.lookup)
	if err != nil {
		return err
	}
	var here []*hub.Model
	if h.Cache != "" {
		if here, err = h.Models(); err != nil {
			return err
		}
	}
	docs, disk := []modelDoc{}, map[string]int64{}
	for _, m := range here {
		for _, s := range m.Snapshots {
			d := modelDoc{Name: s.Name().String(), Repo: m.Repo, Commit: s.Commit, Refs: s.Refs, Dir: s.Dir, Bytes: s.Bytes, Missing: s.Missing, Here: true,
				Family: modelType(os.DirFS(s.Dir))}
			if e, ok := s.Name().Entry(); ok {
				d.Licence, d.For, d.Hardware = e.Licence, e.For, e.Hardware
			}
			docs, disk[m.Repo] = append(docs, d), m.Bytes
		}
	}
	for _, e := range hub.Catalogue {
		if !slices.ContainsFunc(docs, func(d modelDoc) bool { return d.Name == e.Short }) {
			docs = append(docs, modelDoc{Name: e.Short, Repo: e.Repo, Bytes: e.Bytes, Family: e.Family, Licence: e.Licence, For: e.For, Hardware: e.Hardware})
		}
	}
	if c.JSON {
		return writeJSON(a.out, docs)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for i, d := range docs {
		switch {
		case d.Here && i == 0:
			fmt.Fprintf(a.out, "on this machine, in %s:\n", h.Cache)
		case !d.Here && (i == 0 || docs[i-1].Here):
			if err := w.Flush(); err != nil {
				return err
			}
			if i == 0 {
				fmt.Fprintln(a.out, "no model is on this machine but the embedded one")
			}
			fmt.Fprintln(a.out, "\ncan be pulled (afterimage pull NAME):")
		}
		if d.Here {
			state := d.Family
			if d.Missing != "" {
				state = "not finished: " + d.Missing + " is missing"
			}
			fmt.Fprintf(w, "  %s\t%s\t%.8s\t%s\n", d.Name, size(disk[d.Repo]), d.Commit, state)
			continue
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", d.Name, knownSize(d.Bytes), d.Hardware, d.For)
	}
	return w.Flush()
}

func knownSize(bytes int64) string {
	if bytes == 0 {
		return "?"
	}
	return fmt.Sprintf("%.3g GB", float64(bytes)/1e9)
}

// modelType is what config.json calls the model, "" if that cannot be read.
func modelType(files fs.FS) string {
	var c struct {
		Type string `json:"model_type"`
	}
	if text, err := fs.ReadFile(files, "config.json"); err != nil || json.Unmarshal(text, &c) != nil {
		return ""
	}
	return c.Type
}

type showCmd struct {
	Name string `arg:"" help:"A model: a short name, ORG/NAME[@revision], or a directory."`
	JSON bool   `name:"json" help:"Print one JSON object instead."`
}

func (c *showCmd) Help() string {
	return `What a model is: family, licence, files, what its weights take in memory by the way they are held, and how it remembers. Of a model that
is not here, what is known of it. "afterimage doctor --model NAME" measures what it takes and how fast it is on this machine.

Examples:
  afterimage show smolvlm2-256m
  afterimage show ./my-model`
}

// showDoc is what is shown of a model, for programs.
type showDoc struct {
	modelDoc
	Revision string           `json:"revision,omitempty"`
	Page     string           `json:"page,omitempty"`
	Memory   string           `json:"memory,omitempty"`
	Numbers  int64            `json:"parameters,omitempty"` // 0: not known
	Weights  map[string]int64 `json:"weights_bytes,omitempty"`
	Files    []fileDoc        `json:"files,omitempty"`
	Text     string           `json:"decoder,omitempty"`
	Vision   string           `json:"tower,omitempty"`
}

type fileDoc struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

func (c *showCmd) Run(a *app) error {
	d, err := describeModel(a, c.Name)
	if err != nil {
		return fmt.Errorf("show: %w", err)
	}
	if c.JSON {
		return writeJSON(a.out, d)
	}
	w := bufio.NewWriter(a.out)
	d.print(w)
	return w.Flush()
}

// describeModel gathers what is known of a model that is a directory, was pulled, or could be.
func describeModel(a *app, name string) (*showDoc, error) {
	d := &showDoc{modelDoc: modelDoc{Name: name}}
	var files fs.FS
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		d.Dir, d.Here, files = name, true, os.DirFS(name)
		list, err := os.ReadDir(name)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if info, err := os.Stat(filepath.Join(name, e.Name())); err == nil && info.Mode().IsRegular() {
				d.Files, d.Bytes = append(d.Files, fileDoc{e.Name(), info.Size()}), d.Bytes+info.Size()
			}
		}
	} else {
		h, err := hub.FromEnv(a.lookup)
		if err != nil {
			return nil, err
		}
		n, err := hub.ParseName(name)
		if err != nil {
			return nil, err
		}
		e, known := n.Entry()
		s, err := h.Snapshot(n)
		switch {
		case err == nil:
			d.Commit, d.Refs, d.Dir, d.Bytes, d.Missing, d.Here, files = s.Commit, s.Refs, s.Dir, s.Bytes, s.Missing, true, os.DirFS(s.Dir)
			for _, f := range s.Files {
				d.Files = append(d.Files, fileDoc{f.Name, f.Size})
			}
		case !known:
			return nil, err
		default:
			d.Bytes = e.Bytes
			if config := e.Config(); config != nil {
				files = weights.Random{Config: config}
			}
		}
		d.Name, d.Repo, d.Revision, d.Page = n.String(), n.Repo, n.Revision, hub.DefaultEndpoint+"/"+n.Repo
		if known {
			d.Family, d.Licence, d.For, d.Hardware, d.Memory = e.Family, e.Licence, e.For, e.Hardware, e.Memory
		}
	}
	if files == nil {
		return d, nil
	}
	d.Family = first(modelType(files), d.Family)
	if t, err := llm.ReadConfig(files); err != nil {
		d.Text = err.Error()
	} else {
		d.Text = fmt.Sprintf("%d layers of %d, %d heads of %d (%d of K and V), vocabulary %d, context %d", t.Layers, t.Hidden, t.Heads, t.HeadDim, t.KVHeads, t.Vocab, t.Context)
	}
	if v, err := encoder.ReadConfig(files); err != nil {
		d.Vision = err.Error()
	} else {
		d.Vision = fmt.Sprintf("%d layers of %d, %d heads", v.Vision.Run, v.Vision.Hidden, v.Vision.Heads)
	}
	if !d.Here || d.Missing != "" {
		return d, nil
	}
	ck, err := weights.Open(files)
	if err != nil {
		return nil, err
	}
	matrices, vectors := ck.Count()
	if err := ck.Close(); err != nil {
		return nil, err
	}
	d.Numbers, d.Weights = matrices+vectors, map[string]int64{}
	for _, q := range []quantName{"f32", "bf16", "int8", "int4"} {
		d.Weights[string(q)] = quantBytes(q, matrices) + 4*vectors
	}
	return d, nil
}

// quantBytes is what so many numbers of matrices take. The scales of rows and groups are less than a hundredth beside them.
func quantBytes(q quantName, n int64) int64 {
	switch q {
	case "f32":
		return 4 * n
	case "int8":
		return n
	case "int4":
		return n / 2
	}
	return 2 * n
}

func (d *showDoc) print(w io.Writer) {
	line := func(what, text string) {
		if text != "" {
			fmt.Fprintf(w, "%-9s %s\n", what, text)
		}
	}
	fmt.Fprintln(w, d.Name)
	line("family", d.Family)
	line("page", d.Page)
	if d.Page != "" {
		line("licence", first(d.Licence, "not known here: look at its page"))
	}
	line("for", d.For)
	line("hardware", d.Hardware)
	line("memory", d.Memory)
	line("decoder", d.Text)
	line("tower", d.Vision)
	switch {
	case !d.Here:
		line("here", fmt.Sprintf("no; %s of weights: afterimage pull %s", knownSize(d.Bytes), d.Name))
	case d.Missing != "":
		line("here", fmt.Sprintf("not whole, %s is missing: afterimage pull %s", d.Missing, d.Name))
	default:
		line("here", d.Dir)
		if d.Commit != "" {
			line("commit", strings.TrimSpace(d.Commit+" "+strings.Join(d.Refs, " ")))
		}
	}
	if d.Numbers > 0 {
		line("weights", fmt.Sprintf("%.3g billion numbers: in memory bf16 %s, int8 %s, int4 %s, f32 %s", float64(d.Numbers)/1e9,
			size(d.Weights["bf16"]), size(d.Weights["int8"]), size(d.Weights["int4"]), size(d.Weights["f32"])))
		line("", "and K/V, buffers and the memory of each stream: afterimage doctor --model "+d.Name)
	}
	for _, f := range d.Files {
		line("file", fmt.Sprintf("%-40s %s", f.Name, size(f.Bytes)))
	}
}

type rmCmd struct {
	Name string `arg:"" help:"A model: a short name or ORG/NAME removes all that is here of it, ORG/NAME@revision that revision."`
	Yes  bool   `short:"y" help:"Do not ask."`
}

func (c *rmCmd) Help() string {
	return `Files that another revision uses stay. On a terminal it asks first; elsewhere it wants --yes.

Example:
  afterimage rm smolvlm2-256m`
}

func (c *rmCmd) Run(a *app) error {
	h, err := hub.FromEnv(a.lookup)
	if err != nil {
		return err
	}
	n, err := hub.ParseName(c.Name)
	if err != nil {
		return fmt.Errorf("rm: %w", err)
	}
	r, err := h.Removal(n, !strings.Contains(c.Name, "@"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rm: %s is not on this machine", n)
	}
	if err != nil {
		return fmt.Errorf("rm: %w", err)
	}
	what := fmt.Sprintf("%s (%s)", n, size(r.Bytes))
	if k := len(r.Snapshots); k > 1 {
		what = fmt.Sprintf("%s, %d revisions (%s)", n, k, size(r.Bytes))
	}
	if !c.Yes {
		if !a.inTTY {
			return fmt.Errorf("rm: this would remove %s: --yes does it", what)
		}
		fmt.Fprintf(a.err, "remove %s? [y/N] ", what)
		answer, err := bufio.NewReader(a.in).ReadString('\n')
		if err != nil && err != io.EOF {
			return err
		}
		if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
			fmt.Fprintln(a.err, "nothing was removed")
			return nil
		}
	}
	if err := r.Run(); err != nil {
		return fmt.Errorf("rm: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "removed %s\n", what)
	return err
}
