// What the machine itself can do, for benchmarks to measure shares against.
#define ACCEL_VECTOR_CODE "ceiling_loop.h"
#include "binding.h"
#include "simd.h"

namespace accel {
namespace {

// Runs `rounds` of the multiply-add loop on this thread; returns the operations it did.
double multiply_adds(int64_t rounds) {
  nb::gil_scoped_release unlocked;
  volatile float kept = ACCEL_WIDEST(multiply_add(rounds, 0.5f));
  (void)kept;
  const int64_t each = simd_lanes() * int64_t(2) * wide4::kChains;
  return double(each) * double(rounds);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(ceiling) { m.def("multiply_adds", &accel::multiply_adds, "rounds"_a); }
