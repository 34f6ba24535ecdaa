// Products of float32 matrices on the tile registers (AMX) of some processors; conv_split.h drives
// them, conv_amx.cpp provides them.
//
// The registers multiply bfloat16 and sum in float32, sixteen times as fast as the vector units. A
// float32 is cut into bfloat16 parts, each what rounding to the one before left over: two hold 17
// bits of it, three all 24. Of two parts three products are summed (the fourth, of both lower
// parts, is smaller than what the parts leave out), of three the six that matter (Henry, Tang and
// Heinecke 2019, arXiv:1904.06376). Weights that are bfloat16 already are one part, which leaves
// nothing over for the third product of two.
#pragma once

#include <cstdint>

#include "conv_kernels.h"

namespace accel {

constexpr int64_t kTileDepth = 32;   // input channels in a tile
constexpr int64_t kTileWide = 32;    // output channels worked on together: two tiles
constexpr int64_t kTilePixels = 32;  // pixels worked on together: two tiles
constexpr int64_t kPartHalves = 32;  // one pixel's part of a tile, in bfloat16s
constexpr int64_t kPartBytes = 64;
constexpr int64_t kWeightBytes = 2048;  // one part of kTileDepth x kTileWide weights

// What the registers are told before use: eight tiles of 16 rows of 64 bytes. Not a local: gcc 12's
// intrinsic does not say that all of it is read, so stores to a local may be left out.
struct TileShapes {
  uint8_t palette, start, unused[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
inline constexpr TileShapes kTileShapes = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// Parts that a pixel and a weight are cut into: 3 and 3, 2 and 2, or 2 and 1.
struct Parts {
  int pixel, weight;
};

// Whether channels that are left, the last of a pixel, are so few that both of their parts fit into
// one row of a tile: they then take one product less.
constexpr bool fits_half(int64_t channels, int parts) {
  return channels <= kTileDepth / 2 && parts == 2;
}

// A part of a pixel's tile after the other: cut pixels are [chunks of kTileDepth channels, chunk
// bytes apart][parts, part bytes apart][pixels][kTileDepth]. Pixels of a part lie side by side, for
// lines of the cache that are apart come half as fast from the second cache.
struct CutSteps {
  int64_t chunk, part;
};

// Sums of up to kTilePixels pixels x kTileWide: over all steps a[+ offsets[step]] * b[step]; the
// last `halves` steps are of channels that `fits_half`.
struct TileSum {
  int64_t part_step;
  const int64_t* offsets;
  int64_t steps, halves;
  const char* b;
  Parts parts;
  int wide;  // output channels that count
  bool accumulate;
  const char* ahead;  // memory needed soon
  int64_t ahead_bytes;
};

struct TileKernels {
  // One pixel whose channels lie side by side.
  void (*cut_pixel)(const float* x, int64_t channels, int parts, char* to, CutSteps apart);
  // Up to 16 pixels whose channels lie anywhere: channel i of them at rows[i].
  void (*cut_pixels)(const float* const* rows, int64_t channels, int pixels, int parts, char* to,
                     CutSteps apart);
  // Weights [kTileDepth][kTileWide], of which `channels` count, to parts
  // [parts][2 tiles][kTileDepth / 2][16][2].
  void (*cut_weights)(const float* w, int64_t channels, Parts parts, char* to);
  // The same for weights [outs, kTileDepth, taps] as torch keeps them, beside pixels in two parts,
  // for all taps; outs in_step apart, those that are missing zero. Only 1 and 9 taps.
  void (*cut_filters)(const float* w, int64_t in_step, int outs, int taps, char* to);
  // The same for weights of 16 bits, which are widened in registers.
  void (*cut_half_filters)(const uint16_t* w, Half kind, int64_t in_step, int outs, int taps,
                           char* to);
  // Calls of `sum` lie between one of `begin` and one of `end`, of the same thread.
  void (*begin)();
  void (*sum)(const TileSum& of, const char* a, int64_t pixels, float* sums);
  void (*end)();
  bool (*finite)(const float* sums, int64_t pixels, int wide);
};

// Null where the processor, the system or the compiler has no such registers.
const TileKernels* conv_amx();

}  // namespace accel
