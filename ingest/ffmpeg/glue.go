package ffmpeg

// The few fields and calls that go-astiav does not reach, each a one-liner, and the colour conversion.

/*
#cgo pkg-config: libavcodec libavutil libswscale
#include <errno.h>
#include <string.h>
#include <libavcodec/avcodec.h>
#include <libavutil/frame.h>
#include <libavutil/imgutils.h>
#include <libavutil/mem.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

static void ai_skip_frame(void *ctx, int nonref) {
	((AVCodecContext *)ctx)->skip_frame = nonref ? AVDISCARD_NONREF : AVDISCARD_DEFAULT;
}

static void ai_flush(void *ctx) { avcodec_flush_buffers((AVCodecContext *)ctx); }

// No single buffer (a plane of a picture, a packet) may be larger than this; it bounds what a hostile header can ask for before
// the decoder's own max_pixels is in force.
static void ai_max_alloc(size_t bytes) { av_max_alloc(bytes); }

static int64_t ai_best_effort_pts(const void *frame) { return ((const AVFrame *)frame)->best_effort_timestamp; }

// Copies the nine numbers of the frame's display matrix, if it has one.
static int ai_display_matrix(const void *frame, int32_t *m) {
	const AVFrameSideData *sd = av_frame_get_side_data((const AVFrame *)frame, AV_FRAME_DATA_DISPLAYMATRIX);
	if (!sd || sd->size < 9 * sizeof(int32_t)) return 0;
	memcpy(m, sd->data, 9 * sizeof(int32_t));
	return 1;
}

typedef struct {
	struct SwsContext *sws;
	int sw, sh, fmt, cs, full, dw, dh;
	uint8_t *buf; // RGB24, stride bytes a row: swscale may write a little past a row's end, so this is not Go's memory
	int stride;
} ai_scaler;

static void ai_scaler_free(ai_scaler *s) {
	sws_freeContext(s->sws);
	av_freep(&s->buf);
	memset(s, 0, sizeof *s);
}

static int ai_unj(int fmt, int *full) {
	switch (fmt) { // the "full range" twins are deprecated in favour of the frame's own range
	case AV_PIX_FMT_YUVJ420P: *full = 1; return AV_PIX_FMT_YUV420P;
	case AV_PIX_FMT_YUVJ422P: *full = 1; return AV_PIX_FMT_YUV422P;
	case AV_PIX_FMT_YUVJ444P: *full = 1; return AV_PIX_FMT_YUV444P;
	case AV_PIX_FMT_YUVJ440P: *full = 1; return AV_PIX_FMT_YUV440P;
	case AV_PIX_FMT_YUVJ411P: *full = 1; return AV_PIX_FMT_YUV411P;
	}
	return fmt;
}

// Converts a frame of any format and size to RGB24 of dw x dh in s->buf.
static int ai_to_rgb(ai_scaler *s, const void *frame, int dw, int dh) {
	const AVFrame *f = frame;
	int full = f->color_range == AVCOL_RANGE_JPEG;
	int fmt = ai_unj(f->format, &full);
	// Streams that do not say follow the custom: BT.709 from 720 lines up, BT.601 below.
	int cs = f->colorspace;
	if (cs == AVCOL_SPC_UNSPECIFIED || cs == AVCOL_SPC_RGB || cs == AVCOL_SPC_RESERVED)
		cs = f->height >= 720 ? SWS_CS_ITU709 : SWS_CS_ITU601;
	if (!s->sws || s->sw != f->width || s->sh != f->height || s->fmt != fmt || s->cs != cs || s->full != full || s->dw != dw || s->dh != dh) {
		ai_scaler_free(s);
		if (!sws_isSupportedInput(fmt)) return AVERROR(ENOSYS);
		// Area averaging when shrinking; at equal size this takes the fast unscaled path.
		s->sws = sws_getContext(f->width, f->height, fmt, dw, dh, AV_PIX_FMT_RGB24, SWS_AREA | SWS_ACCURATE_RND, NULL, NULL, NULL);
		if (!s->sws) return AVERROR(EINVAL);
		// Returns -1 for formats that are RGB already: nothing to set then.
		sws_setColorspaceDetails(s->sws, sws_getCoefficients(cs), full, sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
		s->stride = FFALIGN(dw * 3, 64) + 64;
		s->buf = av_malloc((size_t)s->stride * (dh + 1));
		if (!s->buf) return AVERROR(ENOMEM);
		s->sw = f->width, s->sh = f->height, s->fmt = fmt, s->cs = cs, s->full = full, s->dw = dw, s->dh = dh;
	}
	uint8_t *dst[4] = {s->buf};
	int strides[4] = {s->stride};
	int n = sws_scale(s->sws, (const uint8_t *const *)f->data, f->linesize, 0, f->height, dst, strides);
	return n < 0 ? n : 0;
}

// Copies s->buf to dst (pw x ph, packed), walking the source from offset with the two steps, all in pixels and rows of s->buf:
// dst(x,y) = src(x0 + x*xx + y*xy, y0 + x*yx + y*yy). That covers the eight orientations.
static void ai_place(const ai_scaler *s, uint8_t *dst, int pw, int ph, int x0, int y0, int xx, int xy, int yx, int yy) {
	if (xx == 1 && yy == 1) {
		for (int y = 0; y < ph; y++) memcpy(dst + (size_t)y * pw * 3, s->buf + (size_t)y * s->stride, (size_t)pw * 3);
		return;
	}
	for (int y = 0; y < ph; y++)
		for (int x = 0; x < pw; x++) {
			const uint8_t *p = s->buf + (ptrdiff_t)(y0 + x * yx + y * yy) * s->stride + (ptrdiff_t)(x0 + x * xx + y * xy) * 3;
			*dst++ = p[0], *dst++ = p[1], *dst++ = p[2];
		}
}

// Fills a YUV420P frame from packed RGB24 of the same size (BT.601, limited range).
static int ai_from_rgb(struct SwsContext **sws, void *frame, const uint8_t *rgb) {
	AVFrame *f = frame;
	*sws = sws_getCachedContext(*sws, f->width, f->height, AV_PIX_FMT_RGB24, f->width, f->height, f->format, SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP, NULL, NULL, NULL);
	if (!*sws) return AVERROR(EINVAL);
	const uint8_t *src[4] = {rgb};
	int strides[4] = {3 * f->width};
	int n = sws_scale(*sws, src, strides, 0, f->height, f->data, f->linesize);
	return n < 0 ? n : 0;
}
*/
import "C"

import (
	"unsafe"

	"github.com/asticode/go-astiav"
)

func setSkipNonRef(cc *astiav.CodecContext, skip bool) {
	n := C.int(0)
	if skip {
		n = 1
	}
	C.ai_skip_frame(cc.UnsafePointer(), n)
}

func flushDecoder(cc *astiav.CodecContext) { C.ai_flush(cc.UnsafePointer()) }

func limitAllocations(bytes int) { C.ai_max_alloc(C.size_t(bytes)) }

func bestEffortPTS(f *astiav.Frame) int64 { return int64(C.ai_best_effort_pts(f.UnsafePointer())) }

func displayMatrix(f *astiav.Frame) (m [9]int32, ok bool) {
	ok = C.ai_display_matrix(f.UnsafePointer(), (*C.int32_t)(unsafe.Pointer(&m[0]))) != 0
	return m, ok
}

func avError(code C.int) error {
	if code >= 0 {
		return nil
	}
	return astiav.Error(code)
}

// A scaler turns frames into RGB24 and keeps what can be reused between frames of one kind.
type scaler struct{ c C.ai_scaler }

// rgb converts f to w x h, turned as o says; w and h are the size before turning. The result is fresh memory.
func (s *scaler) rgb(f *astiav.Frame, w, h int, o orientation) (pix []byte, pw, ph int, err error) {
	if err := avError(C.ai_to_rgb(&s.c, f.UnsafePointer(), C.int(w), C.int(h))); err != nil {
		return nil, 0, 0, err
	}
	pw, ph = o.size(w, h)
	pix = make([]byte, 3*pw*ph)
	x0, y0 := o.origin(w, h)
	C.ai_place(&s.c, (*C.uint8_t)(unsafe.Pointer(&pix[0])), C.int(pw), C.int(ph), C.int(x0), C.int(y0),
		C.int(o.xx), C.int(o.xy), C.int(o.yx), C.int(o.yy))
	return pix, pw, ph, nil
}

func (s *scaler) free() { C.ai_scaler_free(&s.c) }

// A converter turns packed RGB24 into the planes of an encoder's frame.
type converter struct{ sws *C.struct_SwsContext }

func (c *converter) fill(f *astiav.Frame, rgb []byte) error {
	return avError(C.ai_from_rgb(&c.sws, f.UnsafePointer(), (*C.uint8_t)(unsafe.Pointer(&rgb[0]))))
}

func (c *converter) free() {
	C.sws_freeContext(c.sws)
	c.sws = nil
}
