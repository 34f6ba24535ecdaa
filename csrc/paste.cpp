// paste on the CPU. A face's crop is staged once, colour-corrected and turned into code values;
// then each sample of the planes that the mask can reach gathers its taps from there. One tap is
// two loads of eight floats: two neighbouring pixels of four channels, in two rows.
#include "paste.h"

#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>

#include "binding.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define ACCEL_PASTE_AVX2 1
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#endif

namespace accel::paste {
namespace {

// What turns one crop's RGB into code values.
struct Color {
  float gain[3], bias[3], to_codes[12];
};

template <typename T>
struct Plane {
  T* data;
  int64_t row, column;  // strides, in samples
};

// One group, one face.
template <typename T>
struct Job {
  const Matrix& matrix;
  const Group& group;
  const Staged& crop;
  const Taps& taps;
  Plane<T> planes[3];
  float max_code;
};

float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | mantissa << 13;
  } else if (exponent == 0) {
    const float value = std::ldexp(float(mantissa), -24);
    return sign ? -value : value;
  } else {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
float load(const float* p) { return *p; }
float load(const uint16_t* p) { return half_to_float(*p); }

// Written so that NaN stays NaN.
float clamp_color(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }
// Written so that NaN becomes 0.
float clamp_mask(float x) { return x > 0 ? (x > 1 ? 1 : x) : 0; }

template <typename C>
void stage_pixel(const C* rgb, int64_t area, int64_t at, float mask, const Color& color,
                 float* out) {
  float value[3];
  for (int k = 0; k < 3; ++k)
    value[k] = clamp_color(load(rgb + k * area + at) * color.gain[k] + color.bias[k]);
  for (int k = 0; k < 3; ++k) {
    const float* w = color.to_codes + 4 * k;
    out[k] = w[0] * value[0] + w[1] * value[1] + w[2] * value[2] + w[3];
  }
  out[3] = clamp_mask(mask);
}

#ifdef ACCEL_PASTE_AVX2
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
#endif

bool has_avx2() {
#ifdef ACCEL_PASTE_AVX2
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

// Find where the mask is above 0; false when it is nowhere.
bool bound_mask(const float* mask, int side, Staged& crop) {
  crop.first.assign(side, side);
  crop.last.assign(side, -1);
  crop.x0 = crop.y0 = side;
  crop.x1 = crop.y1 = -1;
  for (int y = 0; y < side; ++y) {
    const float* row = mask + int64_t(y) * side;
    int first = 0, last = side - 1;
    while (first < side && !(row[first] > 0)) ++first;
    if (first == side) continue;
    while (!(row[last] > 0)) --last;
    crop.first[y] = first;
    crop.last[y] = last;
    crop.x0 = std::min(crop.x0, first);
    crop.x1 = std::max(crop.x1, last);
    crop.y0 = std::min(crop.y0, y);
    crop.y1 = y;
  }
  return crop.x1 >= 0;
}

// Stage what samples that see the mask can see: the mask's bounds and a footprint around them.
template <typename C>
void stage(const C* rgb, const float* mask, int side, const Color& color, double margin_u,
           double margin_v, bool simd, int threads, Staged& crop) {
  const int64_t area = int64_t(side) * side;
  crop.left = std::max(-1, to_int(std::floor(crop.x0 - 2 - margin_u)));
  crop.top = std::max(-1, to_int(std::floor(crop.y0 - 2 - margin_v)));
  crop.width = std::min(side, to_int(std::ceil(crop.x1 + 2 + margin_u))) - crop.left + 1;
  crop.height = std::min(side, to_int(std::ceil(crop.y1 + 2 + margin_v))) - crop.top + 1;
  crop.memory.reset(new float[size_t(crop.width) * crop.height * 4]);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int j = 0; j < crop.height; ++j) {
    const int y = crop.top + j, inside_y = std::min(std::max(y, 0), side - 1);
    float* out = crop.memory.get() + size_t(j) * crop.width * 4;
    const int64_t row = int64_t(inside_y) * side;
    int i = crop.left < 0 ? 1 : 0;
    if (i) stage_pixel(rgb, area, row, 0.0f, color, out);
    const int end = std::min(side - crop.left, crop.width);  // the column of coordinate S, or none
#ifdef ACCEL_PASTE_AVX2
    if (simd)
      i += stage_row_avx2(rgb, area, row + crop.left + i, mask, end - i, color, out + 4 * i);
#endif
    for (; i < end; ++i)
      stage_pixel(rgb, area, row + crop.left + i, mask[row + crop.left + i], color, out + 4 * i);
    if (end < crop.width) stage_pixel(rgb, area, row + side - 1, 0.0f, color, out + 4 * end);
    if (y != inside_y)
      for (int k = 0; k < crop.width; ++k) out[4 * k + 3] = 0;
  }
  (void)simd;
}

// Average one sample's taps: three code values and alpha.
void average(const Staged& crop, const Taps& taps, float u0, float v0, float* out) {
  const float right = float(crop.width - 1), bottom = float(crop.height - 1);
  const float* base = crop.memory.get();
  const int64_t pitch = int64_t(crop.width) * 4;
  double total[4] = {0, 0, 0, 0};
  for (size_t t = 0; t < taps.du.size(); ++t) {
    float u = u0 + taps.du[t], v = v0 + taps.dv[t];
    u = u > 0 ? std::min(u, right) : 0;  // NaN, the difference of two infinities, becomes 0
    v = v > 0 ? std::min(v, bottom) : 0;
    const int iu = std::min(int(u), crop.width - 2), iv = std::min(int(v), crop.height - 2);
    const float fu = u - iu, fv = v - iv;
    const float* p = base + iv * pitch + iu * 4;
    for (int k = 0; k < 4; ++k) {
      const float left = p[k] + fv * (p[pitch + k] - p[k]);
      const float next = p[4 + k] + fv * (p[pitch + 4 + k] - p[4 + k]);
      total[k] += left + fu * (next - left);
    }
  }
  for (int k = 0; k < 4; ++k) out[k] = float(total[k] / double(taps.du.size()));
}

template <typename T>
void blend(T* sample, float color, float alpha, float max_code) {
  if (!(alpha > 0) || color != color) return;
  const float old = float(*sample);
  const float code = std::nearbyint(old + alpha * (color - old));
  *sample = T(std::min(std::max(code, 0.0f), max_code));
}

// Eight samples of one row, of which the first `count` are wanted.
template <typename T>
void block(const Job<T>& job, int j, int i, int count, double u, double v) {
  const double du = job.matrix.a * job.group.step_x, dv = job.matrix.c * job.group.step_x;
  for (int s = 0; s < count; ++s) {
    float mean[4];
    average(job.crop, job.taps, float(u + s * du), float(v + s * dv), mean);
    for (int k = 0; k < job.group.count; ++k) {
      const Plane<T>& plane = job.planes[job.group.channel + k];
      blend(plane.data + j * plane.row + (i + s) * plane.column, mean[job.group.channel + k],
            mean[3], job.max_code);
    }
  }
}

#ifdef ACCEL_PASTE_AVX2
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
#endif

template <typename T>
void paste_row(const Job<T>& job, int j, bool simd) {
  const Matrix& m = job.matrix;
  const Group& g = job.group;
  const Range range = span(m, g, job.taps, job.crop, j);
  const double y = g.site_y + j * g.step_y;
  for (int i = range.begin; i < range.end; i += kLanes) {
    const int count = std::min(kLanes, range.end - i);
    const double x = g.site_x + i * g.step_x, width = (count - 1) * g.step_x;
    const double u = m.a * x + m.b * y + m.tx, v = m.c * x + m.d * y + m.ty;
    const double to_u = m.a * width, to_v = m.c * width;
    if (!touches(job.crop, u + std::min(to_u, 0.0) - job.taps.reach_u,
                 v + std::min(to_v, 0.0) - job.taps.reach_v,
                 u + std::max(to_u, 0.0) + job.taps.reach_u,
                 v + std::max(to_v, 0.0) + job.taps.reach_v))
      continue;
#ifdef ACCEL_PASTE_AVX2
    if (simd) {
      block_avx2(job, j, i, count, u - job.crop.left, v - job.crop.top);
      continue;
    }
#endif
    block(job, j, i, count, u - job.crop.left, v - job.crop.top);
  }
  (void)simd;
}

// Everything of one call but the types of its arrays.
struct Call {
  int faces, side, threads;
  bool simd;
  const float *masks, *matrices, *gain, *bias;
  float to_codes[12], max_code;
  Group groups[2];
  int group_count;
};

template <typename T, typename C>
void run(const Call& call, const Plane<T>* planes, const C* crops) {
  const int64_t area = int64_t(call.side) * call.side;
  Staged crop;
  for (int n = 0; n < call.faces; ++n) {
    const float* m = call.matrices + 6 * n;
    const Matrix matrix{m[0], m[1], m[2], m[3], m[4], m[5]};
    Color color;
    std::memcpy(color.gain, call.gain + 3 * n, sizeof color.gain);
    std::memcpy(color.bias, call.bias + 3 * n, sizeof color.bias);
    std::memcpy(color.to_codes, call.to_codes, sizeof color.to_codes);
    if (!bound_mask(call.masks + n * area, call.side, crop)) continue;
    bool staged = false;
    for (int k = 0; k < call.group_count; ++k) {
      const Group& group = call.groups[k];
      const Taps taps(matrix, group, call.side);
      const Range range = rows(matrix, group, taps, crop);
      if (range.begin >= range.end) continue;
      if (!staged) {
        // The last group has the widest footprint.
        const Group& wide = call.groups[call.group_count - 1];
        const Taps widest(matrix, wide, call.side);
        stage(crops + 3 * n * area, call.masks + n * area, call.side, color, 2 * widest.reach_u,
              2 * widest.reach_v, call.simd, call.threads, crop);
        staged = true;
      }
      const Job<T> job{matrix, group, crop, taps, {planes[0], planes[1], planes[2]}, call.max_code};
      const int threads = std::min(call.threads, (range.end - range.begin + 7) / 8);
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads) if (threads > 1)
      for (int j = range.begin; j < range.end; ++j) paste_row(job, j, call.simd);
    }
  }
}

void need(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("paste: ") + what);
}

bool is_float32(const ConstArray& a) { return a.dtype() == nb::dtype<float>(); }
bool is_half(const ConstArray& a) {
  return a.dtype().code == uint8_t(nb::dlpack::dtype_code::Float) && a.dtype().bits == 16;
}
bool is_packed(const ConstArray& a) {
  int64_t expected = 1;
  for (int k = int(a.ndim()) - 1; k >= 0; --k) {
    if (a.shape(k) != 1 && a.stride(k) != expected) return false;
    expected *= int64_t(a.shape(k));
  }
  return true;
}

template <typename T>
void run_planes(const Call& call, const Array* arrays, const ConstArray& crops) {
  Plane<T> planes[3];
  for (int k = 0; k < 3; ++k)
    planes[k] = {static_cast<T*>(arrays[k].data()), arrays[k].stride(0), arrays[k].stride(1)};
  const bool half = is_half(crops);
  const void* data = crops.data();
  nb::gil_scoped_release unlocked;
  if (half)
    run(call, planes, static_cast<const uint16_t*>(data));
  else
    run(call, planes, static_cast<const float*>(data));
}

void paste(Array c0, Array c1, Array c2, ConstArray crops, ConstArray masks, ConstArray matrices,
           ConstArray gain, ConstArray bias, const std::vector<float>& from_rgb, int shift_x,
           int shift_y, double site_x, double site_y, int max_code, int threads, bool simd) {
  const Array arrays[3] = {c0, c1, c2};
  const bool wide = c0.dtype() == nb::dtype<uint16_t>();
  for (const Array& plane : arrays) {
    need(plane.ndim() == 2, "planes must have two dimensions");
    need(plane.dtype() == (wide ? nb::dtype<uint16_t>() : nb::dtype<uint8_t>()),
         "planes must be uint8 or uint16");
  }
  need(c1.shape(0) == c2.shape(0) && c1.shape(1) == c2.shape(1), "c1 and c2 must have one shape");
  need(crops.ndim() == 4 && crops.shape(1) == 3 && crops.shape(2) == crops.shape(3) &&
           (is_float32(crops) || is_half(crops)) && is_packed(crops),
       "crops must be [N, 3, S, S] float32 or float16, contiguous");
  const size_t n = crops.shape(0), side = crops.shape(3);
  need(side >= 1 && side <= 16384, "the side of a crop must lie in 1..16384");
  need(
      masks.ndim() == 3 && masks.size() == n * side * side && is_float32(masks) && is_packed(masks),
      "masks must be [N, S, S] float32, contiguous");
  need(matrices.size() == 6 * n && is_float32(matrices) && is_packed(matrices) &&
           gain.size() == 3 * n && is_float32(gain) && is_packed(gain) && bias.size() == 3 * n &&
           is_float32(bias) && is_packed(bias),
       "matrices, gain and bias must be [N, 2, 3], [N, 3] and [N, 3] float32, contiguous");
  need(from_rgb.size() == 12, "from_rgb must have twelve numbers");
  need(shift_x >= 0 && shift_x <= 4 && shift_y >= 0 && shift_y <= 4, "shifts must lie in 0..4");

  Call call{};
  call.faces = int(n);
  call.side = int(side);
  call.threads = std::max(threads, 1);
  call.simd = simd && has_avx2();
  call.masks = static_cast<const float*>(masks.data());
  call.matrices = static_cast<const float*>(matrices.data());
  call.gain = static_cast<const float*>(gain.data());
  call.bias = static_cast<const float*>(bias.data());
  std::copy(from_rgb.begin(), from_rgb.end(), call.to_codes);
  call.max_code = float(max_code);
  const bool together = shift_x == 0 && shift_y == 0 && site_x == 0 && site_y == 0 &&
                        c0.shape(0) == c1.shape(0) && c0.shape(1) == c1.shape(1);
  call.group_count = together ? 1 : 2;
  call.groups[0] = {int(c0.shape(0)), int(c0.shape(1)), 0, together ? 3 : 1, 1, 1, 0, 0};
  call.groups[1] = {int(c1.shape(0)),     int(c1.shape(1)),     1,      2,
                    double(1 << shift_x), double(1 << shift_y), site_x, site_y};
  if (wide)
    run_planes<uint16_t>(call, arrays, crops);
  else
    run_planes<uint8_t>(call, arrays, crops);
}

}  // namespace
}  // namespace accel::paste

ACCEL_BIND(paste) {
  m.def("paste", &accel::paste::paste, "c0"_a, "c1"_a, "c2"_a, "crops"_a, "masks"_a, "matrices"_a,
        "gain"_a, "bias"_a, "from_rgb"_a, "shift_x"_a, "shift_y"_a, "site_x"_a, "site_y"_a,
        "max_code"_a, "threads"_a, "simd"_a = true);
}
