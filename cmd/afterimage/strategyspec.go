package main

import (
	"fmt"
	"strconv"
	"strings"

	"afterimage/memorybank"
)

// strategyOf reads a strategy with its options in one line, such as "flash:synopsis=28,detail=4".
func strategyOf(spec string) (memorybank.Strategy, error) {
	name, options, _ := strings.Cut(spec, ":")
	c := StreamConfig{Memory: MemoryConfig{Strategy: name}}
	fields := map[string]*int{"synopsis": &c.Memory.Synopsis, "detail": &c.Memory.Detail, "frames": &c.Memory.Frames}
	for option := range strings.SplitSeq(options, ",") {
		if options == "" {
			break
		}
		key, value, _ := strings.Cut(option, "=")
		n, err := strconv.Atoi(value)
		field, ok := fields[key]
		if !ok || err != nil {
			return nil, fmt.Errorf("option %q: want synopsis=N, detail=N or frames=N", option)
		}
		*field = n
	}
	if err := c.check(func(key, format string, args ...any) error {
		return fmt.Errorf("%s: %s", strings.TrimPrefix(key, "memory."), fmt.Sprintf(format, args...))
	}); err != nil {
		return nil, err
	}
	return newStrategy(c.Memory)
}
