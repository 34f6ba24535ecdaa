// The loops of paste.cpp for AVX2 with FMA, eight pixels or samples at a time. One tap is two loads
// of eight floats: two neighbouring pixels of four channels, in two rows.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "paste.h"

#define AVX2 __attribute__((target("avx2,fma,f16c")))

namespace accel::paste {

AVX2 inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
AVX2 inline __m256 load8(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Turn four vectors of eight pixels into eight pixels of four channels.
AVX2 inline void store_pixels(__m256 a, __m256 b, __m256 c, __m256 d, float* out) {
  const __m256 ab_lo = _mm256_unpacklo_ps(a, b), ab_hi = _mm256_unpackhi_ps(a, b);
  const __m256 cd_lo = _mm256_unpacklo_ps(c, d), cd_hi = _mm256_unpackhi_ps(c, d);
  const __m256 p04 = _mm256_shuffle_ps(ab_lo, cd_lo, 0x44);
  const __m256 p15 = _mm256_shuffle_ps(ab_lo, cd_lo, 0xee);
  const __m256 p26 = _mm256_shuffle_ps(ab_hi, cd_hi, 0x44);
  const __m256 p37 = _mm256_shuffle_ps(ab_hi, cd_hi, 0xee);
  _mm256_storeu_ps(out, _mm256_permute2f128_ps(p04, p15, 0x20));
  _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(p26, p37, 0x20));
  _mm256_storeu_ps(out + 16, _mm256_permute2f128_ps(p04, p15, 0x31));
  _mm256_storeu_ps(out + 24, _mm256_permute2f128_ps(p26, p37, 0x31));
}

// Stages whole eights from `at` on and returns how many pixels it did.
template <typename C>
AVX2 int stage_row_avx2(const C* rgb, int64_t area, int64_t at, const float* mask, int count,
                        const Color& color, float* out) {
  const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1);
  int x = 0;
  for (; x + 8 <= count; x += 8) {
    __m256 value[3], code[3];
    for (int k = 0; k < 3; ++k) {
      const __m256 raw = load8(rgb + k * area + at + x);
      const __m256 lit =
          _mm256_fmadd_ps(raw, _mm256_set1_ps(color.gain[k]), _mm256_set1_ps(color.bias[k]));
      // min and max return their second operand when one is NaN, so NaN stays.
      value[k] = _mm256_min_ps(one, _mm256_max_ps(zero, lit));
    }
    for (int k = 0; k < 3; ++k) {
      const float* w = color.to_codes + 4 * k;
      code[k] = _mm256_fmadd_ps(value[0], _mm256_set1_ps(w[0]), _mm256_set1_ps(w[3]));
      code[k] = _mm256_fmadd_ps(value[1], _mm256_set1_ps(w[1]), code[k]);
      code[k] = _mm256_fmadd_ps(value[2], _mm256_set1_ps(w[2]), code[k]);
    }
    // Here NaN becomes 0.
    const __m256 alpha = _mm256_min_ps(_mm256_max_ps(_mm256_loadu_ps(mask + at + x), zero), one);
    store_pixels(code[0], code[1], code[2], alpha, out + 4 * x);
  }
  return x;
}
// Where the taps of eight samples lie, and how far between pixels.
struct Places {
  alignas(32) int at[kTaps][kLanes];
  alignas(32) float fu[kTaps][kLanes], fv[kTaps][kLanes];
};

AVX2 inline void place(const Staged& crop, const float* du, const float* dv, int taps, __m256 u0,
                       __m256 v0, Places& places) {
  const __m256 zero = _mm256_setzero_ps();
  const __m256 right = _mm256_set1_ps(float(crop.width - 1));
  const __m256 bottom = _mm256_set1_ps(float(crop.height - 1));
  const __m256 last_u = _mm256_set1_ps(float(crop.width - 2));
  const __m256 last_v = _mm256_set1_ps(float(crop.height - 2));
  const __m256i pitch = _mm256_set1_epi32(crop.width);
  for (int t = 0; t < taps; ++t) {
    // max returns its second operand when one is NaN.
    const __m256 u =
        _mm256_min_ps(_mm256_max_ps(_mm256_add_ps(u0, _mm256_set1_ps(du[t])), zero), right);
    const __m256 v =
        _mm256_min_ps(_mm256_max_ps(_mm256_add_ps(v0, _mm256_set1_ps(dv[t])), zero), bottom);
    const __m256 iu = _mm256_min_ps(_mm256_floor_ps(u), last_u);
    const __m256 iv = _mm256_min_ps(_mm256_floor_ps(v), last_v);
    const __m256i at = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_cvttps_epi32(iv), pitch),
                                        _mm256_cvttps_epi32(iu));
    _mm256_store_si256(reinterpret_cast<__m256i*>(places.at[t]), at);
    _mm256_store_ps(places.fu[t], _mm256_sub_ps(u, iu));
    _mm256_store_ps(places.fv[t], _mm256_sub_ps(v, iv));
  }
}

// Sum the taps of sample s: three code values and alpha.
AVX2 inline __m128 gather(const Staged& crop, const Places& places, int taps, int s) {
  const float* base = crop.memory.get();
  const int64_t pitch = int64_t(crop.width) * 4;
  // With r = (left pixel, right pixel): left + fu (right - left), summed, is the low half of
  // sum(r) - sum(fu r) plus the high half of sum(fu r).
  __m256 sum = _mm256_setzero_ps(), slope = _mm256_setzero_ps();
  for (int t = 0; t < taps; ++t) {
    const float* p = base + int64_t(places.at[t][s]) * 4;
    const __m256 upper = _mm256_loadu_ps(p), lower = _mm256_loadu_ps(p + pitch);
    const __m256 r =
        _mm256_fmadd_ps(_mm256_set1_ps(places.fv[t][s]), _mm256_sub_ps(lower, upper), upper);
    sum = _mm256_add_ps(sum, r);
    slope = _mm256_fmadd_ps(_mm256_set1_ps(places.fu[t][s]), r, slope);
  }
  return _mm_add_ps(_mm256_castps256_ps128(_mm256_sub_ps(sum, slope)),
                    _mm256_extractf128_ps(slope, 1));
}

// The same for a footprint of one tap.
AVX2 inline __m128 gather_one(const Staged& crop, const Places& places, int s) {
  const float* p = crop.memory.get() + int64_t(places.at[0][s]) * 4;
  const __m256 upper = _mm256_loadu_ps(p), lower = _mm256_loadu_ps(p + int64_t(crop.width) * 4);
  const __m256 r =
      _mm256_fmadd_ps(_mm256_set1_ps(places.fv[0][s]), _mm256_sub_ps(lower, upper), upper);
  const __m128 left = _mm256_castps256_ps128(r), right = _mm256_extractf128_ps(r, 1);
  return _mm_fmadd_ps(_mm_set1_ps(places.fu[0][s]), _mm_sub_ps(right, left), left);
}

// Turn eight samples of four channels into four vectors.
AVX2 inline void transpose(const float (*in)[4], __m256* out) {
  __m256 p[4];
  for (int k = 0; k < 4; ++k)
    p[k] =
        _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_load_ps(in[k])), _mm_load_ps(in[k + 4]), 1);
  const __m256 a = _mm256_unpacklo_ps(p[0], p[1]), b = _mm256_unpackhi_ps(p[0], p[1]);
  const __m256 c = _mm256_unpacklo_ps(p[2], p[3]), d = _mm256_unpackhi_ps(p[2], p[3]);
  out[0] = _mm256_shuffle_ps(a, c, 0x44);
  out[1] = _mm256_shuffle_ps(a, c, 0xee);
  out[2] = _mm256_shuffle_ps(b, d, 0x44);
  out[3] = _mm256_shuffle_ps(b, d, 0xee);
}

AVX2 inline __m256 load_codes(const uint8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
AVX2 inline __m256 load_codes(const uint16_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
AVX2 inline __m128i narrow16(__m256i x) {
  return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
AVX2 inline void store_codes(uint8_t* p, __m256i x) {
  const __m128i words = narrow16(x);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
AVX2 inline void store_codes(uint16_t* p, __m256i x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow16(x));
}

template <typename T>
AVX2 inline void blend8(T* sample, int64_t stride, int wanted, __m256 color, __m256 alpha,
                        float max_code) {
  const __m256 zero = _mm256_setzero_ps();
  const int write =
      wanted & _mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(alpha, zero, _CMP_GT_OQ),
                                                _mm256_cmp_ps(color, color, _CMP_ORD_Q)));
  if (!write) return;
  const bool whole = write == 255 && stride == 1;
  __m256 old;
  if (whole) {
    old = load_codes(sample);
  } else {
    alignas(32) float codes[kLanes] = {};
    for (int s = 0; s < kLanes; ++s)
      if (write >> s & 1) codes[s] = float(sample[s * stride]);
    old = _mm256_load_ps(codes);
  }
  __m256 code = _mm256_fmadd_ps(alpha, _mm256_sub_ps(color, old), old);
  code = _mm256_min_ps(_mm256_max_ps(code, zero), _mm256_set1_ps(max_code));
  const __m256i rounded = _mm256_cvtps_epi32(code);
  if (whole) {
    store_codes(sample, rounded);
  } else {
    alignas(32) int codes[kLanes];
    _mm256_store_si256(reinterpret_cast<__m256i*>(codes), rounded);
    for (int s = 0; s < kLanes; ++s)
      if (write >> s & 1) sample[s * stride] = T(codes[s]);
  }
}

template <typename T>
AVX2 void block_avx2(const Job<T>& job, int j, int i, int count, double u, double v) {
  const __m256 lane = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 du = _mm256_set1_ps(float(job.matrix.a * job.group.step_x));
  const __m256 dv = _mm256_set1_ps(float(job.matrix.c * job.group.step_x));
  const __m256 u0 = _mm256_fmadd_ps(lane, du, _mm256_set1_ps(float(u)));
  const __m256 v0 = _mm256_fmadd_ps(lane, dv, _mm256_set1_ps(float(v)));
  const int taps = int(job.taps.du.size());
  Places places;
  alignas(32) float sums[kLanes][4];
  if (taps == 1) {
    place(job.crop, job.taps.du.data(), job.taps.dv.data(), 1, u0, v0, places);
    for (int s = 0; s < kLanes; ++s) _mm_store_ps(sums[s], gather_one(job.crop, places, s));
  } else {
    std::memset(sums, 0, sizeof sums);
    for (int t = 0; t < taps; t += kTaps) {
      const int here = std::min(kTaps, taps - t);
      place(job.crop, job.taps.du.data() + t, job.taps.dv.data() + t, here, u0, v0, places);
      for (int s = 0; s < kLanes; ++s)
        _mm_store_ps(sums[s], _mm_add_ps(_mm_load_ps(sums[s]), gather(job.crop, places, here, s)));
    }
  }
  __m256 mean[4];
  transpose(sums, mean);
  const __m256 share = _mm256_set1_ps(1.0f / float(taps));
  for (__m256& channel : mean) channel = _mm256_mul_ps(channel, share);
  for (int k = 0; k < job.group.count; ++k) {
    const Plane<T>& plane = job.planes[job.group.channel + k];
    blend8(plane.data + j * plane.row + i * plane.column, plane.column, (1 << count) - 1,
           mean[job.group.channel + k], mean[3], job.max_code);
  }
}

}  // namespace accel::paste

#undef AVX2
