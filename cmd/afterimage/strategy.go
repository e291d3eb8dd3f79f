package main

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"afterimage/llm"
	"afterimage/memorybank"
)

// A strategy is one way to remember, as configurations and command lines name it.
type strategy struct {
	name, what string
	options    []option
	learned    bool // it needs a model with a learned memory
	make       func(v values, l learned) memorybank.Strategy
}

// An option is a setting of a strategy. Its default has its type: int, float64, bool, string (one of names) or []int.
type option struct {
	name, what  string
	def         any
	released    any      // the default with compat, where that is another one
	least, most float64  // of numbers
	names       []string // of a string
}

// values are a strategy's options, none missing.
type values map[string]any

func (v values) int(name string) int       { return v[name].(int) }
func (v values) bool(name string) bool     { return v[name].(bool) }
func (v values) string(name string) string { return v[name].(string) }

// orNone is an int for a strategy that takes 0 for its default and less for none.
func (v values) orNone(name string) int {
	if n := v.int(name); n > 0 {
		return n
	}
	return -1
}

// three is a list for a strategy that takes 0s for its default and less for none.
func (v values) three(name string) (out [3]int) {
	for i, n := range v[name].([]int) {
		if out[i] = n; n == 0 {
			out[i] = -1
		}
	}
	return out
}

// learned is what strategies with learned parts are made of.
type learned struct {
	recall    *llm.Recall
	attention *memorybank.Attention // of Flash-VStream's first version; nil: none was learned
	failed    func(error)           // is told what went wrong with one clip
}

const defaultStrategy = "flash"

func count(name string, def, least, most int, what string) option {
	return option{name: name, what: what, def: def, least: float64(least), most: float64(most)}
}

func list(name string, def []int, most int, what string) option {
	return option{name: name, what: what, def: def, most: float64(most)}
}

func (o option) asReleased(def any) option {
	o.released = def
	return o
}

var compat = option{name: "compat", what: "as the released code does it, where that is not as its paper says", def: false}

var evictions = map[string]memorybank.Evict{
	"similarity": memorybank.MostAlike, "fifo": memorybank.Oldest, "uniform": memorybank.Evenly, "penalty": memorybank.LeastPenalty,
}

// strategies is every way to remember. What an option's default is good for says memorybank.
var strategies = []strategy{
	{
		name: "flash", what: "spans of time with averaged pictures, and whole pictures of the longest (Flash-VStream 2025)",
		options: []option{
			count("synopsis", 64, 1, 4096, "spans kept").asReleased(60),
			count("detail", 8, 0, 256, "whole pictures shown").asReleased(30),
			compat,
		},
		make: func(v values, _ learned) memorybank.Strategy {
			return memorybank.Flash{Synopsis: v.int("synopsis"), Detail: v.orNone("detail"), Compat: v.bool("compat")}
		},
	},
	{
		name: "composite", what: "a coarse past that rarely changes, the newest pictures, and what the question selects",
		options: []option{
			count("past", 1024, 1, 1<<16, "spans that a question selects from"),
			count("unit", 16, 0, 1<<16, "pictures in the smallest coarse span; 0: no coarse past"),
			count("recent", 3, 0, 256, "pictures before the newest that are shown by themselves"),
			count("tokens", 512, 64, 1<<20, "visual tokens shown when there is no budget"),
		},
		make: func(v values, _ learned) memorybank.Strategy {
			return memorybank.Composite{Past: v.int("past"), Unit: v.orNone("unit"), Recent: v.orNone("recent"), Tokens: v.int("tokens")}
		},
	},
	{
		name: "pyramid", what: "pictures in three lists, coarser with every list (VideoChat-Online)",
		options: []option{
			list("capacity", []int{4, 16, 64}, 1<<16, "pictures in each list, finest first").asReleased([]int{1024, 1024, 1024}),
			list("every", []int{8, 4, 1}, 1<<16, "of so many pictures one goes to each list; 0: none"),
			{name: "evict", what: "which picture a full list gives up", def: "similarity", names: slices.Sorted(maps.Keys(evictions))},
			compat,
		},
		make: func(v values, _ learned) memorybank.Strategy {
			return memorybank.Pyramid{Capacity: v.three("capacity"), Every: v.three("every"), Evict: evictions[v.string("evict")], Compat: v.bool("compat")}
		},
	},
	{
		name: "forest", what: "the last seconds, and events that merge under a quota (StreamForest)",
		options: []option{
			count("events", 35, 1, 1<<16, "pictures of events kept"),
			segmenterOption("dips", "what an event is"),
		},
		make: func(v values, _ learned) memorybank.Strategy {
			return memorybank.Forest{Events: v.int("events"), Segment: segmenters[v.string("segment")]}
		},
	},
	{
		name: "star", what: "spatial, temporal, abstract and retrieved memory (Flash-VStream 2024)",
		options: []option{
			count("temporal", 25, 1, 1024, "clusters of pictures"),
			count("abstract", 25, 0, 100, "slots that attention writes to"),
			count("retrieved", 3, 0, 256, "whole pictures of the past shown"),
			{name: "rate", what: "of a slot's change", def: .2, least: .001, most: 1},
			compat,
		},
		make: func(v values, l learned) memorybank.Strategy {
			return memorybank.Star{Temporal: v.int("temporal"), Abstract: v.orNone("abstract"), Retrieved: v.orNone("retrieved"),
				Rate: float32(v["rate"].(float64)), Attention: l.attention, Compat: v.bool("compat")}
		},
	},
	{
		name: "recent", what: "the newest pictures, as a model without a memory sees",
		options: []option{count("frames", 16, 1, 4096, "pictures kept")},
		make:    func(v values, _ learned) memorybank.Strategy { return memorybank.Recent{N: v.int("frames")} },
	},
	{
		name: "uniform", what: "pictures spread evenly over all that was seen",
		options: []option{count("frames", 16, 1, 4096, "pictures shown")},
		make:    func(v values, _ learned) memorybank.Strategy { return memorybank.Uniform{N: v.int("frames")} },
	},
	{
		name: "reservoir", what: "pictures replaced at random (MAMBA)",
		options: []option{
			count("frames", 16, 1, 4096, "pictures kept"),
			count("seed", 0, 0, math.MaxInt32, "of the random numbers"),
			{name: "even", what: "keep old pictures as likely as new ones", def: false},
		},
		make: func(v values, _ learned) memorybank.Strategy {
			return memorybank.Reservoir{N: v.int("frames"), Seed: uint64(v.int("seed")), Even: v.bool("even")}
		},
	},
	{
		name: "propagated", what: "clips summed up one after another, and those that the question selects (VideoStreaming)", learned: true,
		options: []option{
			count("clips", 1024, 2, 1<<16, "clips kept"),
			count("show", 8, 1, 4096, "clips shown when there is no budget"),
		},
		make: func(v values, l learned) memorybank.Strategy {
			return memorybank.Propagated{Encoder: l.recall, Frames: l.recall.Config.ClipFrames, Clips: v.int("clips"), Show: v.int("show"), Failed: l.failed}
		},
	},
	{
		name: "bridge", what: "memory tokens carried from scene to scene, and those that the question selects (VideoLLaMB)", learned: true,
		options: []option{
			count("segments", 1024, 2, 1<<16, "scenes kept"),
			count("show", 8, 1, 4096, "scenes shown when there is no budget"),
			segmenterOption("scenes", "what a scene is"),
		},
		make: func(v values, l learned) memorybank.Strategy {
			return memorybank.Bridge{Encoder: l.recall, Segmenter: segmenters[v.string("segment")], Segments: v.int("segments"), Show: v.int("show"), Failed: l.failed}
		},
	},
}

// segmenters are the ways to cut a stream.
var segmenters = map[string]memorybank.Segmenter{"clips": memorybank.Clips{}, "dips": memorybank.Dips{}, "scenes": memorybank.SceneTilling{}}

func segmenterOption(def, what string) option {
	return option{name: "segment", what: what + ": 16 pictures (clips), up to a dip of likeness (dips), or between its valleys (scenes)", def: def, names: slices.Sorted(maps.Keys(segmenters))}
}

func strategyNames() []string {
	names := make([]string, len(strategies))
	for i, s := range strategies {
		names[i] = s.name
	}
	return names
}

// MemoryConfig chooses what is remembered.
type MemoryConfig struct {
	Strategy string         // a name; "" means the default's
	Options  map[string]any // as they are written, in the types of option.def; those that are not there have their defaults
}

// optionError is what is wrong with one option, or with the strategy's name when option is "".
type optionError struct{ option, msg string }

func (e *optionError) Error() string { return e.msg }

// find returns the strategy with the options that it is made of. The error is an *optionError.
func (m MemoryConfig) find() (*strategy, values, error) {
	name := first(m.Strategy, defaultStrategy)
	i := slices.IndexFunc(strategies, func(s strategy) bool { return s.name == name })
	if i < 0 {
		return nil, nil, &optionError{"", fmt.Sprintf("there is no memory strategy %s; want %s", strconv.Quote(name), either(strategyNames()))}
	}
	s := &strategies[i]
	v := values{}
	for _, o := range s.options {
		v[o.name] = o.def
	}
	for _, key := range slices.Sorted(maps.Keys(m.Options)) {
		j := slices.IndexFunc(s.options, func(o option) bool { return o.name == key })
		if j < 0 {
			return nil, nil, &optionError{key, s.hasNo(key)}
		}
		x, err := s.options[j].read(m.Options[key])
		if err != nil {
			return nil, nil, &optionError{key, fmt.Sprintf("%s of %s: %v", key, name, err)}
		}
		v[key] = x
	}
	for _, o := range s.options {
		if _, given := m.Options[o.name]; !given && o.released != nil && v["compat"] == true {
			v[o.name] = o.released
		}
	}
	return s, v, nil
}

// hasNo says that s has no option of that name, which it has, and where else there is one.
func (s *strategy) hasNo(key string) string {
	var own, others []string
	for _, o := range s.options {
		own = append(own, o.name)
	}
	for _, other := range strategies {
		if slices.ContainsFunc(other.options, func(o option) bool { return o.name == key }) {
			others = append(others, other.name)
		}
	}
	msg := fmt.Sprintf("the memory strategy %s has no option %s; it has %s", s.name, key, listed(own, "and"))
	if len(others) > 0 {
		msg += fmt.Sprintf(" (%s belongs to %s)", key, listed(others, "and"))
	}
	return msg
}

// read checks a value as it is written, which text is on a command line.
func (o option) read(x any) (any, error) {
	text, isText := x.(string)
	fits := func(n float64) bool { return n >= o.least && n <= o.most }
	switch def := o.def.(type) {
	case int:
		n, ok := x.(int)
		if isText {
			var err error
			n, err = strconv.Atoi(text)
			ok = err == nil
		}
		if ok && fits(float64(n)) {
			return n, nil
		}
		return nil, fmt.Errorf("want a number of %g to %g", o.least, o.most)
	case float64:
		f, ok := x.(float64)
		if n, isInt := x.(int); isInt {
			f, ok = float64(n), true
		}
		if isText {
			var err error
			f, err = strconv.ParseFloat(text, 64)
			ok = err == nil
		}
		if ok && fits(f) {
			return f, nil
		}
		return nil, fmt.Errorf("want a number of %g to %g", o.least, o.most)
	case bool:
		b, ok := x.(bool)
		if isText && (text == "true" || text == "false") {
			b, ok = text == "true", true
		}
		if ok {
			return b, nil
		}
		return nil, fmt.Errorf("want true or false")
	case []int:
		list, ok := x.([]int)
		if isText {
			ok = true
			for part := range strings.SplitSeq(text, "/") {
				n, err := strconv.Atoi(part)
				list, ok = append(list, n), ok && err == nil
			}
		}
		if ok && len(list) == len(def) && !slices.ContainsFunc(list, func(n int) bool { return !fits(float64(n)) }) {
			return list, nil
		}
		return nil, fmt.Errorf("want %d numbers of %g to %g, as in %s", len(def), o.least, o.most, shown(def))
	default:
		if isText && slices.Contains(o.names, text) {
			return text, nil
		}
		return nil, fmt.Errorf("want %s", either(o.names))
	}
}

// shown writes a value as command lines have it.
func shown(x any) string {
	if list, ok := x.([]int); ok {
		parts := make([]string, len(list))
		for i, n := range list {
			parts[i] = strconv.Itoa(n)
		}
		return strings.Join(parts, "/")
	}
	return fmt.Sprint(x)
}

// open returns the strategy for a stream that is watched by the model of m.
func (c MemoryConfig) open(m *machine, log *slog.Logger) (memorybank.Strategy, error) {
	s, v, err := c.over(m.family.memory).find()
	if err != nil {
		return nil, err
	}
	if s.learned && m.recall == nil {
		return nil, fmt.Errorf("the memory strategy %s needs a model with a learned memory, and the model %s has none (no %s); use another strategy, "+
			"such as %s, or another model", s.name, m.name, llm.RecallFile, defaultStrategy)
	}
	return s.make(v, learned{m.recall, m.attention, func(err error) {
		log.Warn("the learned memory failed on some frames; their average stands for them", "err", err)
	}}), nil
}

// over returns c with what it leaves open taken from d. Options belong to a strategy: those of another one are not taken over.
func (c MemoryConfig) over(d MemoryConfig) MemoryConfig {
	if c.Strategy != "" && c.Strategy != first(d.Strategy, defaultStrategy) {
		return c
	}
	merged := MemoryConfig{Strategy: first(c.Strategy, d.Strategy)}
	if len(c.Options)+len(d.Options) > 0 {
		merged.Options = map[string]any{}
		maps.Copy(merged.Options, d.Options)
		maps.Copy(merged.Options, c.Options)
	}
	return merged
}

// String is the strategy with all its options; of those that are true or false, the true ones.
func (c MemoryConfig) String() string {
	s, v, err := c.find()
	if err != nil {
		return c.Strategy
	}
	var parts []string
	for _, o := range s.options {
		switch x := v[o.name]; x {
		case false:
		case true:
			parts = append(parts, o.name)
		default:
			parts = append(parts, o.name+" "+shown(x))
		}
	}
	return fmt.Sprintf("%s (%s)", s.name, strings.Join(parts, ", "))
}

// spec is the strategy as a command line names it: with those options that were given, in the table's order.
func (c MemoryConfig) spec() string {
	spec, sep := first(c.Strategy, defaultStrategy), ":"
	s, _, err := c.find()
	if err != nil {
		return spec
	}
	for _, o := range s.options {
		if x, given := c.Options[o.name]; given {
			spec, sep = spec+sep+o.name+"="+shown(x), ","
		}
	}
	return spec
}

// UnmarshalText implements encoding.TextUnmarshaler, for flags: a name, with options as in flash:synopsis=28,detail=4.
func (c *MemoryConfig) UnmarshalText(text []byte) error {
	list, err := parseStrategies(string(text))
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("want one memory strategy, as in flash:synopsis=28,detail=4")
	}
	if err == nil {
		*c = list[0]
	}
	return err
}

// parseStrategies reads a list such as "flash:synopsis=28,detail=4,recent": an option goes with the name before it.
func parseStrategies(text string) ([]MemoryConfig, error) {
	var list []MemoryConfig
	for part := range strings.SplitSeq(text, ",") {
		name, option, hasOption := strings.Cut(strings.TrimSpace(part), ":")
		if i := strings.IndexAny(part, ":="); i >= 0 && part[i] == '=' {
			option, hasOption = strings.TrimSpace(part), true
			if len(list) == 0 || list[len(list)-1].Options == nil {
				return nil, fmt.Errorf("the option %s belongs to no strategy: write name:%s", option, option)
			}
		} else {
			list = append(list, MemoryConfig{Strategy: name})
		}
		if !hasOption {
			continue
		}
		c := &list[len(list)-1]
		key, value, ok := strings.Cut(option, "=")
		if key, value = strings.TrimSpace(key), strings.TrimSpace(value); !ok || key == "" {
			return nil, fmt.Errorf("%q is not an option: write name:option=value", option)
		}
		if _, twice := c.Options[key]; twice {
			return nil, fmt.Errorf("the option %s of %s is given twice", key, c.Strategy)
		}
		if c.Options == nil {
			c.Options = map[string]any{}
		}
		c.Options[key] = value
	}
	for _, c := range list {
		if c.Strategy == "" {
			return nil, fmt.Errorf("a name is missing; want %s", either(strategyNames()))
		}
		_, v, err := c.find()
		if err != nil {
			return nil, err
		}
		for key := range c.Options {
			c.Options[key] = v[key] // in its own type
		}
	}
	return list, nil
}

// either is "a, b or c".
func either(names []string) string { return listed(names, "or") }

func listed(names []string, last string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " " + last + " " + names[n-1]
	}
	return strings.Join(names, "")
}

type listCmd struct {
	Models     listModelsCmd     `cmd:"" default:"withargs" help:"List models: those on this machine and those that can be pulled (without a word: this)."`
	Strategies listStrategiesCmd `cmd:"" help:"List the memory strategies with their options."`
}

type listStrategiesCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (c *listStrategiesCmd) Help() string {
	return `Every strategy is for the key memory of a configuration, as in "memory: {strategy: flash, synopsis: 32}", and for --strategy, as in
--strategy flash:synopsis=32,detail=4. The default is flash.`
}

// strategyDoc and optionDoc are the table for programs.
type strategyDoc struct {
	Name    string      `json:"name"`
	What    string      `json:"what"`
	Learned bool        `json:"learned"`
	Options []optionDoc `json:"options"`
}

type optionDoc struct {
	Name    string   `json:"name"`
	What    string   `json:"what"`
	Default any      `json:"default"`
	Compat  any      `json:"default_with_compat,omitempty"`
	Least   *float64 `json:"least,omitempty"`
	Most    *float64 `json:"most,omitempty"`
	Values  []string `json:"values,omitempty"`
}

func (c *listStrategiesCmd) Run(a *app) error {
	if c.JSON {
		docs := []strategyDoc{}
		for _, s := range strategies {
			d := strategyDoc{Name: s.name, What: s.what, Learned: s.learned, Options: []optionDoc{}}
			for _, o := range s.options {
				od := optionDoc{Name: o.name, What: o.what, Default: o.def, Compat: o.released, Values: o.names}
				if o.least != o.most {
					od.Least, od.Most = &o.least, &o.most
				}
				d.Options = append(d.Options, od)
			}
			docs = append(docs, d)
		}
		return writeJSON(a.out, docs)
	}
	for _, s := range strategies {
		what := s.what
		if s.learned {
			what += "; needs a model with a learned memory"
		}
		fmt.Fprintf(a.out, "%-12s %s\n", s.name, what)
		for _, o := range s.options {
			def := shown(o.def)
			if o.released != nil {
				def += ", with compat " + shown(o.released)
			}
			fmt.Fprintf(a.out, "  %-10s %s (%s; %s)\n", o.name, o.what, def, o.allowed())
		}
	}
	return nil
}

// allowed is what an option may be, in words.
func (o option) allowed() string {
	switch o.def.(type) {
	case bool:
		return "true or false"
	case string:
		return either(o.names)
	}
	return fmt.Sprintf("%s to %s", strconv.FormatFloat(o.least, 'f', -1, 64), strconv.FormatFloat(o.most, 'f', -1, 64))
}
