//go:build !linux

package main

import (
	"errors"

	"afterimage/bench"
)

func usage() (bench.Usage, error) {
	return bench.Usage{}, errors.New("bench soak reads /proc, which only Linux has")
}

func cpuName() string { return "unknown" }
