// How far points move along a direction of colour space, by the step between two ends they lie in.
#pragma once

#include <cstdint>

namespace accel {

constexpr int64_t kShiftSteps = 1 << 11;

struct Shift {
  float low, per_step;
  float away[kShiftSteps];
};

}  // namespace accel
