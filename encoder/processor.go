package encoder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"afterimage/internal/compute"
)

// processor says how a picture becomes what a model's vision tower sees: to the bit what the model's own image processor of transformers
// makes of it with Pillow as it was to version 12. (Those that resize with torchvision instead differ from that by 1/255 in a value or two of
// a hundred, by more in less than one of ten thousand. Pillow 13 resizes down before across where the height shrinks more: see
// testdata/make_pixels.py.)
// Frames are pictures like others: where a model has a processor for videos, that is the one that is followed. No tower's picture is padded,
// so all that it sees is valid.
type processor struct {
	rule      rule
	filter    compute.Filter
	size      Size       // of the resized picture
	edge      int        // shortest: the shorter side after resizing; longest: the longer side after the first resizing
	square    bool       // shortest: pictures are first made square
	fill      [3]uint8   // shortest: the colour around those
	min, max  int        // smart: pixels of a picture
	mean, std [3]float32 // of pixel/255, whatever the rescaling
	of        target
}

// rule is one of the ways in which pictures reach the size of a tower.
type rule uint8

const (
	average  rule = iota // our own: the area average, without keeping the aspect
	straight             // one filter, without keeping the aspect
	shortest             // CLIP: the shorter side to a size, then what is in the middle
	longest              // Idefics3 and SmolVLM, unsplit: the longer side to a size, then square without keeping the aspect
	smart                // Qwen2-VL: near the picture's own size, in whole squares of patches
	twice                // Flash-VStream on Qwen2-VL: the same to fewer pixels, then again in squares of twice the side
)

// target is what a processor must know of the model.
type target struct {
	Model        string // config.json's model_type; "" for a tower alone
	Aspect       string // config.json's image_aspect_ratio, which the older LLaVA has
	Image        Size   // the tower's picture, where it has one size
	Patch, Pair  int    // as compute.PatchArgs has them
	Merge, Order int    // patches along the squares that sides are made of, and along those in whose order rows lie
	Mean, Std    [3]float32
	Pixels       int // most pixels of a picture where it keeps its own size, to the next whole square; 0: 768 squares, 256 for Flash-VStream
}

// way is what a family does where no file says otherwise.
type way struct {
	rule   rule
	filter compute.Filter
	types  []string // of image and video processors that are known to do this, without Fast or Pil at their ends
}

var (
	clipWay    = way{shortest, compute.Bicubic, []string{"CLIPImageProcessor", "CLIPFeatureExtractor", "LlavaImageProcessor"}}
	smolWay    = way{longest, compute.Lanczos, []string{"Idefics3ImageProcessor", "SmolVLMImageProcessor", "SmolVLMVideoProcessor"}}
	qwenTypes  = []string{"Qwen2VLImageProcessor", "Qwen2VLVideoProcessor", "Qwen2_5_VLImageProcessor", "FlashVStreamQwen2VLImageProcessor"}
	visionWays = map[string]way{
		"idefics3": smolWay, "smolvlm": smolWay,
		"qwen2_vl": {smart, compute.Bicubic, qwenTypes}, "qwen2_5_vl": {smart, compute.Bicubic, qwenTypes},
		"flash_vstream_qwen2_vl": {twice, compute.Bicubic, qwenTypes},
		// Published with a CLIP processor's file, of which InternVL's own code takes mean and deviation only.
		"internvl_chat":   {straight, compute.Bicubic, clipWay.types},
		"llava":           clipWay,
		"llava_llama":     clipWay,
		"vstream":         clipWay,
		"llava_onevision": {straight, compute.Bicubic, []string{"LlavaOnevisionImageProcessor", "LlavaOnevisionVideoProcessor", "SiglipImageProcessor"}},
	}
)

// processorFiles are where a processor may be described, the first that is there counting: a file and the field of it, "" for all of it.
var processorFiles = []struct{ name, field string }{
	{"processor_config.json", "video_processor"}, {"video_preprocessor_config.json", ""},
	{"processor_config.json", "image_processor"}, {"preprocessor_config.json", ""},
}

type rawProcessor struct {
	ImageType  string          `json:"image_processor_type"`
	VideoType  string          `json:"video_processor_type"`
	Extractor  string          `json:"feature_extractor_type"`
	Size       json.RawMessage `json:"size"`
	Crop       json.RawMessage `json:"crop_size"`
	MaxImage   json.RawMessage `json:"max_image_size"`
	Resample   *int            `json:"resample"`
	Mean       []float64       `json:"image_mean"`
	Std        []float64       `json:"image_std"`
	Factor     *float64        `json:"rescale_factor"`
	Resize     *bool           `json:"do_resize"`
	CenterCrop *bool           `json:"do_center_crop"`
	Rescale    *bool           `json:"do_rescale"`
	Normalize  *bool           `json:"do_normalize"`
	Pad        *bool           `json:"do_pad"`
	MinPixels  *int            `json:"min_pixels"`
	MaxPixels  *int            `json:"max_pixels"`
	Patch      *int            `json:"patch_size"`
	Merge      *int            `json:"merge_size"`
	Temporal   *int            `json:"temporal_patch_size"`
}

// readProcessor reads what describes the processor in a model directory. Models of our own, and towers alone, average.
func readProcessor(fsys fs.FS, t target) (*processor, error) {
	p := &processor{of: t, size: t.Image, mean: t.Mean, std: t.Std}
	w, known := visionWays[t.Model]
	if !known {
		return p, nil
	}
	for _, f := range processorFiles {
		data, err := fs.ReadFile(fsys, f.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		name := f.name
		if err == nil && f.field != "" {
			var fields map[string]json.RawMessage
			err = json.Unmarshal(data, &fields)
			if data = fields[f.field]; err == nil && (data == nil || string(data) == "null") {
				continue
			}
			name += ": " + f.field
		}
		if err == nil {
			err = p.read(data, w)
		}
		if err != nil {
			return nil, fmt.Errorf("encoder: %s: %w", name, err)
		}
		return p, nil
	}
	if err := p.read([]byte("{}"), w); err != nil {
		return nil, fmt.Errorf("encoder: %s: %w", t.Model, err)
	}
	return p, nil
}

// read takes a file's fields over what the family does.
func (p *processor) read(data []byte, w way) error {
	var raw rawProcessor
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	for _, t := range []struct{ field, name string }{
		{"image_processor_type", raw.ImageType}, {"video_processor_type", raw.VideoType}, {"feature_extractor_type", raw.Extractor},
	} {
		bare := strings.TrimSuffix(strings.TrimSuffix(t.name, "Fast"), "Pil")
		if t.name != "" && !slices.Contains(w.types, bare) {
			return fmt.Errorf("%s %q is not supported for model_type %q", t.field, t.name, p.of.Model)
		}
	}
	p.rule, p.filter = w.rule, w.filter
	if raw.Resample != nil {
		f, ok := map[int]compute.Filter{1: compute.Lanczos, 2: compute.Bilinear, 3: compute.Bicubic}[*raw.Resample]
		if !ok {
			return fmt.Errorf("resample %d is not supported", *raw.Resample)
		}
		p.filter = f
	}
	if raw.Resize != nil && !*raw.Resize {
		return errors.New("do_resize false is not supported")
	}
	if err := p.values(&raw); err != nil {
		return err
	}
	switch p.rule {
	case straight:
		return p.straight(&raw)
	case shortest:
		return p.shortest(&raw)
	case longest:
		return p.longest(&raw)
	default:
		return p.smart(&raw)
	}
}

// values reads how bytes become numbers: (byte·factor - mean)/std, with what is turned off left out, put as (byte/255 - mean)/std.
func (p *processor) values(raw *rawProcessor) error {
	mean, std := widen(p.mean), widen(p.std)
	for _, v := range []struct {
		name string
		have []float64
		dst  *[3]float64
	}{{"image_mean", raw.Mean, &mean}, {"image_std", raw.Std, &std}} {
		if v.have == nil {
			continue
		}
		if len(v.have) != 3 {
			return fmt.Errorf("%s %v: want three values", v.name, v.have)
		}
		*v.dst = [3]float64(v.have)
	}
	for c := range mean {
		p.fill[c] = uint8(min(max(mean[c]*255, 0), 255))
	}
	factor := 1.0 / 255
	if raw.Factor != nil {
		factor = *raw.Factor
	}
	if raw.Rescale != nil && !*raw.Rescale {
		factor = 1
	}
	if raw.Normalize != nil && !*raw.Normalize {
		mean, std = [3]float64{}, [3]float64{1, 1, 1}
	}
	if !(factor > 0 && factor <= 1) {
		return fmt.Errorf("rescale_factor %g is out of range", factor)
	}
	for c := range mean {
		m, s := float32(mean[c]/(255*factor)), float32(std[c]/(255*factor))
		if !(s > 0 && s < 1e6) {
			return fmt.Errorf("image_std %v: want positive values", std)
		}
		if !(m > -1e6 && m < 1e6) {
			return fmt.Errorf("image_mean %v is out of range", mean)
		}
		p.mean[c], p.std[c] = m, s
	}
	return nil
}

func (p *processor) straight(raw *rawProcessor) error {
	if p.of.Model == "internvl_chat" || raw.Size == nil {
		return nil
	}
	s, err := readSize("size", raw.Size)
	if err != nil {
		return err
	}
	if s.side > 0 {
		s.Size = Size{s.side, s.side}
	}
	return p.fits("size", s)
}

func (p *processor) shortest(raw *rawProcessor) error {
	p.edge = min(p.size.H, p.size.W)
	if raw.Size != nil {
		s, err := readSize("size", raw.Size)
		if err != nil {
			return err
		}
		switch {
		case s.side > 0:
			p.edge = s.side
		case s.shortest > 0 && s.longest == 0:
			p.edge = s.shortest
		case s.Size != Size{} && (raw.CenterCrop == nil || !*raw.CenterCrop || s.Size == p.of.Image):
			p.rule = straight
			return p.fits("size", s)
		default:
			return fmt.Errorf("size %s is not supported, want shortest_edge", raw.Size)
		}
	}
	if raw.CenterCrop != nil && !*raw.CenterCrop {
		return errors.New("do_center_crop false is not supported with size.shortest_edge")
	}
	if raw.Crop != nil {
		s, err := readSize("crop_size", raw.Crop)
		if err != nil {
			return err
		}
		if s.side > 0 {
			s.Size = Size{s.side, s.side}
		}
		if err := p.fits("crop_size", s); err != nil {
			return err
		}
	}
	// The older LLaVA says it in config.json. Flash-VStream has that too, for stills alone; what is seen here are frames.
	switch {
	case raw.Pad != nil:
		p.square = *raw.Pad
	case p.of.Model == "llava_llama" && p.of.Aspect == "pad":
		p.square = true
	case p.of.Model == "llava_llama" && p.of.Aspect != "" && p.of.Aspect != "square":
		return fmt.Errorf("config.json: image_aspect_ratio %q is not supported", p.of.Aspect)
	}
	return nil
}

// Frames take size too, as in transformers 5; 4.51 took video_sampling's for them.
func (p *processor) longest(raw *rawProcessor) error {
	p.edge = 4 * max(p.size.H, p.size.W)
	if raw.Size != nil {
		s, err := readSize("size", raw.Size)
		if err != nil {
			return err
		}
		if s.longest == 0 || s.shortest > 0 {
			return fmt.Errorf("size %s is not supported, want longest_edge", raw.Size)
		}
		p.edge = s.longest
	}
	if raw.MaxImage != nil {
		s, err := readSize("max_image_size", raw.MaxImage)
		if err != nil {
			return err
		}
		if s.longest == 0 {
			return fmt.Errorf("max_image_size %s is not supported, want longest_edge", raw.MaxImage)
		}
		s.Size = Size{s.longest, s.longest}
		return p.fits("max_image_size", s)
	}
	return nil
}

// Qwen2-VL's own bounds of a picture's pixels where its file has none.
const qwenMin, qwenMax = 56 * 56, 28 * 28 * 1280

func (p *processor) smart(raw *rawProcessor) error {
	p.min, p.max = qwenMin, qwenMax
	if raw.Size != nil {
		s, err := readSize("size", raw.Size)
		if err != nil {
			return err
		}
		if s.pixels > 0 {
			s.shortest, s.longest = s.minPixels, s.pixels
		}
		if s.shortest == 0 || s.longest == 0 {
			return fmt.Errorf("size %s is not supported, want shortest_edge and longest_edge", raw.Size)
		}
		p.min, p.max = s.shortest, s.longest
	}
	for _, v := range []struct {
		name string
		have *int
		dst  *int
	}{{"min_pixels", raw.MinPixels, &p.min}, {"max_pixels", raw.MaxPixels, &p.max}} {
		if v.have != nil {
			*v.dst = *v.have
		}
		if *v.dst < 1 || *v.dst > 1<<30 {
			return fmt.Errorf("%s %d is out of range", v.name, *v.dst)
		}
	}
	for _, v := range []struct {
		name string
		have *int
		want int
	}{{"patch_size", raw.Patch, p.of.Patch}, {"merge_size", raw.Merge, max(p.of.Merge, 1)}, {"temporal_patch_size", raw.Temporal, 2}} {
		if v.have != nil && *v.have != v.want {
			return fmt.Errorf("%s %d is not the tower's %d", v.name, *v.have, v.want)
		}
	}
	return nil
}

// fits takes a size that must be the tower's.
func (p *processor) fits(name string, s rawSize) error {
	if s.Size == (Size{}) {
		return fmt.Errorf("%s has no height and width", name)
	}
	if s.Size != p.of.Image {
		return fmt.Errorf("%s %dx%d is not the tower's picture of %dx%d", name, s.H, s.W, p.of.Image.H, p.of.Image.W)
	}
	return nil
}

// rawSize is a size in one of the ways in which processors write it; what is not said is 0.
type rawSize struct {
	Size
	side              int // a number alone, which some take for the shorter side and some for both
	shortest, longest int
	minPixels, pixels int
}

func readSize(name string, data json.RawMessage) (s rawSize, err error) {
	var fields struct {
		H         *int `json:"height"`
		W         *int `json:"width"`
		Shortest  *int `json:"shortest_edge"`
		Longest   *int `json:"longest_edge"`
		MinPixels *int `json:"min_pixels"`
		MaxPixels *int `json:"max_pixels"`
	}
	wrong := fmt.Errorf("%s %s: want a number or sides", name, data)
	if json.Unmarshal(data, &s.side) == nil && string(data) != "null" {
		if s.side < 1 || s.side > 1<<14 {
			return s, wrong
		}
		return s, nil
	}
	if json.Unmarshal(data, &fields) != nil {
		return s, wrong
	}
	given := false
	for _, v := range []struct {
		have *int
		dst  *int
		most int
	}{{fields.H, &s.H, 1 << 14}, {fields.W, &s.W, 1 << 14}, {fields.Shortest, &s.shortest, 1 << 30}, {fields.Longest, &s.longest, 1 << 30},
		{fields.MinPixels, &s.minPixels, 1 << 30}, {fields.MaxPixels, &s.pixels, 1 << 30}} {
		if v.have == nil {
			continue
		}
		if *v.have < 1 || *v.have > v.most {
			return s, wrong
		}
		*v.dst, given = *v.have, true
	}
	if !given || (s.H == 0) != (s.W == 0) || (s.minPixels == 0) != (s.pixels == 0) {
		return s, wrong
	}
	return s, nil
}

// args says how a picture of w x h becomes patches. One whose shape the model cannot take is an error.
func (p *processor) args(w, h int) (compute.PatchArgs, error) {
	a := compute.PatchArgs{Patch: p.of.Patch, Merge: p.of.Order, Pair: p.of.Pair, Mean: p.mean, Std: p.std}
	step := func(s Size) { a.Steps = append(a.Steps, compute.Step{Filter: p.filter, W: s.W, H: s.H}) }
	square := max(p.of.Patch, 1) * max(p.of.Merge, 1)
	switch p.rule {
	case average, straight:
		step(p.size)
	case shortest:
		if p.square && w != h {
			side := max(w, h)
			a.Steps = append(a.Steps, compute.Step{Filter: compute.Place, W: side, H: side, X: (side - w) / 2, Y: (side - h) / 2, Fill: p.fill})
			w, h = side, side
		}
		s := Size{p.edge, p.edge}
		if long := float64(p.edge) * float64(max(w, h)) / float64(min(w, h)); long > 1<<20 {
			return a, fmt.Errorf("picture of %dx%d is too narrow", w, h)
		} else if w <= h {
			s.H = int(long)
		} else {
			s.W = int(long)
		}
		step(s)
		if s != p.size {
			a.Steps = append(a.Steps, compute.Step{Filter: compute.Place, W: p.size.W, H: p.size.H, X: middle(p.size.W, s.W), Y: middle(p.size.H, s.H)})
		}
	case longest:
		step(longestEdge(w, h, p.edge))
		step(p.size)
	case smart:
		most := 768 * square * square
		if p.of.Pixels > 0 {
			most = p.of.Pixels
		}
		most = min(p.max, most)
		step(smartResize(w, h, square, min(p.min, most), most))
	case twice:
		most := 256 * square * square
		if p.of.Pixels > 0 {
			most = p.of.Pixels
		}
		s := smartResize(w, h, square, min(128*square*square, most), most)
		step(s)
		step(smartResize(s.W, s.H, 2*square, min(p.min, most), p.max))
	}
	if (p.rule == smart || p.rule == twice) && max(w, h) > 200*min(w, h) {
		return a, fmt.Errorf("picture of %dx%d is too narrow: no side may be 200 times the other", w, h)
	}
	if w, h := a.Size(); p.of.Patch > 0 && (w%p.of.Patch != 0 || h%p.of.Patch != 0) { // what is over at the right and bottom is not looked at
		a.Steps = append(a.Steps, compute.Step{Filter: compute.Place, W: w / p.of.Patch * p.of.Patch, H: h / p.of.Patch * p.of.Patch})
	}
	return a, compute.CheckSteps(w, h, a.Steps)
}

// middle is where a side of n pixels begins in its frame of size pixels when it is centred.
func middle(size, n int) int {
	if n >= size {
		return -((n - size) / 2)
	}
	return (size - n + 1) / 2
}

// longestEdge keeps the aspect: the longer side becomes edge, the shorter an even number.
func longestEdge(w, h, edge int) Size {
	const most = 4096
	aspect := float64(w) / float64(h)
	even := func(n int) int { return max(n+n%2, 1) }
	if w >= h {
		w, h = edge, even(int(float64(edge)/aspect))
	} else {
		w, h = even(int(float64(edge)*aspect)), edge
	}
	aspect = float64(w) / float64(h)
	if w >= h && w > most {
		w, h = most, max(int(most/aspect), 1)
	} else if h > w && h > most {
		w, h = max(int(most*aspect), 1), most
	}
	return Size{h, w}
}

// smartResize is the size in whole squares that is nearest to a picture's own, but for the bounds of its pixels.
func smartResize(w, h, square, least, most int) Size {
	f, height, width := float64(square), float64(h), float64(w)
	s := Size{int(math.RoundToEven(height/f)) * square, int(math.RoundToEven(width/f)) * square}
	switch {
	case s.H*s.W > most:
		shrink := math.Sqrt(height * width / float64(most))
		s = Size{int(math.Floor(height/shrink/f)) * square, int(math.Floor(width/shrink/f)) * square}
	case s.H*s.W < least:
		grow := math.Sqrt(float64(least) / (height * width))
		s = Size{int(math.Ceil(height*grow/f)) * square, int(math.Ceil(width*grow/f)) * square}
	}
	return Size{max(s.H, square), max(s.W, square)}
}

func widen(v [3]float32) (out [3]float64) {
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}
