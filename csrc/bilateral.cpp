// The bilateral filter, for float32 on the CPU.
//
// Sums are taken in one order, so that the result does not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "binding.h"
#include "clones.h"

namespace accel {
namespace {

using Floats = Given<const float, nb::c_contig, nb::device::cpu>;
using Output = Given<float, nb::c_contig, nb::device::cpu>;

// e^-z for z of 0 and above, within 3e-7 of itself; below e^-60 it is zero for all purposes.
inline float exp_minus(float z) {
  const float t = (z < 60.0f ? z : 60.0f) * -1.44269504f;
  const int32_t whole = int32_t(t - 0.5f);  // the nearest: t is not above 0
  const float f = t - float(whole);
  const float p =
      1.0f + f * (0.693147182f +
                  f * (0.240226507f +
                       f * (0.0555041087f +
                            f * (0.00961812911f + f * (0.00133335581f + f * 0.000154353139f)))));
  const int32_t bits = (whole + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return power * p;
}

struct Tap {
  int64_t offset;
  float far;    // exponent of the distance
  float share;  // e^-far
};

// A row's pixels, what they are compared with, and the sums over their neighbours so far.
struct Row {
  const float *own[3], *near[3], *mask;
  float *sums[3], *weight;
};

// Adds neighbours to the sums, each with the share that its difference from the row's pixel has.
template <typename ShareOf>
__attribute__((always_inline)) inline void add_shares(const Row& row, int64_t width,
                                                      ShareOf share_of) {
  const float *c0 = row.own[0], *c1 = row.own[1], *c2 = row.own[2];
  const float *n0 = row.near[0], *n1 = row.near[1], *n2 = row.near[2], *mask = row.mask;
  float* __restrict__ s0 = row.sums[0];
  float* __restrict__ s1 = row.sums[1];
  float* __restrict__ s2 = row.sums[2];
  float* __restrict__ weight = row.weight;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const float a = n0[i], b = n1[i], c = n2[i];
    const float apart = std::fabs(a - c0[i]) + std::fabs(b - c1[i]) + std::fabs(c - c2[i]);
    const float share = share_of(apart) * mask[i];
    s0[i] += share * a;
    s1[i] += share * b;
    s2[i] += share * c;
    weight[i] += share;
  }
}

ACCEL_CLONES
void add_neighbour(const Row& row, const Tap& tap, float tight, int64_t width) {
  const float far = tap.far;
  add_shares(row, width, [=](float apart) { return exp_minus(far + apart * apart * tight); });
}

// The same where the differences' exponent stays below kNearOne: four terms of e^-z are enough.
constexpr float kNearOne = 0.2f;  // the fifth would be 3e-6

ACCEL_CLONES
void add_like_neighbour(const Row& row, const Tap& tap, float tight, int64_t width) {
  const float near_share = tap.share;
  add_shares(row, width, [=](float apart) {
    const float z = apart * apart * tight;
    return near_share * (1.0f - z * (1.0f - z * (0.5f - z * (1.0f / 6 - z * (1.0f / 24)))));
  });
}

// Where all differences are small against `color`, the filter is nearly the Gaussian of the
// distance alone, which is made of few sums: a row's sums over -w..w grow from those over -(w -
// 1)..w - 1.
struct Picture {
  const float *planes, *mask;  // [3, rows, row] and [rows, row], `radius` wider on each side
  int64_t height, width, row;
  int radius;
  float space;
};

ACCEL_CLONES
void add_ends(const float* __restrict__ from, int w, float share, int64_t width,
              float* __restrict__ sum) {
  const float *left = from - w, *right = from + w;
#pragma omp simd
  for (int64_t x = 0; x < width; ++x) sum[x] += share * (left[x] + right[x]);
}

ACCEL_CLONES
void add_row(const float* __restrict__ sum, float share, int64_t width, float* __restrict__ out) {
#pragma omp simd
  for (int64_t x = 0; x < width; ++x) out[x] += share * sum[x];
}

// totals: [height, width], of one masked channel, or of the mask when `field` is 3.
void disc_sums(const Picture& p, int field, float* totals) {
  const int64_t rows = p.height + 2 * p.radius;
  std::vector<float> share(p.radius + 1), line(p.row), sum(p.width);
  for (int i = 0; i <= p.radius; ++i)
    share[i] = float(std::exp(-double(i) * i / (2.0 * p.space * p.space)));
  std::fill(totals, totals + p.height * p.width, 0.0f);
  for (int64_t at = 0; at < rows; ++at) {
    const float* mask = p.mask + at * p.row;
    const float* from = p.planes + (field * rows + at) * p.row;
    for (int64_t x = 0; x < p.row; ++x) line[x] = field < 3 ? from[x] * mask[x] : mask[x];
    const float* middle = line.data() + p.radius;
    std::copy(middle, middle + p.width, sum.begin());
    int reached = 0;
    // From the ends of the disc, where a row of it is shortest, to its middle.
    for (int far = p.radius; far >= 0; --far) {
      for (; (reached + 1) * (reached + 1) + far * far <= p.radius * p.radius; ++reached)
        add_ends(middle, reached + 1, share[reached + 1], p.width, sum.data());
      for (const int side : {-1, 1}) {
        const int64_t y = at - p.radius + side * far;
        if (y >= 0 && y < p.height) add_row(sum.data(), share[far], p.width, totals + y * p.width);
        if (far == 0) break;
      }
    }
  }
}

// What differences of colour change in a mean of few neighbours: by that the Gaussian is corrected,
// as long as their exponents stay below this. Beyond it few neighbours are as good alone.
constexpr float kCorrected = 2.0f;

struct Pair {
  float *near_sums[4], *sums[4];  // with and without regard to colour; the last are the weights
};

ACCEL_CLONES
void add_to_pair(const Row& row, const Pair& pair, const Tap& tap, float tight, int64_t width) {
  const float *c0 = row.own[0], *c1 = row.own[1], *c2 = row.own[2];
  const float *n0 = row.near[0], *n1 = row.near[1], *n2 = row.near[2], *mask = row.mask;
  float* __restrict__ s0 = pair.near_sums[0];
  float* __restrict__ s1 = pair.near_sums[1];
  float* __restrict__ s2 = pair.near_sums[2];
  float* __restrict__ s3 = pair.near_sums[3];
  float* __restrict__ t0 = pair.sums[0];
  float* __restrict__ t1 = pair.sums[1];
  float* __restrict__ t2 = pair.sums[2];
  float* __restrict__ t3 = pair.sums[3];
  const float near_share = tap.share;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const float a = n0[i], b = n1[i], c = n2[i];
    const float apart = std::fabs(a - c0[i]) + std::fabs(b - c1[i]) + std::fabs(c - c2[i]);
    const float plain = near_share * mask[i], share = plain * exp_minus(apart * apart * tight);
    s0[i] += share * a;
    s1[i] += share * b;
    s2[i] += share * c;
    s3[i] += share;
    t0[i] += plain * a;
    t1[i] += plain * b;
    t2[i] += plain * c;
    t3[i] += plain;
  }
}

ACCEL_CLONES
void divide_rows(const float* __restrict__ sums, const float* __restrict__ weight, int64_t width,
                 float* __restrict__ out) {
#pragma omp simd
  for (int64_t x = 0; x < width; ++x) out[x] = weight[x] > 0 ? sums[x] / weight[x] : 0.0f;
}

// out, of the filter in few neighbours, becomes what it would be in all of them.
ACCEL_CLONES
void correct_row(const float* __restrict__ all, const float* __restrict__ all_weight,
                 const float* __restrict__ few, const float* __restrict__ few_weight, int64_t width,
                 float* __restrict__ out) {
#pragma omp simd
  for (int64_t x = 0; x < width; ++x) {
    const float plain = few_weight[x] > 0 ? few[x] / few_weight[x] : 0.0f;
    out[x] = all_weight[x] > 0 ? all[x] / all_weight[x] + (out[x] - plain) : 0.0f;
  }
}

// The neighbours of pixels on every `step`-th row and column of a disc.
std::vector<Tap> disc(int radius, float space, int step, int64_t row) {
  std::vector<Tap> taps;
  for (int y = -radius / step * step; y <= radius; y += step)
    for (int x = -radius / step * step; x <= radius; x += step) {
      if (x * x + y * y > radius * radius) continue;
      const float far = float(x * x + y * y) / (2 * space * space);
      taps.push_back({y * row + x, far, std::exp(-far)});
    }
  return taps;
}

// One row of a picture, from the neighbours in `taps`. `spare` has room for eight rows.
struct Filter {
  const Picture& p;
  const std::vector<Tap>& taps;
  float tight;
  bool alike;           // exponents of differences stay below kNearOne
  const float* totals;  // [4, height, width] of `disc_sums`, or none

  void line(int64_t y, float* spare, float* out) const {
    const int64_t plane = p.row * (p.height + 2 * p.radius), size = p.height * p.width;
    const int64_t at = (y + p.radius) * p.row + p.radius, width = p.width;
    std::fill(spare, spare + 8 * width, 0.0f);
    Row row;
    Pair pair;
    for (int c = 0; c < 4; ++c)
      pair.near_sums[c] = spare + c * width, pair.sums[c] = spare + (4 + c) * width;
    for (int c = 0; c < 3; ++c)
      row.own[c] = p.planes + c * plane + at, row.sums[c] = pair.near_sums[c];
    row.weight = pair.near_sums[3];
    for (const Tap& tap : taps) {
      for (int c = 0; c < 3; ++c) row.near[c] = row.own[c] + tap.offset;
      row.mask = p.mask + at + tap.offset;
      if (totals)
        add_to_pair(row, pair, tap, tight, width);
      else if (alike)
        add_like_neighbour(row, tap, tight, width);
      else
        add_neighbour(row, tap, tight, width);
    }
    for (int c = 0; c < 3; ++c) {
      float* to = out + c * size + y * width;
      divide_rows(row.sums[c], row.weight, width, to);
      if (!totals) continue;
      const float *all = totals + c * size + y * width, *weight = totals + 3 * size + y * width;
      correct_row(all, weight, pair.sums[c], pair.sums[3], width, to);
    }
  }
};

// A plane with its borders reflected, `radius` wider on each side.
void widen(const float* from, int64_t height, int64_t width, int64_t radius, float* out) {
  const auto reflected = [](int64_t at, int64_t size) {
    if (size == 1) return int64_t(0);
    at = std::abs(at) % (2 * size - 2);
    return std::min(at, 2 * size - 2 - at);
  };
  const int64_t row = width + 2 * radius;
  for (int64_t y = -radius; y < height + radius; ++y) {
    const float* line = from + reflected(y, height) * width;
    float* to = out + (y + radius) * row + radius;
    std::copy(line, line + width, to);
    for (int64_t x = -radius; x < 0; ++x) to[x] = line[reflected(x, width)];
    for (int64_t x = width; x < width + radius; ++x) to[x] = line[reflected(x, width)];
  }
}

void bilateral(Floats pictures, Floats masks, Output out, int radius, float color, float space,
               int step, int threads) {
  if (pictures.ndim() != 4 || pictures.shape(1) != 3 || radius < 0 || radius > 4096 || step < 1 ||
      out.size() != pictures.size() || masks.size() * 3 != pictures.size())
    throw std::invalid_argument(
        "bilateral: pictures and out must be [N, 3, H, W], masks [N, H, W]");
  const int64_t count = out.shape(0), height = pictures.shape(2), width = pictures.shape(3);
  const int64_t row = width + 2 * radius, plane = row * (height + 2 * radius);
  const int64_t size = height * width;
  const float *from = pictures.data(), *weight = masks.data();
  float* to = out.data();
  nb::gil_scoped_release unlocked;
  const std::vector<Tap> taps = disc(radius, space, step, row);
  const float tight = 1.0f / (2 * color * color);
  std::vector<float> wide(4 * plane), totals;
  for (int64_t item = 0; item < count; ++item) {
    float most = 0;  // the largest difference there can be
    for (int c = 0; c < 4; ++c) {
      const float* field = c < 3 ? from + (item * 3 + c) * size : weight + item * size;
      widen(field, height, width, radius, wide.data() + c * plane);
      if (c == 3 || size == 0) continue;
      const auto [low, high] = std::minmax_element(field, field + size);
      most = std::max(most, *high - *low);
    }
    const Picture p = {wide.data(), wide.data() + 3 * plane, height, width, row, radius, space};
    const float exponent = 9 * most * most * tight;
    const bool alike = exponent < kNearOne, corrects = exponent < kCorrected && step > 1;
    if (corrects) totals.resize(4 * size);
    const Filter filter = {p, taps, tight, alike, corrects ? totals.data() : nullptr};
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      if (corrects) {
#pragma omp for schedule(dynamic)
        for (int field = 0; field < 4; ++field) disc_sums(p, field, totals.data() + field * size);
      }
      std::vector<float> spare(8 * width);
#pragma omp for schedule(dynamic, 4)
      for (int64_t y = 0; y < height; ++y) filter.line(y, spare.data(), to + item * 3 * size);
    }
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(bilateral) {
  m.def("bilateral", &accel::bilateral, "pictures"_a, "masks"_a, "out"_a, "radius"_a, "color"_a,
        "space"_a, "step"_a, "threads"_a);
}
