package main

import (
	"fmt"
	"time"
)

type checkConfigCmd struct {
	File string `arg:"" type:"path" help:"The configuration file."`
}

func (c *checkConfigCmd) Help() string {
	return `Reads the file as "serve" would, opens nothing, and prints each stream with its defaults filled in. Credentials are not shown.

Example:
  afterimage check-config /etc/afterimage/config.yaml`
}

func (c *checkConfigCmd) Run(a *app) error {
	cfg, err := LoadConfig(c.File, a.lookup)
	if err != nil {
		return err
	}
	if _, err := readToken(cfg.Auth.TokenFile); err != nil {
		return err
	}
	model := cfg.Model
	if model == "" {
		model = "embedded"
	}
	fmt.Fprintf(a.out, "%s is fine\nlisten %s, model %s, device %s, weights %s, threads %s\n",
		c.File, cfg.Listen, model, cfg.Device, cfg.Quant, orAll(cfg.Threads))
	root := memoryRoot(cfg.Memory, a.lookup)
	if root != "" {
		fmt.Fprintf(a.out, "memories of live streams are kept in %s\n", root)
	} else {
		fmt.Fprintln(a.out, "memories end with the program")
	}
	for _, s := range cfg.Streams {
		fmt.Fprintf(a.out, "stream %s: %s, %g fps, %s, stalled after %s, memory %s%s%s\n",
			s.Name, s.URL, s.FPS, s.Transport, time.Duration(s.StallTimeout), s.Memory, budgetWords(s.VisualTokens), diskWords(root, s.DiskBudget))
	}
	return nil
}

func orAll(threads int) string {
	if threads == 0 {
		return "all"
	}
	return fmt.Sprint(threads)
}

func budgetWords(visualTokens int) string {
	if visualTokens == 0 {
		return ""
	}
	return fmt.Sprintf(", at most %d visual tokens a question", visualTokens)
}

func diskWords(root string, budget size) string {
	if root == "" {
		return ""
	}
	return fmt.Sprintf(", at most %s on disk", budget)
}
