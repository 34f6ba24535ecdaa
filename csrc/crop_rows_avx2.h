// Eight values of a crop's row at a time. The same operations in the same order as the scalar forms
// and no fused multiply-add, so that the result does not depend on the CPU.
#pragma once

#ifdef ACCEL_AVX2
#define ACCEL_SIMD __attribute__((target("avx2,f16c"))) inline
#define ACCEL_SIMD_ALWAYS __attribute__((target("avx2,f16c"), always_inline)) inline

namespace accel {

// Eight places of a plane, where two neighbours lie within four bytes of each other.
struct Places {
  __m256i offset;
  __m256 tu, tv;
};

ACCEL_SIMD_ALWAYS __m256 bilinear8(const uint8_t* at, const Plane& plane, const Places& places) {
  const __m256i mask = _mm256_set1_epi32(plane.wide ? 0xffff : 0xff);
  const __m128i shift = _mm_cvtsi32_si128(8 * plane.step);
  const int* top = reinterpret_cast<const int*>(at);
  const int* low = reinterpret_cast<const int*>(at + plane.row);
  const __m256i g = _mm256_i32gather_epi32(top, places.offset, 1);
  const __m256i h = _mm256_i32gather_epi32(low, places.offset, 1);
  const __m256 a = _mm256_cvtepi32_ps(_mm256_and_si256(g, mask));
  const __m256 b = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(g, shift), mask));
  const __m256 c = _mm256_cvtepi32_ps(_mm256_and_si256(h, mask));
  const __m256 d = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(h, shift), mask));
  const __m256 upper = _mm256_add_ps(a, _mm256_mul_ps(places.tu, _mm256_sub_ps(b, a)));
  const __m256 lower = _mm256_add_ps(c, _mm256_mul_ps(places.tu, _mm256_sub_ps(d, c)));
  return _mm256_add_ps(upper, _mm256_mul_ps(places.tv, _mm256_sub_ps(lower, upper)));
}

// Eight times `blocks` crop pixels from x on (from the centre), all of whose samples lie inside
// with room for a gather of four bytes, in kPlanes planes that lie in memory alike.
template <int kPlanes>
ACCEL_SIMD void average_blocks(const Plane* planes, const Comb& comb, float u, float v, float x,
                               int blocks, float* const* out) {
  const Plane plane = planes[0];
  // The samples lie inside, and so does the origin: offsets between them fit.
  const int64_t origin = comb.origin_y * plane.row + int64_t(comb.origin_x) * plane.step;
  const __m256i row = _mm256_set1_epi32(int(plane.row)), step = _mm256_set1_epi32(plane.step);
  const __m256 lane = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
  for (int at = 0; at < 8 * blocks; at += 8) {
    const __m256 right = _mm256_add_ps(_mm256_set1_ps(x + float(at)), lane);
    const __m256 u0 =
        _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(comb.a00), right), _mm256_set1_ps(u));
    const __m256 v0 =
        _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(comb.a10), right), _mm256_set1_ps(v));
    __m256 total[kPlanes];
    for (int p = 0; p < kPlanes; ++p) total[p] = _mm256_setzero_ps();
    for (int j = 0; j < comb.ky; ++j)
      for (int i = 0; i < comb.kx; ++i) {
        const float du = float(i) * comb.right_u + float(j) * comb.down_u;
        const float dv = float(i) * comb.right_v + float(j) * comb.down_v;
        const __m256 su = _mm256_add_ps(u0, _mm256_set1_ps(du));
        const __m256 sv = _mm256_add_ps(v0, _mm256_set1_ps(dv));
        const __m256 fu = _mm256_floor_ps(su), fv = _mm256_floor_ps(sv);
        const __m256i offset = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_cvttps_epi32(fv), row),
                                                _mm256_mullo_epi32(_mm256_cvttps_epi32(fu), step));
        const Places places = {offset, _mm256_sub_ps(su, fu), _mm256_sub_ps(sv, fv)};
        for (int p = 0; p < kPlanes; ++p)
          total[p] = _mm256_add_ps(total[p], bilinear8(planes[p].data + origin, plane, places));
      }
    for (int p = 0; p < kPlanes; ++p)
      _mm256_storeu_ps(out[p] + at, _mm256_mul_ps(total[p], _mm256_set1_ps(comb.share)));
  }
}

// Eight neighbours in a row, as floats. With two bytes from one to the next it reads one byte past
// the last of them.
template <int kStep, bool kWide>
ACCEL_SIMD __m256 load8(const uint8_t* at) {
  if constexpr (kWide)
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
  else if constexpr (kStep == 1)
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
  else
    return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm_and_si128(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)), _mm_set1_epi16(0xff))));
}

template <int kStep, bool kWide>
ACCEL_SIMD int sum_columns8_as(const Plane& plane, const Taps& down, int y, int height, int low,
                               int count, float* sums) {
  const uint8_t* start = plane.data + down.first[y] * plane.row + int64_t(low) * plane.step;
  const float* weight = down.weight.data() + y;
  int x = 0;
  for (; x + 32 < count; x += 32) {
    __m256 total[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                       _mm256_setzero_ps()};
    const uint8_t* at = start + int64_t(x) * plane.step;
    for (int j = 0; j < down.n; ++j, at += plane.row) {
      const __m256 w = _mm256_set1_ps(weight[size_t(j) * height]);
      if (weight[size_t(j) * height] == 0.0f) continue;  // off the frame most taps carry nothing
      for (int i = 0; i < 4; ++i)
        total[i] =
            _mm256_add_ps(total[i], _mm256_mul_ps(w, load8<kStep, kWide>(at + 8 * i * plane.step)));
    }
    for (int i = 0; i < 4; ++i) _mm256_storeu_ps(sums + x + 8 * i, total[i]);
  }
  for (; x + 8 < count; x += 8) {
    __m256 total = _mm256_setzero_ps();
    const uint8_t* at = start + int64_t(x) * plane.step;
    for (int j = 0; j < down.n; ++j, at += plane.row)
      total = _mm256_add_ps(total, _mm256_mul_ps(_mm256_set1_ps(weight[size_t(j) * height]),
                                                 load8<kStep, kWide>(at)));
    _mm256_storeu_ps(sums + x, total);
  }
  return x;
}

// Fills sums[0 .. result) with row y's taps summed down columns low .. low + result.
ACCEL_SIMD int sum_columns8(const Plane& plane, const Taps& down, int y, int height, int low,
                            int count, float* sums) {
  if (plane.wide && plane.step == 2)
    return sum_columns8_as<2, true>(plane, down, y, height, low, count, sums);
  if (!plane.wide && plane.step == 1)
    return sum_columns8_as<1, false>(plane, down, y, height, low, count, sums);
  if (!plane.wide && plane.step == 2)
    return sum_columns8_as<2, false>(plane, down, y, height, low, count, sums);
  return 0;
}

ACCEL_SIMD int sum_row8(const Taps& taps, int values, const float* sums, float* out) {
  const __m256i low = _mm256_set1_epi32(taps.low);
  int x = 0;
  for (; x + 8 <= values; x += 8) {
    const __m256i first = _mm256_sub_epi32(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps.first.data() + x)), low);
    __m256 total = _mm256_setzero_ps();
    for (int j = 0; j < taps.n; ++j)
      total = _mm256_add_ps(
          total, _mm256_mul_ps(_mm256_loadu_ps(taps.weight.data() + size_t(j) * values + x),
                               _mm256_i32gather_ps(sums + j, first, 4)));
    _mm256_storeu_ps(out + x, total);
  }
  return x;
}

ACCEL_SIMD int color8(const float* m, float gain, float bias, float* const code[3],
                      const float* share, int count, float* out) {
  const __m256 m0 = _mm256_set1_ps(m[0]), m1 = _mm256_set1_ps(m[1]), m2 = _mm256_set1_ps(m[2]);
  const __m256 m3 = _mm256_set1_ps(m[3]), one = _mm256_set1_ps(1.0f);
  int x = 0;
  for (; x + 8 <= count; x += 8) {
    __m256 value = _mm256_add_ps(_mm256_mul_ps(m0, _mm256_loadu_ps(code[0] + x)),
                                 _mm256_mul_ps(m1, _mm256_loadu_ps(code[1] + x)));
    value = _mm256_add_ps(value, _mm256_mul_ps(m2, _mm256_loadu_ps(code[2] + x)));
    value = _mm256_add_ps(value, m3);
    value = _mm256_min_ps(_mm256_max_ps(value, _mm256_setzero_ps()), one);
    if (share) value = _mm256_mul_ps(value, _mm256_loadu_ps(share + x));
    value = _mm256_add_ps(_mm256_mul_ps(value, _mm256_set1_ps(gain)), _mm256_set1_ps(bias));
    _mm256_storeu_ps(out + x, value);
  }
  return x;
}

ACCEL_SIMD int halves8(const float* from, int count, uint16_t* out, int64_t gap) {
  int x = 0;
  for (; x + 8 <= count; x += 8) {
    const __m128i h =
        _mm256_cvtps_ph(_mm256_loadu_ps(from + x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (gap == 1) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x), h);
      continue;
    }
    uint16_t value[8];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(value), h);
    for (int i = 0; i < 8; ++i) out[(x + i) * gap] = value[i];
  }
  return x;
}

}  // namespace accel
#endif
