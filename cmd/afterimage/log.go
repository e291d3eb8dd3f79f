package main

import (
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// stampLayout is RFC 3339 with milliseconds.
const stampLayout = "2006-01-02T15:04:05.000Z07:00"

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// newLogger writes to w: coloured text on a terminal, JSON otherwise, times in RFC 3339 UTC with milliseconds, durations with their
// unit.
func newLogger(w io.Writer, tty bool, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	if format == "text" || format != "json" && tty {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: l, TimeFormat: "15:04:05.000", NoColor: !tty}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch a.Value.Kind() {
		case slog.KindTime:
			return slog.String(a.Key, stamp(a.Value.Time().UTC()))
		case slog.KindDuration: // slog would write a bare count of nanoseconds
			return slog.String(a.Key, a.Value.Duration().String())
		}
		return a
	}}))
}

func stamp(t time.Time) string { return t.Format(stampLayout) }
