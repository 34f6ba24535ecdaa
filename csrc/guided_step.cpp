// One step of a sampler on the CPU: sums of what it remembers, a block of numbers at a time, so
// that what is read twice is read from the first cache.
#include "guided_step.h"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <optional>

#include "binding.h"
#include "clones.h"

namespace accel {
namespace {

using Rows = Given<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Numbers = Given<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Slots = Given<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr int64_t kBlock = 1024;
constexpr int64_t kChunk = 1 << 15;  // numbers that are worth a thread

ACCEL_CLONES
void predicted(const float* __restrict__ x, const float* __restrict__ cond,
               const float* __restrict__ uncond, float* __restrict__ clean,
               float* __restrict__ other, int64_t n, float guidance, float keep, float gain) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const Guided g = guided(x[i], cond[i], uncond[i], guidance, keep, gain);
    clean[i] = g.clean;
    other[i] = g.other;
  }
}

ACCEL_CLONES
void scaled(const float* __restrict__ from, float* __restrict__ to, int64_t n, float by) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = from[i] * by;
}

ACCEL_CLONES
void add_scaled(const float* __restrict__ from, float* __restrict__ to, int64_t n, float by) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += from[i] * by;
}

struct Step {
  float* values;
  float* inputs;
  const float *cond, *uncond, *numbers;
  const int32_t* slots;
  int64_t n, copies;
};

void block(const Step& s, int64_t at, int64_t n) {
  alignas(64) float clean[kBlock], other[kBlock], outs[kOutputs][kBlock];
  const float* head = s.numbers;
  predicted(s.values + s.slots[0] * s.n + at, s.cond + at, s.uncond + at, clean, other, n, head[0],
            head[1], head[2]);
  for (int m = 0; m < kOutputs; ++m) {
    const float* c = s.numbers + kHead + m * (2 + kTerms);
    const int32_t* place = s.slots + kHead + m * (1 + kTerms);
    if (place[0] < 0) continue;
    scaled(clean, outs[m], n, c[0]);
    if (c[1] != 0) add_scaled(other, outs[m], n, c[1]);
    for (int k = 0; k < kTerms; ++k)
      if (place[1 + k] >= 0) add_scaled(s.values + place[1 + k] * s.n + at, outs[m], n, c[2 + k]);
  }
  // Only now is anything written: an output may go where a term was.
  if (s.slots[1] >= 0) std::copy_n(clean, n, s.values + s.slots[1] * s.n + at);
  if (s.slots[2] >= 0) std::copy_n(other, n, s.values + s.slots[2] * s.n + at);
  for (int m = 0; m < kOutputs; ++m) {
    const int32_t to = s.slots[kHead + m * (1 + kTerms)];
    if (to < 0) continue;
    std::copy_n(outs[m], n, s.values + to * s.n + at);
    if (s.slots[3] == m)
      for (int64_t copy = 0; copy < s.copies; ++copy)
        scaled(outs[m], s.inputs + copy * s.n + at, n, head[3]);
  }
}

// A slot that is not there would be read or written beyond the values' end.
void check(Slots slots, int64_t rows) {
  const auto within = [&](int32_t slot, int64_t least) {
    if (slot < least || slot >= rows) throw std::invalid_argument("guided_step: no such slot");
  };
  within(slots(0), 0);
  within(slots(1), -1);
  within(slots(2), -1);
  for (int i = kHead; i < kSlots; ++i) within(slots(i), -1);
}

void guided_step(Rows values, Rows inputs, Numbers cond, std::optional<Numbers> uncond,
                 Numbers numbers, Slots slots) {
  const int64_t n = int64_t(values.shape(1));
  if (int64_t(inputs.shape(1)) != n || int64_t(cond.size()) != n ||
      (uncond && int64_t(uncond->size()) != n) || numbers.size() != kNumbers ||
      slots.size() != kSlots)
    throw std::invalid_argument("guided_step: arrays differ in length");
  check(slots, int64_t(values.shape(0)));
  const Step step{values.data(),  inputs.data(), cond.data(), uncond ? uncond->data() : cond.data(),
                  numbers.data(), slots.data(),  n,           int64_t(inputs.shape(0))};
  nb::gil_scoped_release unlocked;
#pragma omp parallel for schedule(static) if (n > kChunk)
  for (int64_t at = 0; at < n; at += kBlock) block(step, at, std::min(kBlock, n - at));
}

}  // namespace

ACCEL_BIND(guided_step) {
  m.def("guided_step", &guided_step, "values"_a, "inputs"_a, "cond"_a, "uncond"_a.none(),
        "numbers"_a, "slots"_a);
}
}  // namespace accel
