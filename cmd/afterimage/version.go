package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"afterimage/ingest/ffmpeg"
)

type versionCmd struct{}

// version is set by the linker for releases.
var version = "0.1.0-dev"

func (versionCmd) Run(a *app) error {
	fmt.Fprintf(a.out, "afterimage %s (%s, %s/%s, FFmpeg %s)\n", versionString(), runtime.Version(), runtime.GOOS, runtime.GOARCH, ffmpeg.Version())
	return nil
}

func versionString() string {
	if c := commit(); c != "" {
		return version + " " + c
	}
	return version
}

// commit is the short hash that this program was built from, with a plus when the tree had changes, or empty.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	hash, changed := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			hash = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	if hash == "" {
		return ""
	}
	return hash + changed
}
