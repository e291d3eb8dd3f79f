package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// freeMemory is what this process may still take: of the machine, and of the container that it may be in.
func freeMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	free := int64(-1)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/meminfo: %w", err)
			}
			free = kib << 10
		}
	}
	if free < 0 {
		return 0, errors.New("/proc/meminfo has no MemAvailable")
	}
	number := func(name string) (int64, bool) {
		text, err := os.ReadFile("/sys/fs/cgroup/" + name)
		if err != nil {
			return 0, false // no container, or an older kind
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" is no limit
		return n, err == nil
	}
	if limit, ok := number("memory.max"); ok {
		if used, ok := number("memory.current"); ok {
			free = min(free, max(0, limit-used))
		}
	}
	return free, nil
}

// machineLoad is how many programs wanted to run at once over the last minute.
func machineLoad() (float64, bool) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, false
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, err := strconv.ParseFloat(first, 64)
	return load, err == nil
}
