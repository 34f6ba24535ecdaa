// One sample of a plane that a pattern is added to. accel/kernels/mark.py is the definition.
#pragma once

#include <cstdint>

#include "both.h"

namespace accel {

ACCEL_BOTH int32_t marked(int32_t code, int32_t pattern, int32_t unit, int32_t max_code) {
  const int32_t value = code + pattern * unit;
  return value < 0 ? 0 : value > max_code ? max_code : value;
}

}  // namespace accel
