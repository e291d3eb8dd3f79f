// The C side of the package. Go checks shapes and memory; C computes. Every function returns 0, or AF_NOMEM where scratch memory
// could not be had. Nothing here keeps a pointer that it was given, but for af_view memory and weights that C itself owns.
#ifndef AF_DEVICE_H
#define AF_DEVICE_H

#include <stddef.h>
#include <stdint.h>

enum { AF_OK = 0, AF_NOMEM = 1 };

// What the machine can do, and what a device was opened to use.
enum {
  AF_AVX2 = 1,       // with FMA
  AF_AVX512 = 2,     // F, BW, DQ, VL
  AF_BF16 = 4,       // AVX512-BF16
  AF_VNNI = 8,       // AVX512-VNNI
  AF_AMX = 16,       // tiles, bf16 and int8, and the kernel's permission to use them
  AF_AMX_MODEL = 32, // AMX's packing and order of sums with its instructions modelled in C: for tests on any machine
};

enum { AF_F32 = 0, AF_DT_BF16 = 1, AF_I8 = 2, AF_I4 = 3 }; // compute.DType
enum { AF_IDENTITY = 0, AF_GELU = 1, AF_GELU_TANH = 2, AF_QUICK_GELU = 3 }; // compute.Activation

typedef struct af_device af_device;
typedef struct af_weight af_weight;

// A matrix in memory: rows x cols, rows stride floats apart. p is NULL for "none".
typedef struct {
  float *p;
  int rows, cols;
  ptrdiff_t stride;
} af_view;

typedef struct {
  int heads, kv_heads, head_dim;
  int past, causal, segment, rounded;
  float scale;
} af_attention_args;

int af_detect(void);
af_device *af_open(int threads, int features);
void af_close(af_device *d);

void *af_map(size_t bytes); // zeroed, 64-byte aligned; NULL when there is none
void af_unmap(void *p, size_t bytes);

af_weight *af_weight_new(af_device *d, const float *w, int out, int in, int dtype);
void af_weight_free(af_weight *w);

void af_copy(float *dst, ptrdiff_t ldd, const float *src, ptrdiff_t lds, int rows, int cols);
void af_embed(af_device *d, af_view dst, const af_weight *table, const int32_t *ids);
int af_linear(af_device *d, af_view dst, af_view x, const af_weight *w, const float *bias, int act, const float *gain, af_view residual);
void af_rmsnorm(af_device *d, af_view dst, af_view x, const float *w, float eps);
void af_layernorm(af_device *d, af_view dst, af_view x, const float *w, const float *b, float eps);
int af_rope(af_device *d, af_view x, int head_dim, const int32_t *pos, const float *freq);
void af_rotate(af_device *d, af_view x, af_view table, int head_dim);
int af_attention(af_device *d, af_view dst, af_view q, af_view k, af_view v, af_attention_args a, const int32_t *pages);
// n ranges of keys: see compute.Sharer.
int af_shares(af_device *d, float *dst, const float *q, af_view k, int heads, int kv_heads, int head_dim, int past, float scale, const int32_t *pages,
              const int32_t *bounds, int n);
void af_swiglu(af_device *d, af_view dst, af_view gate_up);
void af_add(af_device *d, af_view dst, af_view x);
uint64_t af_read(af_device *d, const void *p, size_t bytes); // reads all of it once, for timing
void af_avgpool(af_device *d, af_view dst, af_view x, int grid_h, int grid_w, int kh, int kw);

// Pictures are RGB24 without gaps. One side of n pixels is made from another by compute.Taps: first [n], count [n], weight [n][size].
int af_resize_across(af_device *d, uint8_t *dst, const uint8_t *src, int src_w, int h, const int32_t *first, const int32_t *count,
                     const int32_t *weight, int n, int size);
int af_resize_down(af_device *d, uint8_t *dst, const uint8_t *src, int w, const int32_t *first, const int32_t *count, const int32_t *weight,
                   int n, int size);
// The values of table [3][256] for a picture's bytes: those of patch y, x go to row down[y] + across[x] of dst, channels stride
// floats apart.
void af_patches(af_device *d, af_view dst, const uint8_t *src, int w, int h, int patch, int stride, const int32_t *down,
                const int32_t *across, const float *table);
// A picture's averages over w by h by compute.Refine, times scale and plus shift, likewise.
int af_patches_area(af_device *d, af_view dst, const uint8_t *src, int src_w, int w, int h, uint64_t unit_x, uint64_t total_x, uint64_t unit_y,
                    uint64_t total_y, int patch, int stride, const int32_t *down, const int32_t *across, const double *scale,
                    const double *shift);

#endif
