// The least value under a stack of chords, for float32 masks on the CPU.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "binding.h"
#include "clones.h"

namespace accel {
namespace {

using Floats = Given<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Chords = Given<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = Given<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr float kNone = std::numeric_limits<float>::infinity();

ACCEL_CLONES
void least(const float* __restrict__ a, const float* __restrict__ b, int64_t n,
           float* __restrict__ out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] < b[i] ? a[i] : b[i];
}

ACCEL_CLONES
void least_of_three(const float* __restrict__ a, const float* __restrict__ b, int64_t n,
                    float* __restrict__ out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float v = a[i] < b[i] ? a[i] : b[i];
    out[i] = v < out[i] ? v : out[i];
  }
}

struct Chord {
  int64_t row, first, last;
  int level;  // two runs of 2^level cover it
};

// levels[k][x] is the least of 2^k values of the row from x - room on; outside is kNone.
void runs(const float* row, int64_t width, int64_t room, int most,
          std::vector<std::vector<float>>& levels) {
  const int64_t wide = width + 2 * room;
  std::fill(levels[0].begin(), levels[0].end(), kNone);
  std::copy(row, row + width, levels[0].begin() + room);
  for (int k = 1; k <= most; ++k) {
    const int64_t half = int64_t(1) << (k - 1), n = wide - 2 * half + 1;
    if (n > 0) least(levels[k - 1].data(), levels[k - 1].data() + half, n, levels[k].data());
  }
}

void erode_chords(Floats mask, Chords chords, Output out, int threads) {
  const int64_t height = mask.shape(0), width = mask.shape(1);
  if (chords.shape(1) != 3 || out.shape(0) != mask.shape(0) || out.shape(1) != mask.shape(1))
    throw std::invalid_argument("erode_chords: chords must be [n, 3], out as the mask");
  std::vector<Chord> stack;
  int64_t room = 0, tall = 0;
  int most = 0;
  for (size_t i = 0; i < chords.shape(0); ++i) {
    Chord c{chords(i, 0), chords(i, 1), chords(i, 2), 0};
    if (c.last < c.first) throw std::invalid_argument("erode_chords: a chord must not be empty");
    while ((int64_t(2) << c.level) <= c.last - c.first + 1) ++c.level;
    room = std::max({room, std::abs(c.first), std::abs(c.last)});
    tall = std::max(tall, std::abs(c.row));
    most = std::max(most, c.level);
    stack.push_back(c);
  }
  const float* from = mask.data();
  float* to = out.data();
  nb::gil_scoped_release unlocked;
  float top = -kNone;  // a row that has nothing less than this changes nothing
  for (int64_t i = 0; i < height * width; ++i) top = std::max(top, from[i]);
  constexpr int64_t kBand = 128;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<std::vector<float>> levels(most + 1, std::vector<float>(width + 2 * room + 1));
#pragma omp for schedule(dynamic)
    for (int64_t band = 0; band < (height + kBand - 1) / kBand; ++band) {
      const int64_t begin = band * kBand, end = std::min(height, begin + kBand);
      std::fill(to + begin * width, to + end * width, top);
      for (int64_t y = std::max<int64_t>(0, begin - tall); y < std::min(height, end + tall); ++y) {
        const float* row = from + y * width;
        if (std::all_of(row, row + width, [top](float v) { return v >= top; })) continue;
        runs(row, width, room, most, levels);
        for (const Chord& c : stack) {
          const int64_t target = y - c.row;
          if (target < begin || target >= end) continue;
          const float* level = levels[c.level].data() + room;
          least_of_three(level + c.first, level + c.last + 1 - (int64_t(1) << c.level), width,
                         to + target * width);
        }
      }
    }
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(morphology) {
  m.def("erode_chords", &accel::erode_chords, "mask"_a, "chords"_a, "out"_a, "threads"_a);
}
