// A short vector of floats, for code that is compiled once per instruction set.
//
// Included several times, each time inside another namespace and with ACCEL_LANES set to 4 (any
// CPU), 8 (AVX2 + FMA) or 16 (AVX-512): no include guard on purpose. See csrc/simd.h.

typedef float Vec __attribute__((vector_size(4 * ACCEL_LANES), may_alias));
typedef int32_t VecInt __attribute__((vector_size(4 * ACCEL_LANES), may_alias));
constexpr int kLanes = ACCEL_LANES;

#define ACCEL_INLINE __attribute__((always_inline)) inline

ACCEL_INLINE Vec load(const float* at) {
  Vec v;
  __builtin_memcpy(&v, at, sizeof v);
  return v;
}

ACCEL_INLINE void store(float* at, Vec v) { __builtin_memcpy(at, &v, sizeof v); }

// The first `count` lanes from memory, zeros after them.
ACCEL_INLINE Vec load_some(const float* at, int count) {
  Vec v = {};
  __builtin_memcpy(&v, at, sizeof(float) * count);
  return v;
}

ACCEL_INLINE void store_some(float* at, Vec v, int count) {
  __builtin_memcpy(at, &v, sizeof(float) * count);
}

// Past the caches, for large results: what is not read before it is written need not be fetched.
// `at` lies on a vector's boundary; fence() before another thread may read.
ACCEL_INLINE void stream(float* at, Vec v) {
#if ACCEL_LANES == 16
  _mm512_stream_ps(at, v);
#elif ACCEL_LANES == 8
  _mm256_stream_ps(at, v);
#else
  store(at, v);
#endif
}

ACCEL_INLINE void fence() {
#if ACCEL_LANES > 4
  _mm_sfence();
#endif
}

ACCEL_INLINE Vec spread(float x) { return x - Vec{}; }

ACCEL_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if ACCEL_LANES == 16
  return _mm512_fmadd_ps(a, b, c);
#elif ACCEL_LANES == 8
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

ACCEL_INLINE float sum(Vec v) {
  float part[kLanes];
  store(part, v);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

ACCEL_INLINE float largest_of(Vec v) {
  float part[kLanes];
  store(part, v);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) part[i] = part[i] > part[i + half] ? part[i] : part[i + half];
  return part[0];
}

// The larger of two; b where either is NaN.
ACCEL_INLINE Vec larger(Vec a, Vec b) {
#if ACCEL_LANES == 16
  return _mm512_maskz_max_ps(0xffff, a, b);  // the plain form makes gcc 12 warn of its header
#elif ACCEL_LANES == 8
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

// The smaller of two; b where either is NaN.
ACCEL_INLINE Vec smaller(Vec a, Vec b) {
#if ACCEL_LANES == 16
  return _mm512_maskz_min_ps(0xffff, a, b);
#elif ACCEL_LANES == 8
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

// 2^f to 3e-8 relative for f in -1/2..1/2.
ACCEL_INLINE Vec fraction_exp2(Vec f) {
  Vec p = spread(0x1.432602p-13f);
  p = fma(p, f, spread(0x1.5f6c40p-10f));
  p = fma(p, f, spread(0x1.3b2bf8p-7f));
  p = fma(p, f, spread(0x1.c6ae7ap-5f));
  p = fma(p, f, spread(0x1.ebfbdep-3f));
  p = fma(p, f, spread(0x1.62e432p-1f));
  return fma(p, f, spread(1.f));
}

// 2^x to 3e-8 relative for x in -126..127.
ACCEL_INLINE Vec exp2_within(Vec x) {
  const Vec magic = spread(12582912.f);  // 1.5 * 2^23
  const Vec shifted = x + magic;         // its last bits are the whole number nearest to x
  const VecInt whole = (VecInt)shifted - (VecInt)magic;
  return fraction_exp2(x - (shifted - magic)) * (Vec)((whole + 127) << 23);
}

// 2^x, x held to 127 at most; NaN stays NaN. Below -126 it is 0 with AVX-512, 2^-126 elsewhere.
ACCEL_INLINE Vec exp2(Vec x) {
  x = smaller(spread(127.f), x);
#if ACCEL_LANES == 16
  // The masks are whole: the plain forms make gcc 12 warn of its own header.
  const Vec f = _mm512_maskz_reduce_ps(0xffff, x, 0);  // what the nearest whole number leaves
  return _mm512_maskz_scalef_ps(0xffff, fraction_exp2(f), x - f);
#else
  return exp2_within(larger(spread(-126.f), x));
#endif
}

ACCEL_INLINE Vec exp(Vec x) { return exp2(x * spread(0x1.715476p+0f)); }

// 1/x to 1e-7 relative, for x in 1..2^127.
ACCEL_INLINE Vec reciprocal(Vec x) {
#if ACCEL_LANES == 16
  const Vec near = _mm512_maskz_rcp14_ps(0xffff, x);
  return fma(near, fma(-x, near, spread(1.f)), near);
#else
  return 1.f / x;
#endif
}

ACCEL_INLINE Vec silu(Vec x) { return x * reciprocal(exp(-x) + 1.f); }

// The error function by Abramowitz and Stegun's formula 7.1.26: 1.5e-7 absolute.
ACCEL_INLINE Vec erf(Vec x) {
  const VecInt sign = (VecInt)x & int32_t(0x80000000);
  const Vec a = smaller(spread(10.f), (Vec)((VecInt)x & 0x7fffffff));  // 1 long before
  const Vec t = reciprocal(fma(spread(0.3275911f), a, spread(1.f)));
  Vec p = spread(1.061405429f);
  p = fma(p, t, spread(-1.453152027f));
  p = fma(p, t, spread(1.421413741f));
  p = fma(p, t, spread(-0.284496736f));
  p = fma(p, t, spread(0.254829592f));
  const Vec r = 1.f - p * t * exp(-a * a);
  return (Vec)((VecInt)r | sign);
}

#undef ACCEL_INLINE
