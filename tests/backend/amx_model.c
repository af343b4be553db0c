/* isa_amx.c on a model of AMX's tile instructions in plain C, as Intel's manual defines them: the order of sums, and
 * that numbers below the normal ones are zeros, included. isa_amx_model runs everywhere. */
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { TILES = 8, TILE_SIDE = 16 };

static _Thread_local struct {
  bool configured;
  uint32_t word[TILES][TILE_SIDE][TILE_SIDE];
} amx;

static float word_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return fabsf(f) < FLT_MIN ? copysignf(0, f) : f;
}

static uint32_t float_word(float f) {
  uint32_t bits;
  f = fabsf(f) < FLT_MIN ? copysignf(0, f) : f;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

/* Only what this source asks for: eight tiles of 16 rows of 64 bytes. A tile that is not configured reads as NaNs. */
static void _tile_loadconfig(const void *config) {
  const unsigned char *at = config;
  amx.configured = at[0] == 1;
  for (int i = 0; i < TILES; i++)
    amx.configured &= at[16 + 2 * i] == 64 && at[17 + 2 * i] == 0 && at[48 + i] == TILE_SIDE;
}

static void _tile_release(void) {
  memset(&amx, 0xff, sizeof amx);
  amx.configured = false;
}

static void _tile_zero(int tile) {
  memset(amx.word[tile], amx.configured ? 0 : 0xff, sizeof amx.word[tile]);
}

static void _tile_loadd(int tile, const void *base, int64_t stride) {
  for (int r = 0; r < TILE_SIDE; r++)
    memcpy(amx.word[tile][r], (const char *)base + r * stride, sizeof amx.word[tile][r]);
}

static void _tile_stored(int tile, void *base, int64_t stride) {
  for (int r = 0; r < TILE_SIDE; r++)
    memcpy((char *)base + r * stride, amx.word[tile][r], sizeof amx.word[tile][r]);
}

static void _tile_dpbf16ps(int c, int a, int b) {
  for (int m = 0; m < TILE_SIDE; m++)
    for (int n = 0; n < TILE_SIDE; n++) {
      float low = 0, high = 0;
      for (int k = 0; k < TILE_SIDE; k++) {
        uint32_t x = amx.word[a][m][k], y = amx.word[b][k][n];
        low = word_float(float_word(fmaf(word_float(x << 16), word_float(y << 16), low)));
        high = word_float(float_word(fmaf(word_float(x & 0xffff0000), word_float(y & 0xffff0000), high)));
      }
      amx.word[c][m][n] = float_word(word_float(amx.word[c][m][n]) + word_float(float_word(low + high)));
    }
}

static bool runs(void) {
  return true;
}

#define ISA isa_amx_model
#define ISA_NAME "a model of amx"
#define VECTOR_BYTES 64
#define TILE_ROWS 12
#define PAIRS
#define AMX
#include "backend/cpu/isa.inc"
