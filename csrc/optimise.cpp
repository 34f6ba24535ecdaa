// Optimiser steps over flat float32 arrays on the CPU: every number is read and written once.
//
// Gradients of weights that no picture reaches shrink their running means to denormal numbers,
// which cost a hundred times as much as others; they are taken for zero.
#include <cmath>
#include <cstdint>

#include "binding.h"
#include "clones.h"

namespace accel {
namespace {

using Numbers = Given<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Written = Given<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr int64_t kChunk = 1 << 14;
constexpr float kLeast = 1e-30f;

// Wellons' lowbias32: which weights move does not depend on threads or vector width.
inline uint32_t mixed(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

struct Step {
  float lr, eps, scale;
  uint64_t limit;
  uint32_t seed;
};

ACCEL_CLONES
void rmsprop(float* __restrict__ weight, float* __restrict__ square, const float* __restrict__ grad,
             int64_t first, int64_t n, float rho, Step step) {
  const bool all = step.limit > 0xffffffffull;
  const uint32_t limit = uint32_t(step.limit);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * step.scale;
    const float s = square[i] * rho + g * g * (1 - rho);
    square[i] = s < kLeast ? 0.0f : s;
    const float move = step.lr * g / (std::sqrt(square[i]) + step.eps);
    const bool kept = all || mixed(uint32_t(first + i) ^ step.seed) < limit;
    weight[i] -= kept ? move : 0.0f;
  }
}

ACCEL_CLONES
void adabelief(float* __restrict__ weight, float* __restrict__ mean, float* __restrict__ spread,
               const float* __restrict__ grad, int64_t first, int64_t n, float beta1, float beta2,
               Step step) {
  const bool all = step.limit > 0xffffffffull;
  const uint32_t limit = uint32_t(step.limit);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * step.scale;
    const float m = mean[i] * beta1 + g * (1 - beta1);
    mean[i] = std::fabs(m) < kLeast ? 0.0f : m;
    const float away = g - mean[i];
    const float s = spread[i] * beta2 + away * away * (1 - beta2);
    spread[i] = s < kLeast ? 0.0f : s;
    const float move = step.lr * mean[i] / (std::sqrt(spread[i]) + step.eps);
    const bool kept = all || mixed(uint32_t(first + i) ^ step.seed) < limit;
    weight[i] -= kept ? move : 0.0f;
  }
}

// An array of another length would be read beyond its end.
void check(const char* who, size_t size, std::initializer_list<size_t> others) {
  for (size_t other : others)
    if (other != size) throw std::invalid_argument(std::string(who) + ": arrays differ in length");
}

void rmsprop_step(Written weight, Written square, Numbers grad, float lr, float rho, float eps,
                  float scale, uint64_t limit, uint32_t seed) {
  check("rmsprop_step", weight.size(), {square.size(), grad.size()});
  const int64_t n = int64_t(weight.size());
  float *w = weight.data(), *s = square.data();
  const float* g = grad.data();
  const Step step{lr, eps, scale, limit, seed};
  nb::gil_scoped_release unlocked;
#pragma omp parallel for schedule(static) if (n > kChunk)
  for (int64_t at = 0; at < n; at += kChunk)
    rmsprop(w + at, s + at, g + at, at, std::min(kChunk, n - at), rho, step);
}

void adabelief_step(Written weight, Written mean, Written spread, Numbers grad, float lr,
                    float beta1, float beta2, float eps, float scale, uint64_t limit,
                    uint32_t seed) {
  check("adabelief_step", weight.size(), {mean.size(), spread.size(), grad.size()});
  const int64_t n = int64_t(weight.size());
  float *w = weight.data(), *m = mean.data(), *s = spread.data();
  const float* g = grad.data();
  const Step step{lr, eps, scale, limit, seed};
  nb::gil_scoped_release unlocked;
#pragma omp parallel for schedule(static) if (n > kChunk)
  for (int64_t at = 0; at < n; at += kChunk)
    adabelief(w + at, m + at, s + at, g + at, at, std::min(kChunk, n - at), beta1, beta2, step);
}

}  // namespace

ACCEL_BIND(optimise) {
  m.def("rmsprop_step", &rmsprop_step, "weight"_a, "square"_a, "grad"_a, "lr"_a, "rho"_a, "eps"_a,
        "scale"_a, "limit"_a, "seed"_a);
  m.def("adabelief_step", &adabelief_step, "weight"_a, "mean"_a, "spread"_a, "grad"_a, "lr"_a,
        "beta1"_a, "beta2"_a, "eps"_a, "scale"_a, "limit"_a, "seed"_a);
}
}  // namespace accel
