#include <cstdlib>

#define ACCEL_VECTOR_CODE "both.h"
#include "binding.h"
#include "simd.h"

namespace accel {
namespace {

int lanes_of_cpu() {
#if ACCEL_WIDE
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx512) return 16;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
  return 4;
}

int lanes_allowed() {
  const char* asked = std::getenv("ACCEL_LANES");
  const int limit = asked ? std::atoi(asked) : 16, have = lanes_of_cpu();
  return limit >= have ? have : limit >= 8 ? 8 : 4;
}

}  // namespace

int simd_lanes() {
  static const int lanes = lanes_allowed();
  return lanes;
}

}  // namespace accel

ACCEL_BIND(simd) { m.def("simd_lanes", &accel::simd_lanes); }
