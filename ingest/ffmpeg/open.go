package ffmpeg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/asticode/go-astiav"

	"afterimage/ingest"
)

// Options says how to open and sample a source. The zero value is ready to use.
type Options struct {
	FPS         float64       // frames wanted a second of stream; 0 means 2, negative means every frame
	Transport   string        // RTSP: "tcp" (also ""), or "udp"
	OpenTimeout time.Duration // until the stream's pictures can be decoded; 0 means 15 s
	ReadTimeout time.Duration // longest silence of an open source; 0 means 10 s
	Pace        bool          // give a file's frames at the speed they were recorded; a live source has its own
	Epoch       time.Time     // Wall of a file's first frame; zero means the moment it is given
	MaxW, MaxH  int           // larger pictures are shrunk to fit, keeping their shape; 0 means 1280 and 720
	MaxPixels   int           // larger pictures are refused; 0 means 8192*4352, an 8K camera's
	Insecure    bool          // https: accept any certificate

	// Decoded is told what it took to decode and convert, since the frame before, as each frame is given; nil: nobody is.
	Decoded func(time.Duration)
}

func (o Options) withDefaults() (Options, error) {
	switch {
	case o.FPS != o.FPS || o.FPS > 1000:
		return o, fmt.Errorf("fps %v: want a number up to 1000", o.FPS)
	case o.FPS == 0:
		o.FPS = 2
	case o.FPS > 0 && o.FPS < 1e-4:
		return o, fmt.Errorf("fps %v: want at least 0.0001", o.FPS)
	}
	switch o.Transport {
	case "":
		o.Transport = "tcp"
	case "tcp", "udp":
	default:
		return o, fmt.Errorf("transport %q: want tcp or udp", o.Transport)
	}
	if o.MaxW < 0 || o.MaxH < 0 || o.MaxPixels < 0 || o.OpenTimeout < 0 || o.ReadTimeout < 0 {
		return o, errors.New("negative limit")
	}
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.MaxW, 1280)
	def(&o.MaxH, 720)
	def(&o.MaxPixels, 8192*4352)
	if o.OpenTimeout == 0 {
		o.OpenTimeout = 15 * time.Second
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = 10 * time.Second
	}
	return o, nil
}

// What a scheme may make FFmpeg use. A playlist from the network must not read local files, and a local file must not reach the
// network.
const (
	fileFormats = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,avi,flv,mjpeg,h264,hevc,m4v,ivf"
	httpFormats = "hls,applehttp,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpjpeg,mjpeg,flv"
	videoCodecs = "h264,hevc,mjpeg,mpeg4,mpeg1video,mpeg2video,vp8,libvpx,vp9,libvpx-vp9,libdav1d,libaom-av1,av1,rawvideo"
	// Where Debian, Ubuntu and Alpine keep the certificates that GnuTLS does not look up by itself in every version.
	systemCertificates = "/etc/ssl/certs/ca-certificates.crt"

	maxAllocation = 96 << 20
)

// An input is what FFmpeg is given for one URL.
type input struct {
	name   string // what FFmpeg opens: holds credentials, never to be printed
	format string // empty: found out by FFmpeg among the allowed ones
	opts   map[string]string
	live   bool
}

func newInput(u ingest.URL, o Options) (input, error) {
	opts := map[string]string{"codec_whitelist": videoCodecs}
	in := input{name: u.Raw(), opts: opts, live: u.Live()}
	switch u.Scheme() {
	case ingest.FileScheme:
		in.name = "file:" + u.Path()
		opts["protocol_whitelist"] = "file"
		opts["format_whitelist"] = fileFormats
	case ingest.RTSPScheme, ingest.RTSPSScheme:
		in.format = "rtsp"
		opts["protocol_whitelist"] = "rtsp,rtp,udp,tcp"
		opts["format_whitelist"] = "rtsp,sdp,rtp,mpegts"
		opts["rtsp_transport"] = o.Transport
		if u.Scheme() == ingest.RTSPSScheme {
			// FFmpeg 7 cannot be told to check the certificate of an RTSP server.
			opts["protocol_whitelist"] = "rtsp,tls,tcp"
			opts["rtsp_transport"] = "tcp"
		}
		opts["allowed_media_types"] = "video"
		opts["timeout"] = strconv.FormatInt(o.ReadTimeout.Microseconds(), 10)
		opts["reorder_queue_size"] = "200"
		opts["fpsprobesize"] = "0" // counting frames to guess a rate we do not use would delay the first picture
	case ingest.HTTPScheme, ingest.HTTPSScheme:
		opts["protocol_whitelist"] = "http,https,tls,tcp,crypto"
		opts["format_whitelist"] = httpFormats
		opts["rw_timeout"] = strconv.FormatInt(o.ReadTimeout.Microseconds(), 10)
		opts["user_agent"] = "afterimage"
		opts["fpsprobesize"] = "0"
		if !o.Insecure {
			opts["tls_verify"] = "1"
			if _, err := os.Stat(systemCertificates); err == nil {
				opts["ca_file"] = systemCertificates
			}
		}
	case ingest.V4L2Scheme:
		in.name, in.format = u.Path(), "v4l2"
		opts["protocol_whitelist"] = "file"
		for _, p := range []string{"video_size", "framerate", "input_format"} {
			if v := u.Param(p); v != "" {
				opts[p] = v
			}
		}
	default:
		return in, fmt.Errorf("FFmpeg does not open %q sources", u.Scheme())
	}
	return in, nil
}

// Look first at what Go can see better or sooner than FFmpeg: a missing file, a pipe that would block, a name that does not
// resolve (FFmpeg's resolver cannot be interrupted).
func precheck(ctx context.Context, u ingest.URL) error {
	switch u.Scheme() {
	case ingest.FileScheme:
		st, err := os.Stat(u.Path())
		if err != nil {
			return errors.Unwrap(err)
		}
		if !st.Mode().IsRegular() {
			return errors.New("not a regular file")
		}
		if st.Size() == 0 {
			return errors.New("the file is empty")
		}
		f, err := os.Open(u.Path())
		if err != nil {
			return errors.Unwrap(err)
		}
		return f.Close()
	case ingest.V4L2Scheme:
		if _, err := os.Stat(u.Path()); err != nil {
			return errors.Unwrap(err)
		}
	case ingest.RTSPScheme, ingest.RTSPSScheme, ingest.HTTPScheme, ingest.HTTPSScheme:
		host := (&url.URL{Host: u.Host()}).Hostname()
		if _, err := net.DefaultResolver.LookupHost(ctx, host); err != nil {
			return err
		}
	}
	return nil
}

// Open connects to u and finds its video track. ctx bounds the opening only. Errors name u as it may be shown, and wrap
// ingest.ErrCredentials, fs.ErrNotExist or the context's error where that is the cause.
func Open(ctx context.Context, u ingest.URL, o Options) (*Decoder, error) {
	d, err := open(ctx, u, o)
	if err != nil {
		return nil, fmt.Errorf("ffmpeg: open %v: %w", u, explain(u, err))
	}
	return d, nil
}

func open(ctx context.Context, u ingest.URL, o Options) (_ *Decoder, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	in, err := newInput(u, o)
	if err != nil {
		return nil, err
	}
	lookup, cancel := context.WithTimeout(ctx, o.OpenTimeout)
	err = precheck(lookup, u)
	cancel()
	if err != nil {
		return nil, err
	}

	astiav.SetLogLevel(astiav.LogLevelQuiet)
	limitAllocations(maxAllocation)
	d := &Decoder{url: u, o: o, live: in.live}
	d.guard.intr = astiav.NewIOInterrupter()
	defer func() {
		if err != nil {
			d.release()
		}
	}()

	d.guard.begin(ctx, o.OpenTimeout, "no video")
	err = d.openInput(in)
	if cause := d.guard.end(); cause != nil && (err != nil || ctx.Err() != nil) {
		err = cause
	}
	if err != nil {
		return nil, err
	}
	if err := d.openDecoder(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Decoder) openInput(in input) error {
	var format *astiav.InputFormat
	if in.format == "v4l2" {
		astiav.RegisterAllDevices()
	}
	if in.format != "" {
		if format = astiav.FindInputFormat(in.format); format == nil {
			return fmt.Errorf("this FFmpeg was built without %s", in.format)
		}
	}
	dict := astiav.NewDictionary()
	defer dict.Free()
	for k, v := range in.opts {
		if err := dict.Set(k, v, 0); err != nil {
			return err
		}
	}
	fc := astiav.AllocFormatContext()
	if fc == nil {
		return errors.New("out of memory")
	}
	fc.SetIOInterrupter(d.guard.intr)
	if in.format == "v4l2" {
		// A device that stopped delivering would block in the kernel, where no interrupt callback is asked.
		fc.SetFlags(fc.Flags().Add(astiav.FormatContextFlagNonblock))
		d.polls = true
	}
	if err := fc.OpenInput(in.name, format, dict); err != nil {
		if errors.Is(err, astiav.Error(-int(syscall.EINVAL))) {
			return errors.New("not a format that a source of this kind may have")
		}
		return err // OpenInput freed fc
	}
	d.fc = fc
	if !d.polls { // a device has told everything already
		if err := fc.FindStreamInfo(nil); err != nil {
			return err
		}
	}
	name := fc.InputFormat().Name()
	if fc.Duration() <= 0 && (d.url.Scheme() == ingest.HTTPScheme || d.url.Scheme() == ingest.HTTPSScheme) {
		d.live = true
	}
	// Motion JPEG carries no times: FFmpeg makes them up from a rate of 25.
	d.byArrival = d.live && strings.Contains(name, "jpeg")
	return nil
}

func (d *Decoder) openDecoder() error {
	st, codec, err := d.fc.FindBestStream(astiav.MediaTypeVideo, -1, -1)
	switch {
	case errors.Is(err, astiav.ErrStreamNotFound):
		return errors.New("no video track")
	case errors.Is(err, astiav.ErrDecoderNotFound):
		return d.unsupported()
	case err != nil:
		return err
	case st.DispositionFlags().Has(astiav.DispositionFlagAttachedPic):
		return errors.New("no video track, only a cover picture")
	}
	par := st.CodecParameters()
	if !allowed(codec.Name()) {
		return d.unsupported()
	}
	// Zero is no error here: some streams tell their size only with the first picture.
	if w, h := par.Width(), par.Height(); w < 0 || h < 0 || int64(w)*int64(h) > int64(d.o.MaxPixels) {
		return fmt.Errorf("pictures of %dx%d are larger than the limit of %d pixels", w, h, d.o.MaxPixels)
	}
	for _, s := range d.fc.Streams() {
		if s.Index() != st.Index() {
			s.SetDiscard(astiav.DiscardAll)
		}
	}
	cc := astiav.AllocCodecContext(codec)
	if cc == nil {
		return errors.New("out of memory")
	}
	d.cc = cc
	if err := cc.FromCodecParameters(par); err != nil {
		return err
	}
	// One thread keeps up with every camera up to full HD and adds no delay; only beyond that is the delay worth it.
	cc.SetThreadCount(1)
	if par.Width()*par.Height() > 1920*1088 {
		cc.SetThreadCount(4)
	}
	dict := astiav.NewDictionary()
	defer dict.Free()
	if err := dict.Set("max_pixels", strconv.Itoa(d.o.MaxPixels), 0); err != nil {
		return err
	}
	if err := cc.Open(codec, dict); err != nil {
		return fmt.Errorf("open the %s decoder: %w", codec.Name(), err)
	}
	d.stream, d.timeBase = st.Index(), st.TimeBase()
	d.pkt, d.frame = astiav.AllocPacket(), astiav.AllocFrame()
	d.clock = clock{live: d.live, step: 40 * time.Millisecond}
	if r := st.AvgFrameRate(); r.Num() > 0 && r.Den() > 0 {
		d.clock.step = time.Duration(float64(time.Second) * float64(r.Den()) / float64(r.Num()))
	}
	d.sampler = newSampler(d.o.FPS)
	d.gate = keyGate{every: d.sampler.every, intra: par.CodecID() == astiav.CodecIDMjpeg || par.CodecID() == astiav.CodecIDRawvideo}
	return nil
}

// unsupported names the codec of the first video track that has one.
func (d *Decoder) unsupported() error {
	for _, s := range d.fc.Streams() {
		if p := s.CodecParameters(); p.MediaType() == astiav.MediaTypeVideo {
			return fmt.Errorf("video codec %s is not supported", p.CodecID().Name())
		}
	}
	return errors.New("video codec is not supported")
}

func allowed(codec string) bool {
	for c := range strings.SplitSeq(videoCodecs, ",") {
		if c == codec {
			return true
		}
	}
	return false
}

// explain turns FFmpeg's terse codes into words, and makes sure that no credential is in them.
func explain(u ingest.URL, err error) error {
	var code astiav.Error
	switch {
	case errors.Is(err, astiav.ErrHttpUnauthorized), errors.Is(err, astiav.ErrHttpForbidden):
		return ingest.ErrCredentials
	case errors.Is(err, astiav.ErrInvaliddata):
		return errors.New("not a video that can be read, or damaged")
	case errors.As(err, &code) && code == astiav.ErrExit:
		return context.Canceled
	}
	// Wrapped errors keep their identity; only a text that holds a credential is replaced.
	if text := err.Error(); u.Redact(text) != text && !errors.Is(err, fs.ErrNotExist) {
		return errors.New(u.Redact(text))
	}
	return err
}
