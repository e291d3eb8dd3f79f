package main

import (
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"afterimage/qa"
)

// WatchConfig is a standing question of the configuration; see qa.WatchSpec for what its fields mean and default to.
type WatchConfig struct {
	Name       string     `yaml:"-"`
	Stream     string     `yaml:"stream"`
	Ask        string     `yaml:"ask"`
	Choices    []string   `yaml:"choices"`
	Fire       []string   `yaml:"fire"`
	Threshold  float64    `yaml:"threshold"`
	Hysteresis float64    `yaml:"hysteresis"`
	Every      duration   `yaml:"every"`
	OnChange   bool       `yaml:"on_change"`
	Hold       *duration  `yaml:"hold"`     // 0s: none
	Cooldown   *duration  `yaml:"cooldown"` // 0s: none
	Deadline   duration   `yaml:"deadline"`
	Look       string     `yaml:"look"`
	Webhook    secretText `yaml:"webhook" json:"-"`
	Paused     bool       `yaml:"paused"`
}

// spec is the question as qa puts it, complete, or what is wrong with it.
func (w *WatchConfig) spec() (qa.WatchSpec, error) {
	orDefault := func(d *duration) time.Duration {
		switch {
		case d == nil:
			return 0
		case *d == 0:
			return -1
		}
		return time.Duration(*d)
	}
	for field, d := range map[string]*duration{"hold": w.Hold, "cooldown": w.Cooldown, "every": &w.Every} {
		if d != nil && *d < 0 {
			return qa.WatchSpec{}, &qa.WatchError{Field: field, Why: "want no negative duration"}
		}
	}
	return qa.WatchSpec{
		Name: w.Name, Stream: w.Stream, Ask: w.Ask, Choices: w.Choices, Fire: w.Fire, Threshold: w.Threshold, Hysteresis: w.Hysteresis,
		Every: time.Duration(w.Every), OnChange: w.OnChange, Hold: orDefault(w.Hold), Cooldown: orDefault(w.Cooldown),
		Deadline: time.Duration(w.Deadline), Look: qa.Look(w.Look), Webhook: string(w.Webhook), Paused: w.Paused,
	}.Complete()
}

// WatchConfigs keeps the file's order.
type WatchConfigs []WatchConfig

// UnmarshalYAML reads a mapping of names to standing questions.
func (c *WatchConfigs) UnmarshalYAML(n ast.Node) error {
	const wanted = "want standing questions by name, as in parcel: {stream: front_door, ask: Is a parcel on the step?}"
	pairs, err := pairsOf(n, wanted)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		name, ok := p.Key.(*ast.StringNode)
		if !ok || !streamName.MatchString(name.Value) {
			return &yaml.SyntaxError{Message: "a standing question's name is a letter, then up to 63 letters, digits, - or _", Token: p.Key.GetToken()}
		}
		var w WatchConfig
		if len(mapping(p.Value)) == 0 {
			return &yaml.SyntaxError{Message: wanted, Token: p.Value.GetToken()}
		}
		if err := yaml.NodeToValue(p.Value, &w, yaml.Strict()); err != nil {
			return err
		}
		w.Name = name.Value
		*c = append(*c, w)
	}
	return nil
}

// specs are the standing questions as qa puts them; the configuration was checked.
func (c *Config) specs() ([]qa.WatchSpec, error) {
	var out []qa.WatchSpec
	for _, w := range c.Watches {
		spec, err := w.spec()
		if err != nil {
			return nil, err
		}
		out = append(out, spec)
	}
	return out, nil
}
