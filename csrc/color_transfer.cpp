// Sliced optimal transport and the matching of marginals, for float32 on the CPU.
//
// Sums are taken in one order, so that the result does not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "binding.h"
#include "clones.h"
#include "color_shift.h"

#define ACCEL_VECTOR_CODE "color_shift_rows.h"
#include "simd.h"

namespace accel {
namespace {

using Floats = Given<const float, nb::c_contig, nb::device::cpu>;
using Output = Given<float, nb::c_contig, nb::device::cpu>;

constexpr int64_t kRun = 4096;  // points that one thread moves

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
void quantise(const float* __restrict__ v, int64_t n, float low, float scale, float top,
              uint32_t* __restrict__ out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    float q = (v[i] - low) * scale;
    q = q > 0.0f ? q : 0.0f;
    q = q < top ? q : top;
    out[i] = uint32_t(int32_t(q));
  }
}

// The points of each step, evenly over it. Eight are written whatever their number is, because a
// loop that ends after two or five turns costs more than they do: `sorted` has room for eight more.
constexpr int kRoom = 8;

ACCEL_CLONES
void spread(const uint32_t* counts, int64_t steps, float low, float width, float* sorted) {
  for (int64_t b = 0; b < steps; ++b) {
    const uint32_t count = counts[b];
    const float apart = width / float(int32_t(count | (count == 0)));
    const float first = low + float(b) * width + 0.5f * apart;
    for (int i = 0; i < kRoom; ++i) sorted[i] = first + float(i) * apart;
    for (uint32_t i = kRoom; i < count; ++i) sorted[i] = first + float(i) * apart;
    sorted += count;
  }
}

// How many of the points lie in each step between their ends along a direction.
struct Counted {
  std::vector<float> along;
  std::vector<uint32_t> keys, counts, others;
  float low = 0, width = 0;  // of the first step, of each

  Counted(int64_t n, int64_t steps) : along(n), keys(n), counts(steps), others(steps) {}

  int64_t steps() const { return int64_t(counts.size()); }
  float per_step() const { return width > 0.0f ? 1.0f / width : 0.0f; }

  void count(const float* points, int64_t n, const float* direction) {
    project(points, n, direction, along.data());
    const Range r = ends(along.data(), n);
    low = r.low, width = (r.high - r.low) / float(steps());
    quantise(along.data(), n, low, per_step(), float(steps() - 1), keys.data());
    std::fill(counts.begin(), counts.end(), 0u);
    std::fill(others.begin(), others.end(), 0u);
    int64_t i = 0;
    // Neighbours fall in one step often; in two tables they need not wait for each other.
    for (; i + 1 < n; i += 2) ++counts[keys[i]], ++others[keys[i + 1]];
    if (i < n) ++counts[keys[i]];
    for (int64_t b = 0; b < steps(); ++b) counts[b] += others[b];
  }
};

// Points are ranked one by one, equal ones in their order. Points of one step keep their order too,
// which displaces them by no more than the step.
struct Ranks {
  static constexpr int64_t kSteps = 1 << 14;
  Counted points;
  std::vector<float> sorted;
  explicit Ranks(int64_t n) : points(n, kSteps), sorted(n + kRoom) {}

  // away[i]: how far point i must move along the direction for its rank's place in the target.
  void displace(const float* source, const float* target, int64_t n, const float* direction,
                float* away) {
    points.count(target, n, direction);
    spread(points.counts.data(), kSteps, points.low, points.width, sorted.data());
    points.count(source, n, direction);
    uint32_t before = 0;
    for (uint32_t& count : points.counts) {
      const uint32_t own = count;
      count = before;
      before += own;
    }
    for (int64_t i = 0; i < n; ++i)
      away[i] = sorted[points.counts[points.keys[i]]++] - points.along[i];
  }
};

// Moves points by the mean of what each direction asks for.
ACCEL_CLONES
void move_each(float* __restrict__ p, const float* away, int64_t stride, int64_t n, int64_t begin,
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

void transport_ranked(float* from, const float* to, int64_t n, const float* along, int64_t steps,
                      int64_t count, int threads) {
  std::vector<float> away(count * n);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Ranks ranks(n);
    for (int64_t step = 0; step < steps; ++step) {
      const float* ways = along + step * count * 3;
#pragma omp for schedule(dynamic)
      for (int64_t d = 0; d < count; ++d)
        ranks.displace(from, to, n, ways + 3 * d, away.data() + d * n);
#pragma omp for schedule(static)
      for (int64_t block = 0; block < (n + kRun - 1) / kRun; ++block)
        move_each(from, away.data(), n, n, block * kRun, std::min(n, block * kRun + kRun), ways,
                  count);
    }
  }
}

// --- or by the step that they lie in -------------------------------------------------------------

// So many points, other ones each time, say well enough how all are distributed.
constexpr int64_t kAsked = 1 << 15;

// One of every n / asked points, drawn anew in each `round`; all if there are no more.
void ask(const float* points, int64_t n, int64_t asked, uint32_t round, float* out) {
  if (asked == n) {
    std::copy(points, points + 3 * n, out);
    return;
  }
  uint32_t random = 0x9e3779b9u * (round + 1);
  for (int64_t i = 0; i < asked; ++i) {
    random = random * 1664525u + 1013904223u;
    const int64_t first = i * n / asked, room = (i + 1) * n / asked - first;
    const int64_t from = first + int64_t(uint64_t(random) * uint64_t(room) >> 32);
    for (int64_t c = 0; c < 3; ++c) out[c * asked + i] = points[c * n + from];
  }
}

float mean_of(const float* v, int64_t n) {
  float parts[8] = {};  // eight, whatever the CPU's vectors are, so that all round alike
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) parts[j] += v[i + j];
  for (; i < n; ++i) parts[i & 7] += v[i];
  float sum = 0;
  for (const float part : parts) sum += part;
  return sum / float(n);
}

// Each step of the source goes to the mean of the target's values of its ranks, of which there are
// as many; a step where no point was counted goes as the one below it.
void meet(const Counted& source, const float* sorted, Shift& shift) {
  constexpr uint32_t kFew = 32;  // the middle of so many is as good as their mean
  shift.low = source.low, shift.per_step = source.per_step();
  float last = 0;
  for (int64_t b = 0; b < kShiftSteps; ++b) {
    const uint32_t count = source.counts[b];
    if (count > 0) {
      const float here = source.low + (float(b) + 0.5f) * source.width;
      const float there = count > kFew ? mean_of(sorted, count)
                                       : 0.5f * (sorted[(count - 1) / 2] + sorted[count / 2]);
      last = there - here;
    }
    shift.away[b] = last;
    sorted += count;
  }
}

void transport_by_steps(float* from, const float* to, int64_t n, const float* along, int64_t steps,
                        int64_t count, int threads) {
  const int64_t asked = std::min(n, kAsked);
  std::vector<float> sample(3 * asked), wanted(3 * asked);
  std::vector<Shift> shifts(count);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Counted counted(asked, kShiftSteps);
    std::vector<float> sorted(asked + kRoom);
    for (int64_t step = 0; step < steps; ++step) {
      const float* ways = along + step * count * 3;
#pragma omp single
      {
        ask(from, n, asked, uint32_t(step), sample.data());
        ask(to, n, asked, uint32_t(step), wanted.data());
      }
#pragma omp for schedule(dynamic)
      for (int64_t d = 0; d < count; ++d) {
        counted.count(wanted.data(), asked, ways + 3 * d);
        spread(counted.counts.data(), kShiftSteps, counted.low, counted.width, sorted.data());
        counted.count(sample.data(), asked, ways + 3 * d);
        meet(counted, sorted.data(), shifts[d]);
      }
#pragma omp for schedule(static)
      for (int64_t block = 0; block < (n + kRun - 1) / kRun; ++block) {
        const int64_t begin = block * kRun, size = std::min(n - begin, kRun);
        ACCEL_WIDEST(shift_points(from + begin, n, size, ways, shifts.data(), count));
      }
    }
  }
}

void sliced_transport(Output source, Floats target, Floats directions, bool ranked, int threads) {
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
  const auto transport = ranked ? transport_ranked : transport_by_steps;
  transport(from, to, n, along, steps, count, threads);
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

}  // namespace
}  // namespace accel

ACCEL_BIND(color_transfer) {
  m.def("sliced_transport", &accel::sliced_transport, "source"_a, "target"_a, "directions"_a,
        "ranked"_a, "threads"_a);
  m.def("match_axes", &accel::match_axes, "source"_a, "target"_a, "rotations"_a, "bins"_a,
        "threads"_a);
}
