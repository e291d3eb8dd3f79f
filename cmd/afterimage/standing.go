package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"afterimage/qa"
	"afterimage/webhook"
)

// standing is the standing questions of a server's streams, and who tells webhooks about them.
type standing struct {
	*qa.Standing
	sender *webhook.Sender
	failed func(stream, watch string) // counts a webhook that was given up
}

// openStanding reads the standing questions that are kept in a directory ("": they end with the program). The caller closes it, after its streams.
func openStanding(a *app, dir string, c WebhookConfig) (*standing, error) {
	secret, err := webhookSecret(c.SecretFile, a.lookup)
	if err != nil {
		return nil, err
	}
	log := a.log.With("component", "watch")
	s := &standing{failed: func(string, string) {}}
	if a.metrics != nil {
		s.failed = a.metrics.DeliveryFailed
	}
	if s.sender, err = webhook.New(webhook.Options{Secret: secret, AllowHTTP: c.AllowHTTP, Log: log, UserAgent: "afterimage/" + version}); err != nil {
		return nil, err
	}
	file := ""
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		file = filepath.Join(dir, "watches.json")
	}
	if s.Standing, err = qa.NewStanding(qa.StandingOptions{File: file, Log: log, Deliver: s.deliver, Allow: s.sender.Check}); err != nil {
		s.sender.Close()
		return nil, err
	}
	return s, nil
}

// close ends checks and deliveries.
func (s *standing) close() error {
	err := s.Standing.Close()
	s.sender.Close()
	return err
}

// deliver tells a question's webhook about an event.
func (s *standing) deliver(e qa.WatchEvent) {
	body, err := webhookBody(e)
	if err == nil {
		err = s.sender.Send(webhook.Message{ID: e.ID, URL: e.Watch.Spec.Webhook, Body: body, Done: func(_ int, err error) {
			if err != nil && !errors.Is(err, webhook.ErrClosed) {
				s.failed(e.Watch.Spec.Stream, e.Watch.Spec.Name)
				s.Undelivered(e, err)
			}
		}})
	}
	if err != nil {
		s.failed(e.Watch.Spec.Stream, e.Watch.Spec.Name)
		go s.Undelivered(e, err) // not from here: who tells holds a lock
	}
}

// webhookBody is an event as webhooks get it.
func webhookBody(e qa.WatchEvent) ([]byte, error) {
	w := e.Watch.Spec
	type watchDoc struct {
		ID   string `json:"id"`
		Name string `json:"name"`
		Ask  string `json:"ask"`
	}
	doc := struct {
		Type        string   `json:"type"`
		ID          string   `json:"id"`
		Stream      string   `json:"stream"`
		Watch       watchDoc `json:"watch"`
		At          string   `json:"at"`   // of the picture
		Told        string   `json:"told"` // when it was found
		Probability float64  `json:"probability"`
		Choice      string   `json:"choice,omitempty"`
		Error       string   `json:"error,omitempty"`
		Picture     []byte   `json:"picture,omitempty"` // JPEG, in base64
	}{"watch." + string(e.Kind), e.ID, w.Stream, watchDoc{e.Watch.ID, w.Name, w.Ask}, stamp(e.At), stamp(e.Told), e.Probability, e.Choice, e.Error, nil}
	if items := e.Evidence.Items; len(items) > 0 && e.Kind != qa.Failed {
		doc.Picture = items[len(items)-1].Thumb
	}
	return json.Marshal(doc)
}

// webhookSecret reads what signs webhooks: the first line of a file, or without one AFTERIMAGE_WEBHOOK_SECRET. "" signs nothing.
func webhookSecret(file string, lookup func(string) (string, bool)) (string, error) {
	if file == "" {
		secret, _ := lookup("AFTERIMAGE_WEBHOOK_SECRET")
		return strings.TrimSpace(secret), nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("webhook: secret: %w", err)
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	secret := strings.TrimSpace(line)
	if len(secret) < 16 {
		return "", fmt.Errorf("webhook: secret: %s: want at least 16 characters on the first line", file)
	}
	if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("webhook: secret: %s can be read by others: chmod 600 it", file)
	}
	return secret, nil
}

// durationWords leaves out what nobody reads.
func durationWords(d time.Duration) string { return max(d, 0).Round(time.Millisecond).String() }
