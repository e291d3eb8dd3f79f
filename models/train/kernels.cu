// Two kernels in C that NVRTC and gcc both take: `render` draws display lists as the Go renderer of ingest/simcam does (then sampled at the
// model's 256x128), and `flash` runs the flash memory strategy over whole streams, one block a stream. Under gcc (EMULATE) a
// block is an OpenMP team with real barriers, so that the same source is tested where there is no GPU.

#ifdef EMULATE
#include <math.h>
#include <string.h>
#include <omp.h>
typedef struct { int x, y, z; } dim3e;
static dim3e blockIdx, blockDim, gridDim;
#define threadIdx_x omp_get_thread_num()
#define __global__
#define __device__
#define __shared__ static
#define __restrict__
#define SYNC() _Pragma("omp barrier")
#define ATOMIC_OR(p, v) __sync_fetch_and_or(p, v)
#define FFS(v) __builtin_ffs(v)
#define RSQRT(v) (1.0f / sqrtf(v))
#define EXTERN
#else
#define threadIdx_x ((int)threadIdx.x)
#define SYNC() __syncthreads()
#define ATOMIC_OR(p, v) atomicOr(p, v)
#define FFS(v) __ffs((int)(v))
#define EXTERN extern "C"
#endif

#define SCENE_W 640.0f
#define SCENE_H 360.0f
#define OUT_W 256
#define OUT_H 128
#define PX (SCENE_W / OUT_W)
#define PY (SCENE_H / OUT_H)
#define TILE_W 32
#define TILE_H 8
#define EDGE 1.3f      // width of an edge at 2x2 samples a pixel, scene units
#define WORDS 32       // 1024 prims a frame at most
#define STREAK_WORDS 8 // 256 streaks a frame at most

static __device__ unsigned hash3(unsigned a, unsigned b, unsigned c) {
    unsigned h = a * 0x9E3779B1u ^ (b + 0x7F4A7C15u) * 0x85EBCA77u ^ (c + 0x165667B1u) * 0xC2B2AE3Du;
    h ^= h >> 16; h *= 0x7FEB352Du; h ^= h >> 15; h *= 0x846CA68Bu; h ^= h >> 16;
    return h;
}
static __device__ float unit(unsigned h) { return (float)(h >> 8) * (1.0f / 16777216.0f); }

// Signed distance in scene units from (x, y), relative to the centre and unrotated, to the outline of a shape.
static __device__ float distance_to(int shape, float x, float y, float hx, float hy, float r) {
    if (shape == 1) {
        float u = x / hx, v = y / hy;
        return (sqrtf(u * u + v * v) - 1.0f) * fminf(hx, hy);
    }
    if (shape == 2) {
        return fmaxf(y - hy, (fabsf(x) * 2.0f * hy - hx * (y + hy)) / sqrtf(4.0f * hy * hy + hx * hx));
    }
    float qx = fabsf(x) - hx + r, qy = fabsf(y) - hy + r;
    float ox = fmaxf(qx, 0.0f), oy = fmaxf(qy, 0.0f);
    return sqrtf(ox * ox + oy * oy) + fminf(fmaxf(qx, qy), 0.0f) - r;
}

static __device__ void over(float *c, float k, float r, float g, float b) {
    c[0] += (r - c[0]) * k; c[1] += (g - c[1]) * k; c[2] += (b - c[2]) * k;
}

// A prim over the four samples of a pixel whose centre is (x, y).
static __device__ void paint(float (*c)[3], const float *p, float x, float y) {
    float w = fmaxf(EDGE, p[13]), inv = 1.0f / w;
    int shape = (int)p[0];
    for (int s = 0; s < 4; s++) {
        float dx = x + ((s & 1) ? 0.25f : -0.25f) * PX - p[1], dy = y + ((s & 2) ? 0.25f : -0.25f) * PY - p[2];
        float cov = 0.5f - distance_to(shape, dx * p[5] + dy * p[6], dy * p[5] - dx * p[6], p[3], p[4], p[7]) * inv;
        if (cov > 0.0f) over(c[s], fminf(cov, 1.0f) * p[11], p[8], p[9], p[10]);
    }
}

// Streak i of a frame as a prim: rain falls leaning, snow is round.
static __device__ void streak(float *p, unsigned seed, int i, float length, int snow) {
    p[0] = snow ? 1.0f : 0.0f;
    p[1] = unit(hash3(seed, i, 1)) * SCENE_W; p[2] = unit(hash3(seed, i, 2)) * SCENE_H;
    p[3] = snow ? 1.6f : 0.6f; p[4] = snow ? 1.6f : 0.5f * length;
    p[5] = snow ? 1.0f : 0.98877108f; p[6] = snow ? 0.0f : 0.14943813f;
    p[7] = 0.0f; p[8] = p[9] = p[10] = 0.8f; p[11] = 0.35f; p[12] = 0.0f; p[13] = 0.0f;
}

static __device__ int touches(const float *p, float x0, float x1, float y0, float y1) {
    float c = fabsf(p[5]), s = fabsf(p[6]), e = 0.5f * fmaxf(EDGE, p[13]);
    float ex = p[3] * c + p[4] * s + e, ey = p[3] * s + p[4] * c + e;
    // a soft ellipse's distance is scaled by its short side, so along the long side its edge reaches further
    if (p[0] == 1.0f) {
        float m = fminf(p[3], p[4]);
        ex += e * (p[3] / m - 1.0f); ey += e * (p[4] / m - 1.0f);
    }
    return p[11] > 0.0f && p[1] + ex > x0 && p[1] - ex < x1 && p[2] + ey > y0 && p[2] - ey < y1;
}

// prims [N][16] and frames [F][24] as the feeder writes them; meta [F][4]: static offset and count, dynamic offset and count, into prims;
// aug [F][8]: gain r, g, b, offset, contrast, noise scale, seed, 0. out [F][3][OUT_H][OUT_W], 0..1.
EXTERN __global__ void render(const float *__restrict__ prims, const float *__restrict__ frames, const int *__restrict__ meta,
                              const float *__restrict__ aug, float *__restrict__ out) {
    __shared__ unsigned mask[2][WORDS];
    __shared__ unsigned wet[STREAK_WORDS];
    int tid = threadIdx_x, f = blockIdx.y;
    int tx = (blockIdx.x % (OUT_W / TILE_W)) * TILE_W, ty = (blockIdx.x / (OUT_W / TILE_W)) * TILE_H;
    float x0 = tx * PX, x1 = (tx + TILE_W) * PX, y0 = ty * PY, y1 = (ty + TILE_H) * PY;
    const float *fr = frames + 24 * f, *au = aug + 8 * f;
    int so = meta[4 * f], sn = meta[4 * f + 1], dof = meta[4 * f + 2], dn = meta[4 * f + 3];
    int n = sn + dn, words, rain = (int)fr[11];
    unsigned rseed = hash3((unsigned)(int)fr[13], (unsigned)(int)au[6], 77u);
    if (n > 32 * WORDS) n = 32 * WORDS;
    if (rain > 32 * STREAK_WORDS) rain = 32 * STREAK_WORDS;
    words = (n + 31) >> 5;
    for (int i = tid; i < 2 * WORDS + STREAK_WORDS; i += blockDim.x) {
        if (i < 2 * WORDS) mask[i / WORDS][i % WORDS] = 0u; else wet[i - 2 * WORDS] = 0u;
    }
    SYNC();
    for (int i = tid; i < n; i += blockDim.x) {
        const float *p = prims + 16 * (i < sn ? so + i : dof + i - sn);
        if (touches(p, x0, x1, y0, y1)) ATOMIC_OR(&mask[p[12] > 0.5f ? 1 : 0][i >> 5], 1u << (i & 31));
    }
    for (int i = tid; i < rain; i += blockDim.x) {
        float p[16];
        streak(p, rseed, i, fr[12], fr[14] > 0.5f);
        if (touches(p, x0, x1, y0, y1)) ATOMIC_OR(&wet[i >> 5], 1u << (i & 31));
    }
    SYNC();
    for (int q = tid; q < TILE_W * TILE_H; q += blockDim.x) {
        int xi = tx + q % TILE_W, yi = ty + q / TILE_W;
        float x = (xi + 0.5f) * PX, y = (yi + 0.5f) * PY;
        float c[4][3];
        for (int s = 0; s < 4; s++) c[s][0] = c[s][1] = c[s][2] = 0.0f;
        for (int w = 0; w < words; w++) {
            for (unsigned m = mask[0][w]; m; m &= m - 1) {
                int i = 32 * w + FFS(m) - 1;
                paint(c, prims + 16 * (i < sn ? so + i : dof + i - sn), x, y);
            }
        }
        for (int s = 0; s < 4; s++) {
            for (int k = 0; k < 3; k++) {
                float v = c[s][k] * fr[3 + k] * (1.0f - fr[6]) + fr[7 + k] * fr[6];
                c[s][k] = fminf(fmaxf(v, 0.0f), 1.0f);
            }
        }
        for (int w = 0; w < words; w++) {
            for (unsigned m = mask[1][w]; m; m &= m - 1) {
                int i = 32 * w + FFS(m) - 1;
                paint(c, prims + 16 * (i < sn ? so + i : dof + i - sn), x, y);
            }
        }
        for (int w = 0; 32 * w < rain; w++) {
            for (unsigned m = wet[w]; m; m &= m - 1) {
                float p[16];
                streak(p, rseed, 32 * w + FFS(m) - 1, fr[12], fr[14] > 0.5f);
                paint(c, p, x, y);
            }
        }
        // camera noise of the full picture, averaged over a model pixel
        float sigma = fr[10] * au[5];
        for (int k = 0; k < 3; k++) {
            float v = 0.25f * (c[0][k] + c[1][k] + c[2][k] + c[3][k]);
            if (sigma > 0.0f) {
                unsigned h = hash3((unsigned)(int)au[6], (unsigned)(yi * OUT_W + xi), (unsigned)(k + 5 + 16 * (f & 0xffff)));
                float u = unit(h) + 1.0f / 33554432.0f, a = unit(h * 0x2C1B3C6Du + 0x297A2D39u);
                v += sigma * sqrtf(-2.0f * logf(u)) * cosf(6.2831853f * a);
            }
            v = (v * au[k] + au[3] - 0.5f) * au[4] + 0.5f;
            out[(((long long)f * 3 + k) * OUT_H + yi) * OUT_W + xi] = fminf(fmaxf(v, 0.0f), 1.0f);
        }
    }
}

#define KMAX 1024
#define FLASH_THREADS 512

// Sums v[0..3] over the block; every thread gets the sums. Ends with the block in step.
static __device__ void block_sum4(float *v, float (*red)[FLASH_THREADS]) {
    int tid = threadIdx_x;
#ifdef EMULATE
    for (int k = 0; k < 4; k++) red[k][tid] = v[k];
    SYNC();
    for (int k = 0; k < 4; k++) {
        float s = 0.0f;
        for (int i = 0; i < blockDim.x; i++) s += red[k][i];
        v[k] = s;
    }
    SYNC();
#else
    int lane = tid & 31, warp = tid >> 5, warps = blockDim.x >> 5;
    for (int k = 0; k < 4; k++) {
        float s = v[k];
        for (int d = 16; d; d >>= 1) s += __shfl_xor_sync(0xffffffffu, s, d);
        if (lane == 0) red[k][warp] = s;
    }
    __syncthreads();
    for (int k = 0; k < 4; k++) {
        float s = 0.0f;
        for (int i = 0; i < warps; i++) s += red[k][i];
        v[k] = s;
    }
    __syncthreads();
#endif
}

// The `flash` strategy over whole streams. syn [F][dim] fp32: the synopsis rows of every frame, `rows` of them; costs compare their means; clips [C][5]: first frame, frames, synopsis
// size K <= most <= KMAX, first snapshot, snapshots; snaps [S]: frame within the clip after whose adding the snapshot is taken, ascending in a
// clip; scratch [C][most+1][dim]. out_n [S] clusters; out_i [S][most][4]: first frame, frames, exemplar, 0 (frames within the clip);
// out_c [S][most][dim]: centroids, if they are wanted.
EXTERN __global__ void flash(const float *__restrict__ syn, const int *__restrict__ clips, const int *__restrict__ snaps,
                             float *scratch, int *out_n, int *out_i, float *out_c, int dim, int rows, int most, int wanted) {
    __shared__ float red[4][FLASH_THREADS];
    __shared__ float cost[KMAX + 1], weight[KMAX + 1];
    __shared__ int order[KMAX + 2], first[KMAX + 1], ex[KMAX + 1], spare;
    int tid = threadIdx_x, nt = blockDim.x, cols = dim / rows;
    const int *cl = clips + 5 * blockIdx.x;
    int base = cl[0], count = cl[1], K = cl[2], sbase = cl[3], scount = cl[4];
    float *C = scratch + (long long)blockIdx.x * (most + 1) * dim;
    int n = 0, next = 0;
    for (int t = 0; t < count && next < scount; t++) {
        const float *row = syn + (long long)(base + t) * dim;
        int slot = t <= K ? t : spare, prev = n > 0 ? order[n - 1] : -1;
        float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int j = tid; j < cols; j += nt) { // a column of all rows, whose mean is what a pair's cost compares
            float d = 0.0f;
            for (int k = j; k < dim; k += cols) {
                float x = row[k];
                C[(long long)slot * dim + k] = x;
                if (prev >= 0) d += C[(long long)prev * dim + k] - x;
            }
            v[0] += d * d;
        }
        block_sum4(v, red);
        if (tid == 0) {
            weight[slot] = 1.0f; first[slot] = t; ex[slot] = t; order[n] = slot;
            if (prev >= 0) cost[n - 1] = weight[prev] / (weight[prev] + 1.0f) * v[0];
        }
        n++;
        SYNC();
        if (n > K) {
            int i = 0;
            float best = cost[0];
            for (int k = 1; k < n - 1; k++) {
                if (cost[k] < best) { best = cost[k]; i = k; }
            }
            int a = order[i], b = order[i + 1], l = i > 0 ? order[i - 1] : -1, r = i + 2 < n ? order[i + 2] : -1;
            float wa = weight[a], wb = weight[b], w = wa + wb;
            const float *xa = syn + (long long)(base + ex[a]) * dim, *xb = syn + (long long)(base + ex[b]) * dim;
            v[0] = v[1] = v[2] = v[3] = 0.0f;
            for (int j = tid; j < cols; j += nt) {
                float gl = 0.0f, gr = 0.0f, d;
                for (int k = j; k < dim; k += cols) {
                    float c = (wa * C[(long long)a * dim + k] + wb * C[(long long)b * dim + k]) / w;
                    C[(long long)a * dim + k] = c;
                    if (l >= 0) gl += C[(long long)l * dim + k] - c;
                    if (r >= 0) gr += C[(long long)r * dim + k] - c;
                    d = xa[k] - c; v[2] += d * d;
                    d = xb[k] - c; v[3] += d * d;
                }
                v[0] += gl * gl;
                v[1] += gr * gr;
            }
            block_sum4(v, red);
            if (tid == 0) {
                weight[a] = w;
                if (v[3] < v[2] * (1.0f - 1e-5f)) ex[a] = ex[b]; // the mean of two is equally far from both: the earlier
                if (l >= 0) cost[i - 1] = weight[l] * w / (weight[l] + w) * v[0];
                spare = b;
            }
            SYNC();
            for (int k = i + 1; k + 1 < n; k += nt) { // close the gap
                int j = k + tid, in = j + 1 < n, o = in ? order[j + 1] : 0;
                float c = in ? cost[j + 1] : 0.0f;
                SYNC();
                if (in) { order[j] = o; cost[j] = c; }
                SYNC();
            }
            if (tid == 0 && r >= 0) cost[i] = weight[r] * w / (weight[r] + w) * v[1];
            n--;
            SYNC();
        }
        while (next < scount && snaps[sbase + next] == t) {
            long long s = sbase + next;
            if (tid == 0) out_n[s] = n;
            for (int k = tid; k < n; k += nt) {
                int *o = out_i + (s * most + k) * 4, c = order[k];
                o[0] = first[c]; o[1] = (int)weight[c]; o[2] = ex[c]; o[3] = 0;
            }
            for (int k = 0; k < n && wanted; k++) {
                for (int j = tid; j < dim; j += nt) out_c[(s * most + k) * dim + j] = C[(long long)order[k] * dim + j];
            }
            next++;
        }
        SYNC();
    }
}

#ifdef EMULATE
void render_all(const float *prims, const float *frames, const int *meta, const float *aug, float *out, int n, int threads) {
    blockDim.x = threads;
    for (int f = 0; f < n; f++) {
        for (int b = 0; b < (OUT_W / TILE_W) * (OUT_H / TILE_H); b++) {
            blockIdx.x = b; blockIdx.y = f;
#pragma omp parallel num_threads(threads)
            render(prims, frames, meta, aug, out);
        }
    }
}
void flash_all(const float *syn, const int *clips, const int *snaps, float *scratch, int *out_n, int *out_i, float *out_c, int dim,
               int rows, int most, int wanted, int n, int threads) {
    blockDim.x = threads;
    for (int b = 0; b < n; b++) {
        blockIdx.x = b;
#pragma omp parallel num_threads(threads)
        flash(syn, clips, snaps, scratch, out_n, out_i, out_c, dim, rows, most, wanted);
    }
}
#endif
