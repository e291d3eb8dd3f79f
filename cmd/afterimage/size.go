package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// size is a number of bytes.
type size int64

var sizeUnits = []struct {
	name  string
	bytes float64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}}

// UnmarshalText reads 2GiB, 500MB, 1.5 TB. A bare number is refused: nobody means two bytes.
func (s *size) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if bytes := v * u.bytes; err == nil && bytes >= 1 && bytes < math.MaxInt64/2 {
			*s = size(bytes)
			return nil
		}
	}
	return fmt.Errorf("size %q: want a number with its unit, such as 2GiB or 500MB", text)
}

// UnmarshalYAML reads what UnmarshalText does.
func (s *size) UnmarshalYAML(n ast.Node) error {
	text := ""
	if v, ok := n.(*ast.StringNode); ok {
		text = v.Value
	}
	if err := s.UnmarshalText([]byte(text)); err != nil {
		return &yaml.SyntaxError{Message: "want a size such as 2GiB or 500MB", Token: n.GetToken()}
	}
	return nil
}

// String is the size in the largest unit of 1024 that leaves at least 1.
func (s size) String() string {
	for _, u := range sizeUnits[:4] {
		if v := float64(s) / u.bytes; v >= 1 {
			return strconv.FormatFloat(math.Round(10*v)/10, 'f', -1, 64) + " " + u.name
		}
	}
	return fmt.Sprintf("%d bytes", int64(s))
}
