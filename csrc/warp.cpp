// Warped pictures, 8 bit [N, H, W, C] to float32 [N, C, H, W], on the CPU.
#include "warp.h"

#include <cstdint>

#include "binding.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ACCEL_CLONES __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define ACCEL_CLONES
#endif

namespace accel {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Grids = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Matrices = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

template <int C, bool kCubic>
inline void warp_pixel(const uint8_t* picture, int height, int width, WarpPlace at, float* out,
                       int64_t plane) {
  const int x0 = floor_int(at.x), y0 = floor_int(at.y);
  const float fx = at.x - float(x0), fy = at.y - float(y0);
  constexpr int kTaps = kCubic ? 4 : 2, kBefore = kCubic ? 1 : 0;
  float wx[4] = {1 - fx, fx, 0, 0}, wy[4] = {1 - fy, fy, 0, 0};
  if (kCubic) {
    cubic_weights(fx, wx);
    cubic_weights(fy, wy);
  }
  const int left = x0 - kBefore, top = y0 - kBefore;
  float sum[C] = {};
  if (left >= 0 && top >= 0 && left + kTaps <= width && top + kTaps <= height) {
    // Taps of a row lie side by side in memory: first down, all at once, then across.
    constexpr int kRow = kTaps * C;
    float column[kRow] = {};
    const uint8_t* at_row = picture + (int64_t(top) * width + left) * C;
    for (int j = 0; j < kTaps; ++j, at_row += int64_t(width) * C) {
      const float weight = wy[j];
#pragma omp simd
      for (int k = 0; k < kRow; ++k) column[k] += weight * float(at_row[k]);
    }
    for (int i = 0; i < kTaps; ++i)
      for (int c = 0; c < C; ++c) sum[c] += wx[i] * column[i * C + c];
  } else {
    for (int j = 0; j < kTaps; ++j) {
      const uint8_t* row = picture + int64_t(clamp_int(top + j, height)) * width * C;
      for (int i = 0; i < kTaps; ++i) {
        const uint8_t* tap = row + clamp_int(left + i, width) * C;
        for (int c = 0; c < C; ++c) sum[c] += wy[j] * wx[i] * float(tap[c]);
      }
    }
  }
  for (int c = 0; c < C; ++c) {
    const float value = sum[c] * (1.0f / 255.0f);
    out[c * plane] = value < 0 ? 0 : value > 1 ? 1 : value;
  }
}

template <int C, bool kCubic>
inline void warp_row(const uint8_t* picture, int height, int width, const float* grid, int side,
                     const float* matrix, int y, float* out) {
  const int64_t plane = int64_t(height) * width;
  for (int x = 0; x < width; ++x)
    warp_pixel<C, kCubic>(picture, height, width,
                          warp_place(grid, side, matrix, float(x), float(y), width, height),
                          out + int64_t(y) * width + x, plane);
}

ACCEL_CLONES
void warp_line(const uint8_t* picture, int channels, int height, int width, const float* grid,
               int side, const float* matrix, bool cubic, int y, float* out) {
  if (channels == 3 && cubic)
    warp_row<3, true>(picture, height, width, grid, side, matrix, y, out);
  else if (channels == 3)
    warp_row<3, false>(picture, height, width, grid, side, matrix, y, out);
  else if (cubic)
    warp_row<1, true>(picture, height, width, grid, side, matrix, y, out);
  else
    warp_row<1, false>(picture, height, width, grid, side, matrix, y, out);
}

void warp(Bytes pictures, Grids grids, Matrices matrices, bool cubic, Output out) {
  const int64_t n = int64_t(pictures.shape(0)), channels = int64_t(pictures.shape(3));
  const int height = int(pictures.shape(1)), width = int(pictures.shape(2));
  const int side = int(grids.shape(2));
  if (int64_t(grids.shape(0)) != n || grids.shape(1) != 2 || int(grids.shape(3)) != side ||
      side < 2 || (channels != 1 && channels != 3) || height < 1 || width < 1 ||
      int64_t(matrices.shape(0)) != n || matrices.shape(1) != 2 || matrices.shape(2) != 3 ||
      int64_t(out.size()) != n * height * width * channels)
    throw std::invalid_argument("warp: arrays do not fit together");
  const uint8_t* from = pictures.data();
  const float *g = grids.data(), *m = matrices.data();
  float* to = out.data();
  nb::gil_scoped_release unlocked;
  const int64_t size = int64_t(height) * width * channels;
#pragma omp parallel for schedule(static)
  for (int64_t line = 0; line < n * height; ++line) {
    const int64_t i = line / height;
    warp_line(from + i * size, int(channels), height, width, g + i * 2 * side * side, side,
              m + i * 6, cubic, int(line % height), to + i * size);
  }
}

}  // namespace

ACCEL_BIND(warp) {
  m.def("warp", &warp, "pictures"_a, "grids"_a, "matrices"_a, "cubic"_a, "out"_a);
}
}  // namespace accel
