// Compile one header of vector code for every instruction set, and choose at run time.
//
//   #define ACCEL_VECTOR_CODE "attention_tiles.h"
//   #include "simd.h"
//
// puts the header's contents into accel::wide4, accel::wide8 (AVX2 + FMA) and accel::wide16
// (AVX-512); ACCEL_WIDEST(call) then runs the widest one that this CPU has. target_clones cannot do
// this: it fixes neither the width of a register tile nor which products are fused.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "both.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ACCEL_WIDE 1
#include <immintrin.h>
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12 warns of its own header
#else
#define ACCEL_WIDE 0
#endif

namespace accel {

// Lanes of the widest code that may run here. ACCEL_LANES in the environment lowers it, for tests.
int simd_lanes();

// Uninitialised floats on a cache line's boundary, so that no vector straddles two lines.
struct Floats {
  explicit Floats(int64_t count)
      : data(static_cast<float*>(::operator new(sizeof(float) * count, std::align_val_t(64)))) {}
  ~Floats() { ::operator delete(data, std::align_val_t(64)); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  float* const data;
};

// Such memory that grows and is kept; for a thread's own, as new pages cost more than many a
// kernel.
class Kept {
 public:
  float* get(int64_t count) {
    if (count > size_) {
      floats_.reset();  // the old ones first: both may not fit
      floats_ = std::make_unique<Floats>(count);
      size_ = count;
    }
    return floats_ ? floats_->data : nullptr;
  }

 private:
  std::unique_ptr<Floats> floats_;
  int64_t size_ = 0;
};

}  // namespace accel

namespace accel::wide4 {
#define ACCEL_LANES 4
#include "vector.h"
#include ACCEL_VECTOR_CODE
#undef ACCEL_LANES
}  // namespace accel::wide4

#if ACCEL_WIDE
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace accel::wide8 {
#define ACCEL_LANES 8
#include "vector.h"
#include ACCEL_VECTOR_CODE
#undef ACCEL_LANES
}  // namespace accel::wide8
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
namespace accel::wide16 {
#define ACCEL_LANES 16
#include "vector.h"
#include ACCEL_VECTOR_CODE
#undef ACCEL_LANES
}  // namespace accel::wide16
#pragma GCC pop_options

#define ACCEL_WIDEST(call) \
  (accel::simd_lanes() == 16 ? wide16::call : accel::simd_lanes() == 8 ? wide8::call : wide4::call)
#else
#define ACCEL_WIDEST(call) (wide4::call)
#endif
