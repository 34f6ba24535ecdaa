// Very small pictures of a frame's luma and how unlike two of them are: accel/faces/between.py and
// scene.py say what for. All of it takes less time than to let go of the interpreter's lock and to
// get it back, so it is kept.
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "binding.h"

namespace accel {
namespace {

using Picture = Given<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstPicture = Given<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
constexpr int64_t kMostSide = 1 << 20;

void check_plane(const char* who, const ConstArray& plane, bool wide_too) {
  const bool known =
      plane.dtype() == nb::dtype<uint8_t>() || (wide_too && plane.dtype() == nb::dtype<uint16_t>());
  if (plane.ndim() != 2 || !known || plane.shape(0) < 1 || plane.shape(1) < 1 ||
      int64_t(plane.shape(0)) >= kMostSide || int64_t(plane.shape(1)) >= kMostSide ||
      (plane.shape(1) > 1 && plane.stride(1) != 1))
    throw std::invalid_argument(std::string(who) + ": plane must be [H, W] of codes, rows in one");
}

// Bilinear, from the upper of two rows of a plane and the place in it.
inline float between(const uint8_t* at, int64_t row, float s, float t) {
  const float upper = float(at[0]) * (1 - s) + float(at[1]) * s;
  const float lower = float(at[row]) * (1 - s) + float(at[row + 1]) * s;
  return (upper * (1 - t) + lower * t) / 255;
}

// Bilinear; what lies outside of the plane is 0.
void patch(ConstArray plane, const std::vector<double>& back, Picture out) {
  check_plane("patch", plane, false);
  const int height = int(plane.shape(0)), width = int(plane.shape(1));
  if (back.size() != 6) throw std::invalid_argument("patch: back must be six numbers");
  const double du = back[0], su = back[1], u0 = back[2], dv = back[3], sv = back[4], v0 = back[5];
  const uint8_t* codes = static_cast<const uint8_t*>(plane.data());
  const int64_t row = plane.stride(0);
  const int side = int(out.shape(1));
  auto code = [&](int x, int y) {
    return x < 0 || y < 0 || x >= width || y >= height ? 0.0f : float(codes[y * row + x]);
  };
  float* to = out.data();
  for (int j = 0; j < int(out.shape(0)); ++j) {
    const auto inside = [&](int i) {
      const double u = du * i + su * j + u0, v = dv * i + sv * j + v0;
      return u >= 0 && v >= 0 && u < width - 1 && v < height - 1;
    };
    if (side > 0 && inside(0) && inside(side - 1)) {  // and with its ends all of the row: mostly
      for (int i = 0; i < side; ++i) {
        const double u = du * i + su * j + u0, v = dv * i + sv * j + v0;
        const int x = int(u), y = int(v);
        *to++ = between(codes + y * row + x, row, float(u - x), float(v - y));
      }
      continue;
    }
    for (int i = 0; i < side; ++i, ++to) {
      const double u = du * i + su * j + u0, v = dv * i + sv * j + v0;
      *to = 0;
      if (!(u > -1 && v > -1 && u < width && v < height)) continue;  // NaN lies outside too
      const int x = int(std::floor(u)), y = int(std::floor(v));
      const float s = float(u - x), t = float(v - y);
      const float upper = code(x, y) * (1 - s) + code(x + 1, y) * s;
      const float lower = code(x, y + 1) * (1 - s) + code(x + 1, y + 1) * s;
      *to = (upper * (1 - t) + lower * t) / 255;
    }
  }
}

// The largest mean difference of `one` and a mix of the others in any of cells x cells parts, once
// the median of all differences is taken off.
double unlike(ConstPicture one, ConstPicture first, ConstPicture last, double share, int cells) {
  const int64_t side = one.shape(0), count = side * side;
  for (const ConstPicture& each : {one, first, last})
    if (int64_t(each.shape(0)) != side || int64_t(each.shape(1)) != side)
      throw std::invalid_argument("unlike: pictures must be squares of one size");
  if (count < 2 || cells < 1 || side % cells || count % 2)
    throw std::invalid_argument("unlike: cells must divide pictures of an even number of pixels");
  std::vector<float> apart(count);
  for (int64_t i = 0; i < count; ++i) {
    const float a = first.data()[i], b = last.data()[i];
    apart[i] = one.data()[i] - (a + float(share) * (b - a));
    if (!std::isfinite(apart[i])) return NAN;  // which no order knows
  }
  std::vector<float> sorted(apart);
  const auto middle = sorted.begin() + count / 2;
  std::nth_element(sorted.begin(), middle, sorted.end());
  const float light = (*middle + *std::max_element(sorted.begin(), middle)) / 2;
  const int64_t wide = side / cells;
  float most = 0;
  for (int64_t y = 0; y < side; y += wide) {
    for (int64_t x = 0; x < side; x += wide) {
      float sum = 0;
      for (int64_t j = y; j < y + wide; ++j)
        for (int64_t i = x; i < x + wide; ++i) sum += std::abs(apart[j * side + i] - light);
      most = std::max(most, sum / float(wide * wide));
    }
  }
  return most;
}

// Means of a plane's parts, as torch's adaptive_avg_pool2d has them: where sides do not divide, one
// part begins within the line that another ends in, and both take all of it.
template <typename Sum, typename Code>
void means(const Code* codes, int64_t row, int64_t rows, int64_t width, double share,
           const Picture& out) {
  const int64_t down = out.shape(0), across = out.shape(1);
  std::vector<Sum> sums(width);
  float* to = out.data();
  for (int64_t j = 0; j < down; ++j) {
    const int64_t begin = rows * j / down, end = (rows * (j + 1) + down - 1) / down;
    std::fill(sums.begin(), sums.end(), 0);
    for (int64_t y = begin; y < end; ++y)
      for (int64_t x = 0; x < width; ++x) sums[x] = Sum(sums[x] + codes[y * row + x]);
    for (int64_t i = 0; i < across; ++i) {
      const int64_t left = width * i / across, right = (width * (i + 1) + across - 1) / across;
      uint64_t sum = 0;
      for (int64_t x = left; x < right; ++x) sum += sums[x];
      *to++ = float(double(sum) * share / double((end - begin) * (right - left)));
    }
  }
}

void thumbnail(ConstArray plane, int step, double share, Picture out) {
  check_plane("thumbnail", plane, true);
  const int64_t rows = step < 1 ? 0 : (int64_t(plane.shape(0)) + step - 1) / step;
  if (out.shape(0) < 1 || int64_t(out.shape(0)) > rows || out.shape(1) < 1 ||
      out.shape(1) > plane.shape(1) || rows / int64_t(out.shape(0)) >= (1 << 15))
    throw std::invalid_argument("thumbnail: sizes of step or out");
  const int64_t row = plane.stride(0) * step, width = plane.shape(1);
  if (plane.dtype() == nb::dtype<uint16_t>())
    means<uint32_t>(static_cast<const uint16_t*>(plane.data()), row, rows, width, share, out);
  else if (rows / int64_t(out.shape(0)) + 2 <= 257)  // so many bytes add up to 16 bits at most
    means<uint16_t>(static_cast<const uint8_t*>(plane.data()), row, rows, width, share, out);
  else
    means<uint32_t>(static_cast<const uint8_t*>(plane.data()), row, rows, width, share, out);
}

struct Spread {  // of a small picture's values
  double mean = 0, variance = 0;

  explicit Spread(const ConstPicture& picture) {
    const int64_t count = int64_t(picture.size());
    for (int64_t i = 0; i < count; ++i) mean += picture.data()[i];
    mean /= double(count);
    for (int64_t i = 0; i < count; ++i) {
      const double gap = picture.data()[i] - mean;
      variance += gap * gap;
    }
    variance /= double(count);
  }
};

double scene_difference(ConstPicture a, ConstPicture b, int bins) {
  const int64_t count = int64_t(a.size());
  if (count < 1 || a.shape(0) != b.shape(0) || a.shape(1) != b.shape(1) || bins < 5)
    throw std::invalid_argument("scene_difference: pictures must have one size");
  const Spread one(a), other(b);
  const double spread = std::max(std::sqrt(one.variance * other.variance), 1e-3);
  const double contrast =
      std::max(std::sqrt(other.variance), 1e-3) / std::max(std::sqrt(one.variance), 1e-3);
  const double gain = std::clamp(contrast, 0.5, 2.0);
  std::vector<double> counts(bins, 0.0);  // of the second, less those of the first
  auto bin = [&](double value) {
    return int((std::clamp(value, -0.5, 0.5) + 0.5) * (bins - 1e-3));
  };
  double shared = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double x = a.data()[i] - one.mean, y = b.data()[i] - other.mean;
    if (!(std::isfinite(x) && std::isfinite(y))) return NAN;
    shared += x * y;
    counts[bin(y)] += 1, counts[bin(x * gain)] -= 1;
  }
  const double structure =
      (1 - std::max(shared / double(count) / spread, 0.0)) * std::min(1.0, spread / 0.02);
  double tones = 0;
  for (int i = 0; i < bins; ++i) {
    double wide = 0;
    for (int k = std::max(i - 2, 0); k <= std::min(i + 2, bins - 1); ++k) wide += 0.2 * counts[k];
    tones += std::abs(wide);
  }
  return (structure + tones / double(count) / 2) / 2;
}

}  // namespace
}  // namespace accel

ACCEL_BIND(small_pictures) {
  m.def("patch", &accel::patch, "plane"_a, "back"_a, "out"_a);
  m.def("unlike", &accel::unlike, "one"_a, "first"_a, "last"_a, "share"_a, "cells"_a);
  m.def("thumbnail", &accel::thumbnail, "plane"_a, "step"_a, "share"_a, "out"_a);
  m.def("scene_difference", &accel::scene_difference, "a"_a, "b"_a, "bins"_a);
}
