// A vector of floats for one instruction set, chosen by ACCEL_ISA_AVX512, ACCEL_ISA_AVX2 or
// neither. Included once by each of conv_avx512.cpp, conv_avx2.cpp and conv_plain.cpp, inside an
// unnamed namespace, after the target pragma: nothing here may reach another file.

#if defined(ACCEL_ISA_AVX512)
constexpr int kLanes = 16;
using Vec = __m512;
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
inline Vec all(float a) { return _mm512_set1_ps(a); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }  // a·b + c
inline Vec load_some(const float* p, int n) {  // the first n, zero after them
  return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
inline void store_some(float* p, Vec a, int n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), a);
}
inline Vec where_negative(Vec a, Vec yes, Vec no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ), no, yes);
}
// The sums of four vectors. The order is that of `fold` in conv_isa.h.
inline void sums_of(const Vec* a, float* to) {
  __m256 b[4];
  for (int i = 0; i < 4; ++i)
    b[i] = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, a[i], 0),
                         _mm512_maskz_extractf32x8_ps(0xff, a[i], 1));
  const __m256 x = _mm256_add_ps(_mm256_unpacklo_ps(b[0], b[1]), _mm256_unpackhi_ps(b[0], b[1]));
  const __m256 y = _mm256_add_ps(_mm256_unpacklo_ps(b[2], b[3]), _mm256_unpackhi_ps(b[2], b[3]));
  const __m256 z = _mm256_add_ps(_mm256_shuffle_ps(x, y, 0x44), _mm256_shuffle_ps(x, y, 0xee));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(z), _mm256_extractf128_ps(z, 1)));
}
inline bool any_nan(Vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
#elif defined(ACCEL_ISA_AVX2)
constexpr int kLanes = 8;
using Vec = __m256;
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
inline Vec all(float a) { return _mm256_set1_ps(a); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load_some(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
inline void store_some(float* p, Vec a, int n) { _mm256_maskstore_ps(p, first(n), a); }
inline Vec where_negative(Vec a, Vec yes, Vec no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_LT_OQ));
}
inline void sums_of(const Vec* a, float* to) {
  const __m256 x = _mm256_add_ps(_mm256_unpacklo_ps(a[0], a[1]), _mm256_unpackhi_ps(a[0], a[1]));
  const __m256 y = _mm256_add_ps(_mm256_unpacklo_ps(a[2], a[3]), _mm256_unpackhi_ps(a[2], a[3]));
  const __m256 z = _mm256_add_ps(_mm256_shuffle_ps(x, y, 0x44), _mm256_shuffle_ps(x, y, 0xee));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(z), _mm256_extractf128_ps(z, 1)));
}
inline bool any_nan(Vec a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
#else
constexpr int kLanes = 8;
struct Vec {
  float v[kLanes];
};
template <typename F>
inline Vec each(F f) {
  Vec r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}
inline Vec load(const float* p) {
  return each([=](int i) { return p[i]; });
}
inline void store(float* p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
inline Vec all(float a) {
  return each([=](int) { return a; });
}
inline Vec add(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec sub(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec mul(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Vec load_some(const float* p, int n) {
  return each([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store_some(float* p, Vec a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
inline Vec where_negative(Vec a, Vec yes, Vec no) {
  return each([&](int i) { return a.v[i] < 0.0f ? yes.v[i] : no.v[i]; });
}
inline void sums_of(const Vec* a, float* to) {
  for (int i = 0; i < 4; ++i) {
    const float* v = a[i].v;
    to[i] = ((v[0] + v[2]) + (v[1] + v[3])) + ((v[4] + v[6]) + (v[5] + v[7]));
  }
}
inline bool any_nan(Vec a) {
  for (int i = 0; i < kLanes; ++i)
    if (a.v[i] != a.v[i]) return true;
  return false;
}
#endif

// Turns kLanes rows of kLanes floats: out[i] gets element i of every row.
#if defined(ACCEL_ISA_AVX512)
inline void transpose(const Vec* in, float* const* out) {
  __m512 a[16], b[16];
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_ps(in[2 * i], in[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_ps(in[2 * i], in[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d w = _mm512_castps_pd(a[4 * i]), x = _mm512_castps_pd(a[4 * i + 1]),
                  y = _mm512_castps_pd(a[4 * i + 2]), z = _mm512_castps_pd(a[4 * i + 3]);
    b[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(w, y));
    b[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(w, y));
    b[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, z));
    b[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, z));
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0x88);
    a[4 + i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0xdd);
    a[8 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x88);
    a[12 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    store(out[i], _mm512_shuffle_f32x4(a[i], a[8 + i], 0x88));
    store(out[4 + i], _mm512_shuffle_f32x4(a[4 + i], a[12 + i], 0x88));
    store(out[8 + i], _mm512_shuffle_f32x4(a[i], a[8 + i], 0xdd));
    store(out[12 + i], _mm512_shuffle_f32x4(a[4 + i], a[12 + i], 0xdd));
  }
}
#elif defined(ACCEL_ISA_AVX2)
inline void transpose(const Vec* in, float* const* out) {
  __m256 a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_ps(in[2 * i], in[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_ps(in[2 * i], in[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
    b[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xee);
    b[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
    b[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    store(out[i], _mm256_permute2f128_ps(b[i], b[4 + i], 0x20));
    store(out[4 + i], _mm256_permute2f128_ps(b[i], b[4 + i], 0x31));
  }
}
#else
inline void transpose(const Vec* in, float* const* out) {
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < kLanes; ++j) out[i][j] = in[j].v[i];
}
#endif
