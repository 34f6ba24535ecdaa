// Values of -1..1 to bytes. Included by simd.h, once per vector width.

typedef uint8_t Bytes __attribute__((vector_size(ACCEL_LANES), may_alias));

// Rounds halves to even, as torch does; NaN becomes 0. Product and sum round apart, so that bytes
// do not depend on the CPU.
inline void to_bytes(const float* x, int64_t count, uint8_t* to) {
  const Vec half = spread(127.5f), none = spread(0.f), most = spread(255.f);
  const Vec magic = spread(12582912.f);  // 1.5 * 2^23: beyond it there are no fractions
  for (int64_t i = 0; i < count; i += kLanes) {
    const int some = int(count - i < kLanes ? count - i : kLanes);
    Vec v = (some == kLanes ? load(x + i) : load_some(x + i, some)) * half;
    v = smaller(larger(v + half, none), most);
    const VecInt whole = __builtin_convertvector((v + magic) - magic, VecInt);
    const Bytes bytes = __builtin_convertvector(whole, Bytes);
    __builtin_memcpy(to + i, &bytes, some == kLanes ? sizeof bytes : size_t(some));
  }
}
