package memorybank

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"afterimage/internal/compute"

	"github.com/maruel/safetensors"
	"github.com/stretchr/testify/require"
)

var origin = Origin{Encoder: "e1", Config: "c1"}

// stream adds frames [from, to) of an endless made-up stream.
func stream(b *Bank, from, to int) {
	for i := from; i < to; i++ {
		m := compute.NewMatrix(8, 3)
		for j := range m.Data {
			m.Data[j] = float32(math.Sin(float64(i*i)/50 + float64(j)))
		}
		e := Entry{At: time.Duration(i) * time.Second, Grid: Grid{2, 4}, Tokens: m}
		if i%3 > 0 {
			e.Thumb = []byte{byte(i)}
		}
		b.Add(e)
	}
}

func saved(t testing.TB, b *Bank) []byte {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, b.Snapshot().Save(&out, origin))
	return out.Bytes()
}

// A restored bank goes on exactly as if nothing had happened: same IDs, rows, choices.
func TestSaveRestore(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	epoch := time.Date(2026, 7, 1, 12, 0, 0, 5e6, berlin)
	for _, s := range []Strategy{Flash{Synopsis: 5, Detail: 2}, Flash{}, Recent{N: 4}} {
		for _, n := range []int{0, 1, 2, 5, 6, 40} {
			whole := New(epoch, s)
			stream(whole, 0, n)
			back, err := Restore(bytes.NewReader(saved(t, whole)), s, origin)
			require.NoError(t, err)
			require.Equal(t, whole.Snapshot(), back.Snapshot())
			require.Equal(t, epoch.String(), back.Snapshot().Epoch.String())
			stream(whole, n, n+30)
			stream(back, n, n+30)
			require.Equal(t, whole.Snapshot(), back.Snapshot())
			require.Equal(t, whole.Snapshot().Select(nil, 30), back.Snapshot().Select(nil, 30))
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	f := Flash{Synopsis: 5, Detail: 2}
	bank := New(time.Unix(0, 0).UTC(), f)
	stream(bank, 0, 20)
	good := saved(t, bank)

	for _, c := range []struct {
		s    Strategy
		o    Origin
		want string
	}{
		{f, Origin{"e2", "c1"}, `memorybank: restore: it was made with encoder "e1", this is "e2"`},
		{f, Origin{"e1", "c2"}, `memorybank: restore: it was made with configuration "c1", this is "c2"`},
		{Flash{Synopsis: 6, Detail: 2}, origin, `it was made with strategy "memorybank.Flash{Synopsis:5, Detail:2, Compat:false}", this is "memorybank.Flash{Synopsis:6, Detail:2, Compat:false}"`},
		{Recent{}, origin, `this is "memorybank.Recent{N:0}"`},
	} {
		_, err := Restore(bytes.NewReader(good), c.s, c.o)
		require.ErrorContains(t, err, c.want)
	}
	for n := range len(good) {
		if n%17 == 0 || n > len(good)-20 {
			_, err := Restore(bytes.NewReader(good[:n]), f, origin)
			require.Error(t, err, "cut at %d", n)
		}
	}

	for name, c := range map[string]struct {
		change func(h *storeHeader, f *safetensors.File)
		want   string
	}{
		"version":    {func(h *storeHeader, _ *safetensors.File) { h.Version = 1 }, "format version 1, this program reads 2"},
		"times":      {func(h *storeHeader, _ *safetensors.File) { h.Entries[1].At = -1 }, "entry.1: times"},
		"order":      {func(h *storeHeader, _ *safetensors.File) { h.Entries[1].Start = 0; h.Entries[0].End = h.Entries[1].End }, "entry.1 begins before"},
		"weight":     {func(h *storeHeader, _ *safetensors.File) { h.Entries[2].Weight = 0 }, "entry.2: weight 0"},
		"role":       {func(h *storeHeader, _ *safetensors.File) { h.Newest.Role = 9 }, "newest: role 9"},
		"grid":       {func(h *storeHeader, _ *safetensors.File) { h.Newest.Grid = [2]int{1 << 40, 1 << 40} }, "newest: grid"},
		"ID taken":   {func(h *storeHeader, _ *safetensors.File) { h.Entries[1].ID = h.Entries[0].ID }, "entry.1: ID"},
		"ID to come": {func(h *storeHeader, _ *safetensors.File) { h.Entries[1].ID = 21 << 8 }, "entry.1: ID"},
		"exemplar":   {func(h *storeHeader, _ *safetensors.File) { h.Entries[0].Exemplar = nil }, "entry.0: no exemplar"},
		"exemplar time": {func(h *storeHeader, _ *safetensors.File) {
			h.Entries[4].Exemplar.At, h.Entries[4].Exemplar.Start = 1, 1
		}, "exemplar's time"},
		"no newest":      {func(h *storeHeader, _ *safetensors.File) { h.Newest = nil }, "20 frames, but 5 entries and a newest frame of 0 rows"},
		"frames":         {func(h *storeHeader, _ *safetensors.File) { h.Frames = 0 }, "0 frames"},
		"too many":       {func(h *storeHeader, _ *safetensors.File) { h.Frames = math.MaxUint64 }, "out of range"},
		"ends too late":  {func(h *storeHeader, _ *safetensors.File) { h.Now = 1e9 }, "ends after the newest frame"},
		"missing":        {func(_ *storeHeader, f *safetensors.File) { f.Tensors[0].Name = "x" }, "entry.0: rows are missing"},
		"not a number":   {func(_ *storeHeader, f *safetensors.File) { copy(f.Tensors[0].Data, []byte{0, 0, 0xC0, 0x7F}) }, "entry.0: value 0 is not a number"},
		"shape":          {func(_ *storeHeader, f *safetensors.File) { f.Tensors[0].Shape = []uint64{6} }, "entry.0: rows are F32 [6]"},
		"no header":      {func(_ *storeHeader, f *safetensors.File) { f.Metadata = nil }, "not a saved bank"},
		"header no JSON": {func(_ *storeHeader, f *safetensors.File) { f.Metadata = map[string]string{"afterimage": "{"} }, "metadata: "},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := safetensors.Parse(bytes.Clone(good))
			require.NoError(t, err)
			var h storeHeader
			require.NoError(t, json.Unmarshal([]byte(file.Metadata["afterimage"]), &h))
			text := file.Metadata["afterimage"]
			c.change(&h, file)
			if file.Metadata["afterimage"] == text {
				b, err := json.Marshal(h)
				require.NoError(t, err)
				file.Metadata["afterimage"] = string(b)
			}
			if name == "no header" {
				file.Metadata = nil
			}
			var out bytes.Buffer
			require.NoError(t, file.Serialize(&out))
			_, err = Restore(&out, f, origin)
			require.ErrorContains(t, err, c.want)
		})
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, bytes.ErrTooLarge }

func TestSaveReportsTheWriter(t *testing.T) {
	require.ErrorIs(t, New(time.Now(), Recent{}).Snapshot().Save(brokenWriter{}, origin), bytes.ErrTooLarge)
}

func FuzzRestore(f *testing.F) {
	s := Flash{Synopsis: 2, Detail: 1}
	bank := New(time.Unix(0, 0).UTC(), s)
	f.Add(saved(f, bank))
	stream(bank, 0, 3)
	f.Add(saved(f, bank))
	f.Add([]byte(strings.Repeat("\xff", 9)))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Restore(bytes.NewReader(data), s, origin)
		if err != nil {
			return
		}
		at := b.Snapshot().Now
		b.Add(Entry{At: at, Grid: Grid{2, 4}, Tokens: compute.NewMatrix(8, 3)})
		b.Snapshot().Select(nil, 20)
	})
}
