package main

import (
	"fmt"
	"time"

	"afterimage/qa"
	"afterimage/web"
)

type checkConfigCmd struct {
	File    string `arg:"" type:"path" help:"The configuration file."`
	Running string `placeholder:"FILE" type:"path" help:"The configuration that a server runs with now; says what would change."`
}

func (c *checkConfigCmd) Help() string {
	return `Reads the file as "serve" would, opens nothing, and prints each stream with its defaults filled in. Credentials are not shown.

Examples:
  afterimage check-config /etc/afterimage/config.yaml
  afterimage check-config new.yaml --running /etc/afterimage/config.yaml`
}

func (c *checkConfigCmd) Run(a *app) error {
	cfg, err := LoadConfig(c.File, a.environ)
	if err != nil {
		return err
	}
	tokens, err := loadTokens(cfg.Auth)
	if err != nil {
		return err
	}
	if cfg.TLS.Cert != "" {
		if err := new(certificate).load(cfg.TLS, "", nil); err != nil {
			return err
		}
	}
	specs, err := cfg.specs()
	if err != nil {
		return err
	}
	model := cfg.Model
	if model == "" {
		model = "embedded"
	}
	fmt.Fprintf(a.out, "%s is fine\nlisten %s, model %s, device %s, weights %s, threads %s\n",
		c.File, cfg.Listen, model, cfg.Device, cfg.Quant, orAll(cfg.Threads))
	switch {
	case cfg.TLS.SelfSigned:
		fmt.Fprintln(a.out, "connections are encrypted with a certificate of our own")
	case cfg.TLS.on():
		fmt.Fprintf(a.out, "connections are encrypted with the certificate %s\n", cfg.TLS.Cert)
	}
	for _, t := range tokens {
		fmt.Fprintf(a.out, "token %s: may %s, %s\n", t.Name, t.Role, streamsOf(t))
	}
	if err := web.CheckListen(cfg.Listen, len(tokens) > 0); err != nil {
		return err
	}
	root := memoryRoot(cfg.Memory, a.lookup)
	if root != "" {
		fmt.Fprintf(a.out, "memories of live streams are kept in %s\n", root)
	} else {
		fmt.Fprintln(a.out, "memories end with the program")
	}
	for _, s := range cfg.Streams {
		fmt.Fprintf(a.out, "stream %s: %s, %g fps, %s, stalled after %s, memory %s%s%s\n",
			s.Name, s.URL, s.FPS, s.Transport, time.Duration(s.StallTimeout), s.Memory, budgetWords(s.VisualTokens), diskWords(root, s.DiskBudget))
		if n := len(s.Masks); n > 0 {
			fmt.Fprintf(a.out, "  parts of the picture that are masked: %d\n", n)
		}
	}
	for _, w := range specs {
		fmt.Fprintf(a.out, "watch %s on %s: %q, fires from probability %g held for %s, at most once in %s%s\n",
			w.Name, w.Stream, w.Ask, w.Threshold, max(w.Hold, 0), max(w.Cooldown, 0), webhookWords(w.Webhook))
	}
	if c.Running == "" {
		return nil
	}
	now, err := LoadConfig(c.Running, a.environ)
	if err != nil {
		return fmt.Errorf("--running: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "\nwhere %s is served now:\n%s", c.Running, compareConfigs(now, cfg))
	return err
}

func webhookWords(webhook string) string {
	if webhook == "" {
		return ""
	}
	return ", and tells " + qa.Redacted(webhook)
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
