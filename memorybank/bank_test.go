package memorybank

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"afterimage/internal/compute"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txt with what happens now")

// TestScripts runs testdata/*.txt. A line is a command; lines that begin with a tab are what the command printed.
//
//	bank flash SYNOPSIS DETAIL [compat] | bank recent N | bank uniform N | bank reservoir N SEED [even] | bank star TEMPORAL ABSTRACT RETRIEVED [compat]
//	bank pyramid CAPACITY CAPACITY CAPACITY EVERY EVERY EVERY EVICT [compat] | bank forest EVENTS clips N | bank forest EVENTS dips FRAMES WITHIN
//	bank propagated FRAMES CLIPS SHOW | bank bridge FRAMES SEGMENTS SHOW
//	grid HEIGHT WIDTH        of frames from here on; 2 2 at first
//	add SECONDS VALUE...     a frame of rows that are all (VALUE...)
//	state                    the snapshot
//	select BUDGET VALUE...   what a prompt shows; with values, to a question of that direction
//	hold | held              keep the snapshot; print the kept one
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			script, err := os.ReadFile(path)
			require.NoError(t, err)
			var out bytes.Buffer
			run := scriptRun{t: t}
			for lines := bufio.NewScanner(bytes.NewReader(script)); lines.Scan(); {
				line := lines.Text()
				if strings.HasPrefix(line, "\t") {
					continue
				}
				fmt.Fprintln(&out, line)
				if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
					run.command(&out, words)
				}
			}
			if *update {
				require.NoError(t, os.WriteFile(path, out.Bytes(), 0o644))
			}
			require.Equal(t, string(script), out.String())
		})
	}
}

type scriptRun struct {
	t    *testing.T
	bank *Bank
	grid Grid
	held *Snapshot
}

// strategyOf reads what stands behind "bank"; number(i) is the number that is word i of the line.
func strategyOf(t *testing.T, words []string, number func(i int) int) Strategy {
	last := words[len(words)-1]
	switch words[0] {
	case "flash":
		return Flash{Synopsis: number(2), Detail: number(3), Compat: last == "compat"}
	case "recent":
		return Recent{N: number(2)}
	case "uniform":
		return Uniform{N: number(2)}
	case "reservoir":
		return Reservoir{N: number(2), Seed: uint64(number(3)), Even: last == "even"}
	case "star":
		return Star{Temporal: number(2), Abstract: number(3), Retrieved: number(4), Compat: last == "compat"}
	case "pyramid":
		p := Pyramid{Capacity: [3]int{number(2), number(3), number(4)}, Every: [3]int{number(5), number(6), number(7)}, Compat: last == "compat"}
		for p.Evict.String() != words[7] {
			p.Evict++
		}
		return p
	case "forest":
		f := Forest{Events: number(2)}
		switch words[2] {
		case "clips":
			f.Segment = Clips{N: number(4)}
		case "dips":
			f.Segment = Dips{Frames: number(4), Within: number(5)}
		}
		return f
	case "propagated":
		return Propagated{Encoder: fakeEncoder{}, Frames: number(2), Clips: number(3), Show: number(4)}
	case "bridge":
		return Bridge{Encoder: fakeEncoder{}, Segmenter: Clips{N: number(2)}, Segments: number(3), Show: number(4)}
	}
	t.Fatalf("unknown strategy %q", words)
	return nil
}

func (r *scriptRun) command(out *bytes.Buffer, words []string) {
	number := func(i int) int {
		n, err := strconv.Atoi(words[i])
		require.NoError(r.t, err, words)
		return n
	}
	switch words[0] {
	case "bank":
		r.bank, r.grid = New(time.Unix(0, 0), strategyOf(r.t, words[1:], number)), Grid{2, 2}
	case "grid":
		r.grid = Grid{number(1), number(2)}
	case "add":
		seconds, err := strconv.ParseFloat(words[1], 64)
		require.NoError(r.t, err)
		m := compute.NewMatrix(r.grid.H*r.grid.W, len(words)-2)
		for i := range m.Data {
			v, err := strconv.ParseFloat(words[2+i%m.Cols], 32)
			require.NoError(r.t, err)
			m.Data[i] = float32(v)
		}
		r.bank.Add(Entry{At: time.Duration(seconds * float64(time.Second)), Grid: r.grid, Tokens: m, Thumb: []byte(words[1])})
	case "state":
		printState(out, r.bank.Snapshot())
	case "hold":
		r.held = r.bank.Snapshot()
	case "held":
		printState(out, r.held)
	case "select":
		var query []float32
		for i := range words[2:] {
			query = append(query, float32(number(2+i)))
		}
		shown := r.bank.Snapshot().Select(query, number(1))
		rows := 0
		for _, e := range shown {
			printEntry(out, e)
			rows += e.Tokens.Rows
		}
		fmt.Fprintf(out, "\t%d rows\n", rows)
	default:
		r.t.Fatalf("unknown command %q", words)
	}
}

func printState(out *bytes.Buffer, s *Snapshot) {
	fmt.Fprintf(out, "\tversion %d now %v\n", s.Version, s.Now)
	for _, e := range s.Entries {
		printEntry(out, e)
	}
}

func printEntry(out *bytes.Buffer, e Entry) {
	fmt.Fprintf(out, "\t%v %d.%d %v..%v at %v thumb %s weight %v grid %dx%d row %v\n",
		e.Role, e.ID/idStep, e.ID%idStep, e.Start, e.End, e.At, e.Thumb, e.Weight, e.Grid.H, e.Grid.W, e.Tokens.Row(0))
}

func TestAddPanics(t *testing.T) {
	bank := New(time.Now(), Flash{})
	require.PanicsWithValue(t, "memorybank: Bank.Add: grid 2x2 with 3 rows of 1, 3 values", func() {
		bank.Add(Entry{Grid: Grid{2, 2}, Tokens: compute.NewMatrix(3, 1)})
	})
	require.Panics(t, func() { bank.Add(Entry{}) })
	require.Zero(t, bank.Snapshot().Version)
}

// blocking is a strategy that tells when it is inside Update and waits there.
type blocking struct {
	Recent
	inside, leave chan struct{}
}

func (b blocking) Update(old []Entry, e Entry) []Entry {
	b.inside <- struct{}{}
	<-b.leave
	return b.Recent.Update(old, e)
}

func TestSecondWriterPanics(t *testing.T) {
	s := blocking{inside: make(chan struct{}), leave: make(chan struct{})}
	bank := New(time.Now(), s)
	frame := Entry{Grid: Grid{1, 1}, Tokens: compute.NewMatrix(1, 1)}
	done := make(chan struct{})
	go func() { bank.Add(frame); close(done) }()
	<-s.inside
	require.PanicsWithValue(t, "memorybank: Bank.Add called concurrently", func() { bank.Add(frame) })
	require.Zero(t, bank.Snapshot().Version, "a reader is not kept waiting by a writer, and sees the bank before it")
	close(s.leave)
	<-done
	require.EqualValues(t, 1, bank.Snapshot().Version)
}

func TestReadersWhileWriting(t *testing.T) {
	f := Flash{Synopsis: 4, Detail: 2}
	bank := New(time.Now(), f)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				s := bank.Snapshot()
				var sum float32
				for _, e := range s.Entries {
					sum += e.Weight + 0*e.Tokens.Data[0]
				}
				if sum != float32(s.Version) {
					t.Errorf("version %d with weights %v", s.Version, sum)
				}
				s.Select(nil, 0)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range 500 {
		m := compute.NewMatrix(4, 2)
		m.Data[0] = float32(i % 7)
		bank.Add(Entry{At: time.Duration(i), Grid: Grid{2, 2}, Tokens: m})
	}
	close(stop)
	wg.Wait()
}

func TestNextWaitsForAFrame(t *testing.T) {
	b := New(time.Unix(0, 0), Recent{N: 2})
	frame := func() { b.Add(Entry{Grid: Grid{H: 1, W: 1}, Tokens: compute.NewMatrix(1, 1)}) }
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan uint64)
	for range 3 {
		go func() {
			for v := uint64(0); ; {
				s, err := b.Next(ctx, v)
				if err != nil {
					return
				}
				v = s.Version
				if v == 5 {
					got <- v
					<-ctx.Done()
				}
			}
		}()
	}
	for range 5 {
		frame()
	}
	for range 3 {
		require.EqualValues(t, 5, <-got)
	}
	cancel()
	_, err := b.Next(ctx, 5)
	require.ErrorIs(t, err, context.Canceled)
	s, err := b.Next(ctx, 4)
	require.NoError(t, err, "what is there needs no waiting")
	require.EqualValues(t, 5, s.Version)
}
