// Feeder writes what the simulated street shows, as drawing instructions with questions or captions, for models/train to draw
// on a GPU and learn from. The record format is described at record; models/train reads it.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math"
	"math/rand/v2"
	"os"
	"sort"
	"strings"
	"time"

	"afterimage/ingest/simcam"
)

const magic = 0x41464731

// Floats per prim and per frame of a record.
const (
	primFloats  = 16
	frameFloats = 24
)

// record is: 8 x uint32 {magic, kind, frames, static prims, moving prims, JSON bytes, seed, 0}, the static prims, the frames,
// the moving prims (float32, little-endian), then the JSON.
type record struct {
	kind, seed             uint32
	static, frames, moving []float32
	text                   any
}

func (r *record) write(w *bufio.Writer) error {
	text, err := json.Marshal(r.text)
	if err != nil {
		return err
	}
	head := []uint32{magic, r.kind, uint32(len(r.frames) / frameFloats), uint32(len(r.static) / primFloats), uint32(len(r.moving) / primFloats),
		uint32(len(text)), r.seed, 0}
	buf := make([]byte, 0, 32+4*(len(r.static)+len(r.frames)+len(r.moving))+len(text))
	for _, v := range head {
		buf = binary.LittleEndian.AppendUint32(buf, v)
	}
	for _, part := range [][]float32{r.static, r.frames, r.moving} {
		for _, v := range part {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
		}
	}
	_, err = w.Write(append(buf, text...))
	return err
}

func prims(dst []float32, ps []simcam.Prim) []float32 {
	for _, p := range ps {
		emissive := float32(0)
		if p.Emissive {
			emissive = 1
		}
		dst = append(dst, float32(p.Shape), p.CX, p.CY, p.HX, p.HY, p.Cos, p.Sin, p.Radius, p.R, p.G, p.B, p.A, emissive, p.Soft, 0, 0)
	}
	return dst
}

// frame appends the picture of scene at t. from and n are its static prims.
func (r *record) frame(s *simcam.Scene, t time.Duration, g *rand.Rand, from, n int) {
	ps := s.Moving(t)
	a := s.Atmosphere(t)
	snow := float32(0)
	if a.Snow {
		snow = 1
	}
	row := [frameFloats]float32{float32(t.Seconds()), float32(len(r.moving) / primFloats), float32(len(ps)), a.Gain[0], a.Gain[1], a.Gain[2],
		a.FogAmount, a.Fog[0], a.Fog[1], a.Fog[2], a.Noise, float32(a.Streaks), a.Length, float32(g.IntN(1 << 20)), snow, 1, float32(from), float32(n)}
	r.frames = append(r.frames, row[:]...)
	r.moving = prims(r.moving, ps)
}

// Snapshot is a moment of a clip at which questions are asked.
type Snapshot struct {
	Frame int     `json:"frame"`
	Clock float64 `json:"clock"` // seconds of the day at stream time 0
	QA    []QA    `json:"qa"`
}

// QA is one question with its answer.
type QA struct {
	Q     string `json:"q"`
	A     string `json:"a"`
	Type  string `json:"type"`
	Form  string `json:"form"`
	Short string `json:"short"`
	// Evidence is what the answer rests on, from and to in seconds of stream time.
	Evidence [][2]float64 `json:"evidence,omitempty"`
}

func ask(s *simcam.Script, g *rand.Rand, epoch time.Time, at time.Duration, n int, monitor bool) []QA {
	pick := s.TrainingQuestions
	if monitor {
		pick = s.Questions
	}
	var out []QA
	for _, t := range pick(epoch, at, n, g.Uint64()) {
		q := QA{Q: t.Question, A: t.Answer, Type: t.Type, Form: t.Form, Short: t.Short}
		for _, e := range t.Evidence {
			q.Evidence = append(q.Evidence, [2]float64{e.From.Seconds(), e.To.Seconds()})
		}
		out = append(out, q)
	}
	return out
}

// shape is how long a clip is, how often and how much is asked.
type shape struct {
	longest   float64 // seconds; 0 mixes all lengths up to twelve minutes
	shots, qa int
	monitor   bool
	long      float64 // share of clips of half an hour to an hour
	longShots int
}

func clip(seed uint64, o shape) *record {
	monitor := o.monitor
	g := rand.New(rand.NewPCG(seed, 77))
	length := time.Duration((20 + g.Float64()*700) * float64(time.Second))
	if monitor || g.IntN(3) == 0 {
		length = time.Duration((560 + g.Float64()*80) * float64(time.Second))
	}
	if o.longest > 0 {
		length = time.Duration((12 + g.Float64()*(o.longest-12)) * float64(time.Second))
	}
	if o.long > 0 && g.Float64() < o.long {
		length, o.shots = time.Duration((1800+g.Float64()*1800)*float64(time.Second)), o.longShots
		if monitor {
			length = time.Hour
		}
	}
	s := simcam.NewScript(seed, length+time.Minute)
	scene := simcam.NewScene(s)
	clock := float64(g.IntN(86400))
	epoch := time.Date(2026, 1, 2, 0, 0, int(clock), 0, time.UTC)
	r := &record{kind: 2, seed: uint32(seed), static: prims(nil, scene.Static())}
	phase := g.Float64() * 0.5
	var times []time.Duration
	for t := phase; t < length.Seconds(); t += 0.5 {
		if g.IntN(100) == 0 { // a live camera loses frames
			continue
		}
		at := time.Duration((t + (g.Float64()-.5)*.08) * float64(time.Second))
		at = max(0, at)
		times = append(times, at)
		r.frame(scene, at, g, 0, len(r.static)/primFloats)
	}
	last := len(times) - 1
	moments := []int{last}
	for range o.shots - 1 {
		moments = append(moments, 8+g.IntN(max(1, last-8)))
	}
	if o.shots > 1 && g.IntN(3) == 0 {
		moments[o.shots-1] = g.IntN(min(last, 60) + 1)
	}
	sort.Ints(moments)
	var shots []Snapshot
	for _, m := range moments {
		m = min(m, last)
		shots = append(shots, Snapshot{Frame: m, Clock: clock, QA: ask(s, g, epoch, times[m]+time.Duration(g.IntN(400))*time.Millisecond, o.qa, monitor)})
	}
	r.text = map[string]any{"snapshots": shots}
	return r
}

// pictures makes single frames, mostly of moments at which something happens.
func pictures(seed uint64, n int) *record {
	g := rand.New(rand.NewPCG(seed, 78))
	r := &record{kind: 1, seed: uint32(seed)}
	var captions []string
	for range n { // every scene another street: pictures of one street teach its background
		seed = seed*6364136223846793005 + 1442695040888963407
		s := simcam.NewScript(seed>>20%simcam.HeldOut, 12*time.Minute)
		scene := simcam.NewScene(s)
		from := len(r.static) / primFloats
		r.static = prims(r.static, scene.Static())
		for range 4 {
			t := time.Duration(g.Int64N(int64(12 * time.Minute)))
			if g.IntN(5) > 0 {
				e := s.Episodes[g.IntN(len(s.Episodes))]
				t = e.Start + time.Duration(g.Int64N(int64(min(e.End-e.Start, 40*time.Second))))
			}
			r.frame(scene, t, g, from, len(r.static)/primFloats-from)
			captions = append(captions, scene.Caption(t))
		}
	}
	r.text = map[string]any{"captions": captions}
	return r
}

func main() {
	mode := flag.String("mode", "clips", "clips, frames, text (training text, one line each) or picture (a frame record, then the Go renderer's 640x360 RGB)")
	first := flag.Uint64("seed", 0, "first seed")
	step := flag.Uint64("step", 1, "seeds between records: the number of feeders")
	count := flag.Int("count", 0, "records to write; 0 goes on for ever")
	n := flag.Int("n", 16, "scenes in a record of frames; four frames each")
	monitor := flag.Bool("monitor", false, "ten-minute clips and scored question types only, for watching progress on held-out seeds")
	o := shape{}
	flag.Float64Var(&o.longest, "longest", 0, "longest clip in seconds; 0 mixes all lengths up to twelve minutes")
	flag.Float64Var(&o.long, "long", 0, "share of clips of half an hour to an hour; a monitor's are an hour")
	flag.IntVar(&o.longShots, "long-shots", 100, "moments at which questions are asked of those")
	flag.IntVar(&o.shots, "shots", 4, "moments of a clip at which questions are asked")
	flag.IntVar(&o.qa, "qa", 20, "questions at each")
	flag.Parse()
	o.monitor = *monitor
	w := bufio.NewWriterSize(os.Stdout, 1<<20)
	for i := 0; *count == 0 || i < *count; i++ {
		seed := *first + uint64(i)**step
		if !*monitor && *mode != "picture" {
			seed %= simcam.HeldOut
		}
		var err error
		switch *mode {
		case "clips":
			err = clip(seed, o).write(w)
		case "frames":
			err = pictures(seed+uint64(i)*7919, *n).write(w)
		case "text":
			r := clip(seed, o)
			for _, s := range r.text.(map[string]any)["snapshots"].([]Snapshot) {
				for _, q := range s.QA {
					fmt.Fprintln(w, q.Q)
					fmt.Fprintln(w, q.A)
				}
			}
			fmt.Fprintln(w, strings.Join(pictures(seed, 1).text.(map[string]any)["captions"].([]string), "\n"))
		case "picture":
			s := simcam.NewScript(seed, 10*time.Minute)
			scene := simcam.NewScene(s)
			t := s.Episodes[len(s.Episodes)/2].Start + 3*time.Second
			r := &record{kind: 1, seed: uint32(seed), static: prims(nil, scene.Static())}
			r.frame(scene, t, rand.New(rand.NewPCG(1, 1)), 0, len(r.static)/primFloats)
			r.text = map[string]any{"captions": []string{scene.Caption(t)}}
			if err = r.write(w); err == nil {
				pix := make([]byte, 3*simcam.SceneW*simcam.SceneH)
				simcam.NewRenderer(s, simcam.SceneW, simcam.SceneH).Render(pix, t)
				_, err = w.Write(pix)
			}
		default:
			log.Fatalf("feeder: unknown mode %q", *mode)
		}
		if err != nil {
			log.Fatalf("feeder: write: %v", err)
		}
	}
	if err := w.Flush(); err != nil {
		log.Fatalf("feeder: write: %v", err)
	}
}
