// Warped pictures, 8 bit [N, H, W, C] to float32 [N, C, H, W], on the CPU.
#include "warp.h"

#include <cstdint>
#include <vector>

#include "binding.h"
#include "clones.h"

#define ACCEL_VECTOR_CODE "warp_rows.h"
#include "simd.h"

namespace accel {
namespace {

using Bytes = Given<const uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Grids = Given<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Matrices = Given<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Output = Given<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

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

// Where the pixels of a row come from, and of which all taps may be read, sixteen bytes a row of
// them.
ACCEL_CLONES
void places(const float* grid, int side, const float* matrix, int y, int height, int width,
            float* __restrict__ at_x, float* __restrict__ at_y, uint8_t* __restrict__ fits) {
  for (int x = 0; x < width; ++x) {
    const WarpPlace at = warp_place(grid, side, matrix, float(x), float(y), width, height);
    const int left = floor_int(at.x) - 1, top = floor_int(at.y) - 1;
    at_x[x] = at.x;
    at_y[x] = at.y;
    fits[x] = left >= 0 && top >= 0 && left + 4 <= width && top + 4 <= height &&
              (int64_t(top + 3) * width + left) * 3 + 16 <= int64_t(height) * width * 3;
  }
}

// A row by wide vectors where all taps lie inside; pixels near the border one by one.
struct Rows {
  std::vector<float> x, y;
  std::vector<uint8_t> fits;
  explicit Rows(int width) : x(width), y(width), fits(width) {}

  void warp(const uint8_t* picture, int height, int width, const float* grid, int side,
            const float* matrix, int row, float* out) {
    const int64_t plane = int64_t(height) * width;
    places(grid, side, matrix, row, height, width, x.data(), y.data(), fits.data());
    out += int64_t(row) * width;
    ACCEL_WIDEST(warp_inside(picture, int64_t(width) * 3, x.data(), y.data(), width, fits.data(),
                             out, plane));
    for (int i = 0; i < width; ++i)
      if (!fits[i]) warp_pixel<3, true>(picture, height, width, {x[i], y[i]}, out + i, plane);
  }
};

ACCEL_CLONES
void warp_line(const uint8_t* picture, int channels, int height, int width, const float* grid,
               int side, const float* matrix, bool cubic, int y, float* out) {
  if (channels == 3)
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
#pragma omp parallel
  {
    Rows rows(width);
#pragma omp for schedule(static)
    for (int64_t line = 0; line < n * height; ++line) {
      const int64_t i = line / height;
      const uint8_t* picture = from + i * size;
      const float *grid = g + i * 2 * side * side, *matrix = m + i * 6;
      const int y = int(line % height);
      if (cubic && channels == 3)
        rows.warp(picture, height, width, grid, side, matrix, y, to + i * size);
      else
        warp_line(picture, int(channels), height, width, grid, side, matrix, cubic, y,
                  to + i * size);
    }
  }
}

}  // namespace

ACCEL_BIND(warp) {
  m.def("warp", &warp, "pictures"_a, "grids"_a, "matrices"_a, "cubic"_a, "out"_a);
}
}  // namespace accel
