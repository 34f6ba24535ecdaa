// What the machine itself can do, for benchmarks to measure shares against.
#define ACCEL_VECTOR_CODE "ceiling_loop.h"
#include "binding.h"
#include "conv_tiles.h"
#include "simd.h"

namespace accel {
namespace {

// Runs `rounds` of the multiply-add loop on this thread, on vectors of `lanes` floats, or on the
// widest where that is 0; returns the operations it did.
double multiply_adds(int64_t rounds, int lanes) {
  if (!lanes) lanes = simd_lanes();
  if ((lanes != 4 && lanes != 8 && lanes != 16) || lanes > simd_lanes())
    throw std::invalid_argument("multiply_adds: lanes must be 4, 8 or 16, and be there");
  nb::gil_scoped_release unlocked;
#if ACCEL_WIDE
  volatile float kept = lanes == 16  ? wide16::multiply_add(rounds, 0.5f)
                        : lanes == 8 ? wide8::multiply_add(rounds, 0.5f)
                                     : wide4::multiply_add(rounds, 0.5f);
#else
  volatile float kept = wide4::multiply_add(rounds, 0.5f);
#endif
  (void)kept;
  const int64_t each = lanes * int64_t(2) * wide4::kChains;
  return double(each) * double(rounds);
}

// The same on tile registers: products of bfloat16, summed in float32. To be called only where the
// convolutions use them.
#if ACCEL_WIDE && defined(__linux__)
__attribute__((target("amx-tile,amx-bf16"))) double tile_multiply_adds(int64_t rounds) {
  nb::gil_scoped_release unlocked;
  _tile_loadconfig(&kTileShapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return double(rounds) * 6 * 2 * 16 * 16 * 32;
}
#endif

}  // namespace
}  // namespace accel

ACCEL_BIND(ceiling) {
  m.def("multiply_adds", &accel::multiply_adds, "rounds"_a, "lanes"_a = 0);
#if ACCEL_WIDE && defined(__linux__)
  m.def("tile_multiply_adds", &accel::tile_multiply_adds, "rounds"_a);
#endif
}
