// What the feather and the pyramid share with each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "clones.h"

namespace accel::blend {

constexpr int64_t kVector = 8, kBlock = 4 * kVector;
using Vector = float __attribute__((vector_size(4 * kVector)));
using AnyVector = float __attribute__((vector_size(4 * kVector), aligned(4), may_alias));

inline int64_t round_up(int64_t n) { return (n + kBlock - 1) / kBlock * kBlock; }

// Place of sample i of a line of n, reflected about its end samples: 2 1 0 1 2 .. n-1 n-2.
inline int64_t reflect(int64_t i, int64_t n) {
  if (n == 1) return 0;
  if (i < 0) i = -i;
  return i < n ? i : 2 * n - 2 - i;
}

// Length of a line at the next level of a pyramid.
inline int64_t half(int64_t n) { return (n + 1) / 2; }

}  // namespace accel::blend
