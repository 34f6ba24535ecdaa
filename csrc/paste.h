// Where the samples of a frame's planes fall in a crop, and how a row of them is blended. The
// definition is in accel/kernels/paste.py; nothing here knows of Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace accel::paste {

constexpr double kSlack = 1e-3;  // as SLACK in paste.py
constexpr int kTaps = 64;        // taps whose places are kept at once
constexpr int kLanes = 8;        // samples that go together

// Frame to crop, pixel centres at integers.
struct Matrix {
  double a, b, tx, c, d, ty;
};

struct Range {
  int begin, end;
};

// A double outside int must not reach the cast.
inline int to_int(double x) { return int(std::min(std::max(x, -1e9), 1e9)); }

// One crop as the inner loop reads it: first, second and third code value and mask, side by side,
// so that one load brings all four. Clipped to what the mask can show; the ring of pixels around
// the crop (coordinates -1 and S) repeats the border's colour and has mask 0.
struct Staged {
  std::unique_ptr<float[]> memory;  // [height, width, 4]
  int left = 0, top = 0, width = 0, height = 0;
  std::vector<int> first, last;          // per crop row, the extent of its mask; first > last: none
  int x0 = 0, y0 = 0, x1 = -1, y1 = -1;  // bounds of the mask, inclusive
};

// Planes that share their sample positions.
struct Group {
  int rows, columns, channel, count;  // `count` planes from plane `channel` on
  double step_x, step_y, site_x, site_y;
};

// The taps of a footprint, relative to the sample, in crop pixels.
struct Taps {
  std::vector<float> du, dv;
  double reach_u, reach_v;  // no tap is farther from the sample than this

  Taps(const Matrix& m, const Group& g, int side) {
    const int kx = count(g.step_x * std::hypot(m.a, m.c), side);
    const int ky = count(g.step_y * std::hypot(m.b, m.d), side);
    du.reserve(size_t(kx) * ky);
    dv.reserve(size_t(kx) * ky);
    for (int j = 0; j < ky; ++j)
      for (int i = 0; i < kx; ++i) {
        const double x = g.step_x * ((i + 0.5) / kx - 0.5), y = g.step_y * ((j + 0.5) / ky - 0.5);
        du.push_back(float(m.a * x + m.b * y));
        dv.push_back(float(m.c * x + m.d * y));
      }
    reach_u = 0.5 * (std::abs(m.a) * g.step_x + std::abs(m.b) * g.step_y);
    reach_v = 0.5 * (std::abs(m.c) * g.step_x + std::abs(m.d) * g.step_y);
  }

  static int count(double length, int side) {
    return std::min(std::max(1, to_int(std::ceil(length - kSlack))), side);
  }
};

// What turns one crop's RGB into code values.
struct Color {
  float gain[3], bias[3], to_codes[12];
};

template <typename T>
struct Plane {
  T* data;
  int64_t row, column;  // strides, in samples
};

// One group, one face.
template <typename T>
struct Job {
  const Matrix& matrix;
  const Group& group;
  const Staged& crop;
  const Taps& taps;
  Plane<T> planes[3];
  float max_code;
};

// Narrow lo..hi to the x for which low < slope * x + base < high.
inline void narrow(double slope, double base, double low, double high, double& lo, double& hi) {
  if (slope == 0) {
    if (!(base > low && base < high)) hi = lo - 1;
    return;
  }
  double from = (low - base) / slope, to = (high - base) / slope;
  if (from > to) std::swap(from, to);
  lo = std::max(lo, from);
  hi = std::min(hi, to);
}

// The samples of row j any tap of which may meet the mask.
inline Range span(const Matrix& m, const Group& g, const Taps& taps, const Staged& crop, int j) {
  const double y = g.site_y + j * g.step_y;
  double lo = g.site_x - g.step_x, hi = g.site_x + (g.columns + 1) * g.step_x;
  narrow(m.a, m.b * y + m.tx, crop.x0 - 1 - taps.reach_u, crop.x1 + 1 + taps.reach_u, lo, hi);
  narrow(m.c, m.d * y + m.ty, crop.y0 - 1 - taps.reach_v, crop.y1 + 1 + taps.reach_v, lo, hi);
  const int begin = std::max(0, to_int(std::floor((lo - g.site_x) / g.step_x)));
  const int end = std::min(g.columns, to_int(std::ceil((hi - g.site_x) / g.step_x)) + 1);
  return lo <= hi && begin < end ? Range{begin, end} : Range{0, 0};
}

// The rows whose span can hold something.
inline Range rows(const Matrix& m, const Group& g, const Taps& taps, const Staged& crop) {
  const double det = m.a * m.d - m.b * m.c;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (double u : {crop.x0 - 1 - taps.reach_u, crop.x1 + 1 + taps.reach_u})
    for (double v : {crop.y0 - 1 - taps.reach_v, crop.y1 + 1 + taps.reach_v}) {
      const double y = (m.a * (v - m.ty) - m.c * (u - m.tx)) / det;
      low = std::min(low, y);
      high = std::max(high, y);
    }
  const int begin = std::max(0, to_int(std::floor((low - g.site_y) / g.step_y)));
  const int end = std::min(g.rows, to_int(std::ceil((high - g.site_y) / g.step_y)) + 1);
  return begin < end ? Range{begin, end} : Range{0, 0};
}

// Whether any mask pixel lies in the box, in crop coordinates. Asked for every block, so no floor:
// the bounds are clamped to where truncation is one.
inline bool touches(const Staged& crop, double u0, double v0, double u1, double v1) {
  const int from = int(std::min(std::max(v0, double(crop.y0)), 1e9));
  const int to = int(std::min(std::max(v1 + 1, -1.0), double(crop.y1)));
  for (int y = from; y <= to; ++y)
    if (crop.first[y] <= u1 + 1 && crop.last[y] >= u0 - 1) return true;
  return false;
}

}  // namespace accel::paste
