// Colours moved by mean and deviation in Lab, and taken there and back, for float32 crops on the
// CPU.
//
// Sums are kept in a fixed number of lanes and blocks are merged in order, so that the result
// depends neither on the CPU's vector width nor on the number of threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "binding.h"
#include "clones.h"
#include "color.h"
#include "moments.h"

namespace accel {
namespace {

using Floats = Given<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = Given<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = Given<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr int64_t kBlock = 1024;
constexpr int kLanes = 16;

struct LabBlock {
  float v[3][kBlock], weight[kBlock];
};

// p: three planes, `plane` apart. Pixels outside are black, and count only with `counts_all`.
ACCEL_CLONES
void to_lab(const float* __restrict__ p, int64_t plane, const uint8_t* __restrict__ inside,
            int64_t n, bool counts_all, LabBlock* __restrict__ out) {
  const float outside = counts_all ? 1.0f : 0.0f;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const Lab lab = rgb_to_lab(p[i], p[plane + i], p[2 * plane + i]);
    const bool counts = inside[i] != 0;
    out->v[0][i] = counts ? lab.l : 0.0f;
    out->v[1][i] = counts ? lab.a : 0.0f;
    out->v[2][i] = counts ? lab.b : 0.0f;
    out->weight[i] = counts ? 1.0f : outside;
  }
}

inline float total(const float* lanes) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

ACCEL_CLONES
Moments moments(const LabBlock& block, int64_t n) {
  Moments result;
  float weights[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) weights[i % kLanes] += block.weight[i];
  result.weight = total(weights);
  if (!(result.weight > 0)) return result;
  for (int c = 0; c < 3; ++c) {
    float sums[kLanes] = {}, squares[kLanes] = {};
    const float* v = block.v[c];
    int64_t at = 0;
    for (; at + kLanes <= n; at += kLanes)
      for (int i = 0; i < kLanes; ++i) sums[i] += v[at + i];
    for (int i = 0; at + i < n; ++i) sums[i] += v[at + i];
    const float mean = total(sums) / float(result.weight);
    for (at = 0; at + kLanes <= n; at += kLanes)
      for (int i = 0; i < kLanes; ++i) {
        const float apart = v[at + i] - mean;
        squares[i] += block.weight[at + i] * apart * apart;
      }
    for (int i = 0; at + i < n; ++i) {
      const float apart = v[at + i] - mean;
      squares[i] += block.weight[at + i] * apart * apart;
    }
    result.mean[c] = mean;
    result.squares[c] = total(squares);
  }
  return result;
}

struct Line {
  float gain[3], shift[3];  // of L, a, b
};

ACCEL_CLONES
void recolor(const float* __restrict__ p, int64_t plane, int64_t n, const Line& line,
             float* __restrict__ out) {
  const float g0 = line.gain[0], g1 = line.gain[1], g2 = line.gain[2];
  const float s0 = line.shift[0], s1 = line.shift[1], s2 = line.shift[2];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const Lab lab = rgb_to_lab(p[i], p[plane + i], p[2 * plane + i]);
    float l = lab.l * g0 + s0, a = lab.a * g1 + s1, b = lab.b * g2 + s2;
    l = l < 0.0f ? 0.0f : l;
    l = l > 100.0f ? 100.0f : l;
    a = a < -127.0f ? -127.0f : a;
    a = a > 127.0f ? 127.0f : a;
    b = b < -127.0f ? -127.0f : b;
    b = b > 127.0f ? 127.0f : b;
    const Rgb rgb = lab_to_rgb(l, a, b);
    out[i] = rgb.r;
    out[plane + i] = rgb.g;
    out[2 * plane + i] = rgb.b;
  }
}

void reinhard(Floats crop, Floats target, Bytes inside, Output out, bool counts_all, int threads) {
  const int64_t n = int64_t(inside.size());
  for (const auto size : {crop.size(), target.size(), out.size()})
    if (int64_t(size) != 3 * n || crop.shape(0) != 3)
      throw std::invalid_argument("reinhard: crop, target and out must be [3, n], inside [n]");
  const float* from[2] = {crop.data(), target.data()};
  const uint8_t* mask = inside.data();
  float* to = out.data();
  nb::gil_scoped_release unlocked;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<Moments> parts(2 * blocks);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    LabBlock lab;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < 2 * blocks; ++i) {
      const int64_t at = i / 2 * kBlock, size = std::min(kBlock, n - at);
      to_lab(from[i % 2] + at, n, mask + at, size, counts_all, &lab);
      parts[i] = moments(lab, size);
    }
  }
  Moments of[2];
  for (int64_t i = 0; i < 2 * blocks; ++i) of[i % 2].merge(parts[i]);
  Line line;
  for (int c = 0; c < 3; ++c) {
    const double gain = of[1].deviation(c) / std::max(of[0].deviation(c), 1e-6);
    line.gain[c] = float(gain);
    line.shift[c] = float(of[1].mean[c] - of[0].mean[c] * gain);
  }
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t at = block * kBlock;
    recolor(from[0] + at, n, std::min(kBlock, n - at), line, to + at);
  }
}

// Three planes, `plane` apart, to Lab or back.
ACCEL_CLONES
void convert(const float* __restrict__ p, int64_t plane, int64_t n, bool back,
             float* __restrict__ out) {
  if (back) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const Rgb rgb = lab_to_rgb(p[i], p[plane + i], p[2 * plane + i]);
      out[i] = rgb.r;
      out[plane + i] = rgb.g;
      out[2 * plane + i] = rgb.b;
    }
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const Lab lab = rgb_to_lab(p[i], p[plane + i], p[2 * plane + i]);
    out[i] = lab.l;
    out[plane + i] = lab.a;
    out[2 * plane + i] = lab.b;
  }
}

void convert_lab(Floats pictures, Output out, bool back, int threads) {
  const int64_t count = pictures.shape(0) / 3, n = pictures.shape(1);
  if (pictures.shape(0) % 3 || out.shape(0) != pictures.shape(0) || out.shape(1) != size_t(n))
    throw std::invalid_argument("convert_lab: pictures and out must be [3 N, n]");
  const float* from = pictures.data();
  float* to = out.data();
  nb::gil_scoped_release unlocked;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t i = 0; i < count * blocks; ++i) {
    const int64_t at = i / blocks * 3 * n + i % blocks * kBlock;
    convert(from + at, n, std::min(kBlock, n - i % blocks * kBlock), back, to + at);
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(reinhard) {
  m.def("reinhard", &accel::reinhard, "crop"_a, "target"_a, "inside"_a, "out"_a, "counts_all"_a,
        "threads"_a);
  m.def("convert_lab", &accel::convert_lab, "pictures"_a, "out"_a, "back"_a, "threads"_a);
}
