// Sliced optimal transport and the bilateral filter, for float32 on the CPU.
//
// Every direction's displacements are kept and summed in order, so that the result does not depend
// on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "binding.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ACCEL_CLONES __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define ACCEL_CLONES
#endif

namespace accel {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

// Projections are sorted by counting them in this many steps between their ends. Points of one step
// keep their order in memory, which displaces them by no more than the step.
constexpr int64_t kSteps = 1 << 14;
constexpr float kTop = float(kSteps - 1);
constexpr int kRoom = 8;

struct Range {
  float low, high;
};

ACCEL_CLONES
void project(const float* __restrict__ p, int64_t n, const float* direction,
             float* __restrict__ along) {
  const float x = direction[0], y = direction[1], z = direction[2];
  const float *p0 = p, *p1 = p + n, *p2 = p + 2 * n;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) along[i] = x * p0[i] + y * p1[i] + z * p2[i];
}

ACCEL_CLONES
Range ends(const float* __restrict__ v, int64_t n) {
  float low = v[0], high = v[0];
#pragma omp simd reduction(min : low) reduction(max : high)
  for (int64_t i = 0; i < n; ++i) {
    low = v[i] < low ? v[i] : low;
    high = v[i] > high ? v[i] : high;
  }
  return {low, high};
}

// NaN and what lies outside become an end: neither comparison holds.
ACCEL_CLONES
void quantise(const float* __restrict__ v, int64_t n, float low, float scale,
              uint32_t* __restrict__ out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    float q = (v[i] - low) * scale;
    q = q > 0.0f ? q : 0.0f;
    q = q < kTop ? q : kTop;
    out[i] = uint32_t(int32_t(q));
  }
}

struct Work {
  std::vector<float> along, sorted;
  std::vector<uint32_t> keys, counts;
  explicit Work(int64_t n) : along(n), sorted(n + kRoom), keys(n), counts(kSteps) {}

  Range count(const float* points, int64_t n, const float* direction) {
    project(points, n, direction, along.data());
    const Range r = ends(along.data(), n);
    quantise(along.data(), n, r.low, r.high > r.low ? kTop / (r.high - r.low) : 0.0f, keys.data());
    std::fill(counts.begin(), counts.end(), 0u);
    for (int64_t i = 0; i < n; ++i) ++counts[keys[i]];
    return r;
  }
};

// The points of each step, evenly over it. Eight are written whatever their number is, because a
// loop that ends after two or five turns costs more than they do: `sorted` has room for eight more.
ACCEL_CLONES
void spread(const uint32_t* counts, Range to, float* sorted) {
  const float step = (to.high - to.low) / kTop;
  for (int64_t b = 0; b < kSteps; ++b) {
    const uint32_t count = counts[b];
    // The topmost step holds the end alone.
    const float apart = b + 1 < kSteps ? step / float(int32_t(count | (count == 0))) : 0.0f;
    const float first = to.low + float(b) * step + 0.5f * apart;
    for (int i = 0; i < kRoom; ++i) sorted[i] = first + float(i) * apart;
    for (uint32_t i = kRoom; i < count; ++i) sorted[i] = first + float(i) * apart;
    sorted += count;
  }
}

// away[i]: how far point i must move along the direction for its rank's place in the target.
void displace(const float* source, const float* target, int64_t n, const float* direction, Work& w,
              float* away) {
  spread(w.counts.data(), w.count(target, n, direction), w.sorted.data());
  w.count(source, n, direction);
  uint32_t before = 0;
  for (uint32_t& count : w.counts) {
    const uint32_t own = count;
    count = before;
    before += own;
  }
  for (int64_t i = 0; i < n; ++i) away[i] = w.sorted[w.counts[w.keys[i]]++] - w.along[i];
}

ACCEL_CLONES
void move(float* __restrict__ p, const float* away, int64_t stride, int64_t n, int64_t begin,
          int64_t end, const float* directions, int64_t count) {
  const float share = 1.0f / float(count);
  float *p0 = p, *p1 = p + n, *p2 = p + 2 * n;
  for (int64_t at = begin; at < end; at += 256) {
    const int64_t size = std::min<int64_t>(256, end - at);
    float x[256] = {}, y[256] = {}, z[256] = {};
    for (int64_t d = 0; d < count; ++d) {
      const float* a = away + d * stride + at;
      const float dx = directions[3 * d], dy = directions[3 * d + 1], dz = directions[3 * d + 2];
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) {
        x[i] += a[i] * dx;
        y[i] += a[i] * dy;
        z[i] += a[i] * dz;
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      p0[at + i] += x[i] * share;
      p1[at + i] += y[i] * share;
      p2[at + i] += z[i] * share;
    }
  }
}

void sliced_transport(Output source, Floats target, Floats directions, int threads) {
  if (source.ndim() != 2 || source.shape(0) != 3 || target.size() != source.size() ||
      directions.ndim() != 3 || directions.shape(2) != 3)
    throw std::invalid_argument(
        "sliced_transport: source and target must be [3, n], directions [steps, count, 3]");
  const int64_t n = source.shape(1), steps = directions.shape(0), count = directions.shape(1);
  if (n < 1 || n > INT32_MAX)
    throw std::invalid_argument("sliced_transport: n must lie in 1..2147483647");
  float* from = source.data();
  const float *to = target.data(), *along = directions.data();
  nb::gil_scoped_release unlocked;
  std::vector<float> away(count * n);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Work work(n);
    for (int64_t step = 0; step < steps; ++step) {
      const float* ways = along + step * count * 3;
#pragma omp for schedule(dynamic)
      for (int64_t d = 0; d < count; ++d)
        displace(from, to, n, ways + 3 * d, work, away.data() + d * n);
#pragma omp for schedule(static)
      for (int64_t block = 0; block < (n + 4095) / 4096; ++block)
        move(from, away.data(), n, n, block * 4096, std::min(n, block * 4096 + 4096), ways, count);
    }
  }
}

// --- transfer of the distribution, one axis after another ----------------------------------------

// Where a value of the source goes so that as many of the target's lie below it: at the upper edges
// of `bins` steps between the ends of both, straight lines between.
struct Curve {
  float low, per_step;  // of the bins: position of v is (v - low) * per_step
  std::vector<float> at;
};

void count_below(const float* __restrict__ v, int64_t n, float low, float per_step, int64_t bins,
                 std::vector<uint32_t>& counts, std::vector<double>& share) {
  counts.assign(bins, 0u);
  const float top = float(bins - 1);
  for (int64_t i = 0; i < n; ++i) {
    float q = (v[i] - low) * per_step;
    q = q > 0.0f ? q : 0.0f;  // NaN becomes an end: neither comparison holds
    ++counts[int64_t(q < top ? q : top)];
  }
  share.resize(bins);
  uint64_t total = 0;
  for (int64_t b = 0; b < bins; ++b) share[b] = double(total += counts[b]) / double(n);
}

Curve match_curve(const float* source, int64_t n, const float* target, int64_t m, int64_t bins) {
  const Range a = ends(source, n), b = ends(target, m);
  const float low = std::min(a.low, b.low), high = std::max(a.high, b.high);
  const float step = std::max((high - low), 1e-12f) / float(bins);
  Curve curve{low, 1.0f / step, std::vector<float>(bins)};
  std::vector<uint32_t> counts;
  std::vector<double> share, wanted;
  count_below(source, n, low, curve.per_step, bins, counts, share);
  count_below(target, m, low, curve.per_step, bins, counts, wanted);
  int64_t k = 1;
  for (int64_t i = 0; i < bins; ++i) {
    while (k < bins - 1 && wanted[k] < share[i]) ++k;  // shares rise, so k never turns back
    const double gap = wanted[k] - wanted[k - 1];
    const double part = gap > 0 ? (share[i] - wanted[k - 1]) / gap : 1.0;
    curve.at[i] = low + step * float(double(k) + std::min(std::max(part, 0.0), 1.0));
  }
  return curve;
}

ACCEL_CLONES
void displace_by(const Curve& curve, const float* __restrict__ v, int64_t n,
                 float* __restrict__ away) {
  const float* at = curve.at.data();
  const float low = curve.low, per_step = curve.per_step, top = float(curve.at.size() - 1);
  const int32_t last = int32_t(curve.at.size()) - 2;
  for (int64_t i = 0; i < n; ++i) {
    float q = (v[i] - low) * per_step - 1.0f;
    q = q > 0.0f ? q : 0.0f;
    q = q < top ? q : top;
    const int32_t k = int32_t(q) < last ? int32_t(q) : last;
    away[i] = at[k] + (q - float(k)) * (at[k + 1] - at[k]) - v[i];
  }
}

ACCEL_CLONES
void move_back(float* __restrict__ p, const float* __restrict__ away, int64_t n, const float* turn,
               float share) {
  float *p0 = p, *p1 = p + n, *p2 = p + 2 * n;
  const float *a0 = away, *a1 = away + n, *a2 = away + 2 * n;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    p0[i] += (turn[0] * a0[i] + turn[3] * a1[i] + turn[6] * a2[i]) * share;
    p1[i] += (turn[1] * a0[i] + turn[4] * a1[i] + turn[7] * a2[i]) * share;
    p2[i] += (turn[2] * a0[i] + turn[5] * a1[i] + turn[8] * a2[i]) * share;
  }
}

void match_axes(Output source, Floats target, Floats turns, int64_t bins, int threads) {
  if (source.ndim() != 2 || source.shape(0) != 3 || target.ndim() != 2 || target.shape(0) != 3 ||
      turns.ndim() != 3 || turns.shape(1) != 3 || turns.shape(2) != 3)
    throw std::invalid_argument(
        "match_axes: source must be [3, n], target [3, m], rotations [steps, 3, 3]");
  const int64_t n = source.shape(1), m = target.shape(1), steps = turns.shape(0);
  if (n < 1 || m < 1 || n > INT32_MAX || m > INT32_MAX || bins < 2 || bins > 1 << 20)
    throw std::invalid_argument("match_axes: there must be points, and 2 to 2^20 bins");
  float* from = source.data();
  const float *to = target.data(), *turn = turns.data();
  nb::gil_scoped_release unlocked;
  std::vector<float> along(3 * n), wanted(3 * m), away(3 * n);
  for (int64_t step = 0; step < steps; ++step) {
    const float* axes = turn + 9 * step;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int axis = 0; axis < 3; ++axis) {
      project(from, n, axes + 3 * axis, along.data() + axis * n);
      project(to, m, axes + 3 * axis, wanted.data() + axis * m);
      const Curve curve =
          match_curve(along.data() + axis * n, n, wanted.data() + axis * m, m, bins);
      displace_by(curve, along.data() + axis * n, n, away.data() + axis * n);
    }
    move_back(from, away.data(), n, axes, 1.0f / float(steps));
  }
}

// --- bilateral ----------------------------------------------------------------------------------

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

ACCEL_CLONES
void add_neighbour(const Row& row, const Tap& tap, float tight, int64_t width) {
  const float *c0 = row.own[0], *c1 = row.own[1], *c2 = row.own[2];
  const float *n0 = row.near[0], *n1 = row.near[1], *n2 = row.near[2], *mask = row.mask;
  float* __restrict__ s0 = row.sums[0], * __restrict__ s1 = row.sums[1], * __restrict__ s2 = row.sums[2], * __restrict__ weight = row.weight;
  const float far = tap.far;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const float a = n0[i], b = n1[i], c = n2[i];
    const float apart = std::fabs(a - c0[i]) + std::fabs(b - c1[i]) + std::fabs(c - c2[i]);
    const float share = exp_minus(far + apart * apart * tight) * mask[i];
    s0[i] += share * a;
    s1[i] += share * b;
    s2[i] += share * c;
    weight[i] += share;
  }
}

// The same where the differences' exponent stays below kNearOne: four terms of e^-z are enough.
constexpr float kNearOne = 0.2f;  // the fifth would be 3e-6

ACCEL_CLONES
void add_like_neighbour(const Row& row, const Tap& tap, float tight, int64_t width) {
  const float *c0 = row.own[0], *c1 = row.own[1], *c2 = row.own[2];
  const float *n0 = row.near[0], *n1 = row.near[1], *n2 = row.near[2], *mask = row.mask;
  float* __restrict__ s0 = row.sums[0], * __restrict__ s1 = row.sums[1], * __restrict__ s2 = row.sums[2], * __restrict__ weight = row.weight;
  const float near_share = tap.share;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const float a = n0[i], b = n1[i], c = n2[i];
    const float apart = std::fabs(a - c0[i]) + std::fabs(b - c1[i]) + std::fabs(c - c2[i]);
    const float z = apart * apart * tight;
    const float alike = 1.0f - z * (1.0f - z * (0.5f - z * (1.0f / 6 - z * (1.0f / 24))));
    const float share = near_share * alike * mask[i];
    s0[i] += share * a;
    s1[i] += share * b;
    s2[i] += share * c;
    weight[i] += share;
  }
}

// Where all differences are small against `color`, the filter is the Gaussian of the distance
// alone, which is made of few sums: a row's sums over -w..w grow from those over -(w - 1)..w - 1.
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

// totals: [4, height, width], the masked channels' sums and the mask's.
void disc_sums(const Picture& p, std::vector<float>& totals) {
  const int64_t rows = p.height + 2 * p.radius, size = p.height * p.width;
  std::vector<float> share(p.radius + 1), line(p.row), sum(p.width);
  for (int i = 0; i <= p.radius; ++i)
    share[i] = float(std::exp(-double(i) * i / (2.0 * p.space * p.space)));
  totals.assign(4 * size, 0.0f);
  for (int64_t at = 0; at < rows; ++at)
    for (int field = 0; field < 4; ++field) {
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
          if (y >= 0 && y < p.height)
            add_row(sum.data(), share[far], p.width, totals.data() + field * size + y * p.width);
          if (far == 0) break;
        }
      }
    }
}

constexpr float kAgree = 2e-5f;  // a hundredth of what eight bits can tell
constexpr int kProbes = 16;      // along each side of the picture

// Whether the Gaussian alone gives what the filter gives, at some pixels spread over the picture.
bool agrees(const Picture& p, const std::vector<Tap>& taps, float tight,
            const std::vector<float>& totals) {
  const int64_t plane = p.row * (p.height + 2 * p.radius), size = p.height * p.width;
  for (int64_t i = 0; i < kProbes * kProbes; ++i) {
    const int64_t y = (i / kProbes * 2 + 1) * p.height / (2 * kProbes);
    const int64_t x = (i % kProbes * 2 + 1) * p.width / (2 * kProbes);
    const float* own = p.planes + (y + p.radius) * p.row + x + p.radius;
    const float* mask = p.mask + (own - p.planes);
    float sums[3] = {}, weight = 0;
    for (const Tap& tap : taps) {
      float value[3], apart = 0;
      for (int c = 0; c < 3; ++c) {
        value[c] = own[c * plane + tap.offset];
        apart += std::fabs(value[c] - own[c * plane]);
      }
      const float z = apart * apart * tight;
      const float share =
          tap.share * (1.0f - z * (1.0f - z * (0.5f - z * (1.0f / 6)))) * mask[tap.offset];
      for (int c = 0; c < 3; ++c) sums[c] += share * value[c];
      weight += share;
    }
    const float plain = totals[3 * size + y * p.width + x];
    for (int c = 0; c < 3; ++c)
      if (weight > 0 &&
          !(std::fabs(sums[c] / weight - totals[c * size + y * p.width + x] / plain) <= kAgree))
        return false;
  }
  return true;
}

// Fills `to`, [3, height, width], and says so, or leaves it where the filter is more than that.
bool blurred(const Picture& p, const std::vector<Tap>& taps, float tight, float* to) {
  std::vector<float> totals;
  disc_sums(p, totals);
  if (!agrees(p, taps, tight, totals)) return false;
  const int64_t size = p.height * p.width;
  const float* weight = totals.data() + 3 * size;
  for (int c = 0; c < 3; ++c)
    for (int64_t i = 0; i < size; ++i)
      to[c * size + i] = weight[i] > 0 ? totals[c * size + i] / weight[i] : 0.0f;
  return true;
}

void bilateral(Floats wide, Floats masks, Output out, int radius, float color, float space,
               int threads) {
  if (wide.ndim() != 4 || wide.shape(1) != 3 || out.ndim() != 4 || out.shape(1) != 3 ||
      wide.shape(0) != out.shape(0) || radius < 0 ||
      wide.shape(2) != out.shape(2) + 2 * size_t(radius) ||
      wide.shape(3) != out.shape(3) + 2 * size_t(radius) || masks.size() * 3 != wide.size())
    throw std::invalid_argument(
        "bilateral: wide must be [N, 3, H + 2r, W + 2r], masks [N, 1, ...], out [N, 3, H, W]");
  const int64_t count = out.shape(0), height = out.shape(2), width = out.shape(3);
  const int64_t row = wide.shape(3), plane = row * wide.shape(2), size = height * width;
  const float *from = wide.data(), *weight = masks.data();
  float* to = out.data();
  nb::gil_scoped_release unlocked;
  std::vector<Tap> taps;
  for (int y = -radius; y <= radius; ++y)
    for (int x = -radius; x <= radius; ++x)
      if (x * x + y * y <= radius * radius) taps.push_back({y * row + x, 0, 0});
  for (Tap& tap : taps) {
    const int64_t y = (tap.offset + radius * row + radius) / row - radius, x = tap.offset - y * row;
    tap.far = float(x * x + y * y) / (2 * space * space);
    tap.share = std::exp(-tap.far);
  }
  const float tight = 1.0f / (2 * color * color);
  float most = 0;  // the largest difference there can be
  for (int64_t i = 0; i < 3 * count; ++i) {
    const Range r = ends(from + i * plane, plane);
    most = std::max(most, r.high - r.low);
  }
  const bool alike = 9 * most * most * tight < kNearOne;
  if (alike) {
    int64_t done = 0;
    for (; done < count; ++done) {
      const Picture picture = {
          from + done * 3 * plane, weight + done * plane, height, width, row, radius, space};
      if (!blurred(picture, taps, tight, to + done * 3 * size)) break;
    }
    if (done == count) return;
  }
  const auto add = alike ? add_like_neighbour : add_neighbour;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<float> sums(4 * width);
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < count * height; ++i) {
      const int64_t item = i / height, y = i % height, at = (y + radius) * row + radius;
      std::fill(sums.begin(), sums.end(), 0.0f);
      Row line;
      line.weight = sums.data() + 3 * width;
      for (int c = 0; c < 3; ++c) {
        line.own[c] = from + (item * 3 + c) * plane + at;
        line.sums[c] = sums.data() + c * width;
      }
      for (const Tap& tap : taps) {
        for (int c = 0; c < 3; ++c) line.near[c] = line.own[c] + tap.offset;
        line.mask = weight + item * plane + at + tap.offset;
        add(line, tap, tight, width);
      }
      for (int c = 0; c < 3; ++c) {
        float* result = to + (item * 3 + c) * size + y * width;
        for (int64_t x = 0; x < width; ++x)
          result[x] = line.weight[x] > 0 ? line.sums[c][x] / line.weight[x] : 0.0f;
      }
    }
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(color_transfer) {
  m.def("sliced_transport", &accel::sliced_transport, "source"_a, "target"_a, "directions"_a,
        "threads"_a);
  m.def("match_axes", &accel::match_axes, "source"_a, "target"_a, "rotations"_a, "bins"_a,
        "threads"_a);
  m.def("bilateral", &accel::bilateral, "wide"_a, "masks"_a, "out"_a, "radius"_a, "color"_a,
        "space"_a, "threads"_a);
}
