// The arithmetic of one number of a sampler's step; see accel/kernels/guided_step.py.
#pragma once

#include <cstdint>

#include "both.h"

namespace accel {

constexpr int kOutputs = 3, kTerms = 10, kHead = 4;
constexpr int kNumbers = kHead + kOutputs * (2 + kTerms);
constexpr int kSlots = kHead + kOutputs * (1 + kTerms);

struct Guided {
  float clean, other;
};

ACCEL_BOTH Guided guided(float x, float cond, float uncond, float guidance, float keep,
                         float gain) {
  const float p = uncond + (cond - uncond) * guidance;
  return {x * keep + p * gain, x * keep + uncond * gain};
}

}  // namespace accel
