// One chroma coordinate of a picture's pixel, and rounding to codes: shared by both directions.
#pragma once

#include "planes.h"

namespace accel {

// Where luma pixel `at` falls between chroma samples that lie at site + i 2^shift.
ACCEL_BOTH Between chroma_between(int at, int shift, float site, int count) {
  return between((float(at) - site) / float(1 << shift), 0, count);
}

ACCEL_BOTH int code_of(float value, float max_code) {
  return int(clamp_to(value + 0.5f, 0.0f, max_code + 0.5f));
}

}  // namespace accel
