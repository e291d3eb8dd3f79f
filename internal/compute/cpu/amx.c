// Products of rounded activations on AMX tiles. A tile is 16 rows of 64 bytes; a block is 32 x 32 sums in four of them, and a
// step multiplies two tiles of activations with two of weights. The panel's own layout is the tiles': 16 rows of 4-byte
// groups, 32 outputs wide, so the two weight tiles of a step are its left and its right half, 128 bytes between rows.
// model.c does the same in C; keep them alike.
#ifdef __x86_64__
#define _GNU_SOURCE
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels.h"

#define TARGET __attribute__((target("amx-tile,amx-bf16,amx-int8")))

int af_amx_permit(void) {
  enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
  return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
}

TARGET void af_amx_begin(void) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } __attribute__((aligned(64))) config = {.palette = 1};
  for (int t = 0; t < 8; t++) {
    config.row_bytes[t] = 64;
    config.rows[t] = 16;
  }
  // Not _tile_loadconfig: gcc 12 declares that it reads 8 bytes only, and drops the stores to the other 56.
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

TARGET void af_amx_end(void) { _tile_release(); }

// Tiles 0-3 are the sums (top left, top right, bottom left, bottom right), 4 and 5 activations, 6 and 7 weights.
#define BLOCK(PRODUCT)                                                    \
  const uint8_t *top = a, *bottom = a + (ptrdiff_t)steps * 1024, *w = b;  \
  uint8_t *out = c;                                                       \
  _tile_zero(0);                                                          \
  _tile_zero(1);                                                          \
  if (rows > 16) {                                                        \
    _tile_zero(2);                                                        \
    _tile_zero(3);                                                        \
    for (int s = 0; s < steps; s++, top += 1024, bottom += 1024, w += 2048) { \
      _tile_loadd(4, top, 64);                                            \
      _tile_loadd(6, w, 128);                                             \
      _tile_loadd(7, w + 64, 128);                                        \
      _tile_loadd(5, bottom, 64);                                         \
      PRODUCT(0, 4, 6);                                                   \
      PRODUCT(1, 4, 7);                                                   \
      PRODUCT(2, 5, 6);                                                   \
      PRODUCT(3, 5, 7);                                                   \
    }                                                                     \
    _tile_stored(2, out + 16 * 128, 128);                                 \
    _tile_stored(3, out + 16 * 128 + 64, 128);                            \
  } else {                                                                \
    for (int s = 0; s < steps; s++, top += 1024, w += 2048) {             \
      _tile_loadd(4, top, 64);                                            \
      _tile_loadd(6, w, 128);                                             \
      _tile_loadd(7, w + 64, 128);                                        \
      PRODUCT(0, 4, 6);                                                   \
      PRODUCT(1, 4, 7);                                                   \
    }                                                                     \
  }                                                                       \
  _tile_stored(0, out, 128);                                              \
  _tile_stored(1, out + 64, 128);

TARGET void af_block_bf16(int rows, int steps, const uint8_t *a, const void *b, void *c) { BLOCK(_tile_dpbf16ps) }

TARGET void af_block_u8(int rows, int steps, const uint8_t *a, const void *b, void *c) { BLOCK(_tile_dpbusd) }
#endif
