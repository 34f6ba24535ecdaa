// Rows of a picture cut out of eight-bit planes, as the levels of a JPEG's blocks. Included once
// per instruction set: see simd.h. Sums are not fused, so that all of them give the same bytes.
//
// Source of the transform: Arai, Agui and Nakajima 1988, whose factors are part of the steps.
#include "cut_rows.h"

// A row of a block, or of two that lie side by side.
#if ACCEL_LANES == 16
typedef Vec Row;
#else
typedef float Row __attribute__((vector_size(32), may_alias));
#endif
constexpr int kRow = sizeof(Row) / sizeof(float), kBlocks = kRow / 8;

constexpr int kAheadPx = 8;  // rows of the picture that are asked for before they are cut

#define ACCEL_INLINE __attribute__((always_inline)) inline

ACCEL_INLINE float jpeg_code(float value) {
  return value > -128.f ? (value < 127.f ? value : 127.f) : -128.f;
}

// out = a x + tint, held to what a byte can be.
inline void jpeg_luma(const float* __restrict__ x, float gain, const float* __restrict__ tint,
                      int count, float* __restrict__ out) {
  for (int i = 0; i < count; ++i) out[i] = jpeg_code(gain * x[i] + tint[i]);
}

// Fills up a row with its last value.
inline void jpeg_fill(float* row, int count, int wide) {
  for (int x = count; x < wide; ++x) row[x] = row[count - 1];
}

// Chroma of planes that are luma and chroma, and what it adds to luma.
inline void jpeg_tint(const float* color, const float* __restrict__ cb,
                      const float* __restrict__ cr, int few, float* __restrict__ tint,
                      float* __restrict__ blue, float* __restrict__ red) {
  const float l1 = color[1], l2 = color[2], l3 = color[3], b1 = color[5], b2 = color[6];
  const float b3 = color[7], r1 = color[9], r2 = color[10], r3 = color[11];
  for (int x = 0; x < few; ++x) {
    tint[2 * x] = tint[2 * x + 1] = l1 * cb[x] + l2 * cr[x] + l3;
    blue[x] = jpeg_code(b1 * cb[x] + b2 * cr[x] + b3);
    red[x] = jpeg_code(r1 * cb[x] + r2 * cr[x] + r3);
  }
}

// Chroma of planes that are colours: the mean of the pixels that share it, of up to two rows.
inline void jpeg_mean(const float* color, const float* __restrict__ c0,
                      const float* __restrict__ c1, const float* __restrict__ c2, int width,
                      float share, bool add, float* __restrict__ out) {
  const float k0 = color[0], k1 = color[1], k2 = color[2], k3 = color[3];
  // 64 bits: by Python's flags an int wraps, and places that may wrap are not read as vectors.
  const auto at = [&](int64_t x) { return k0 * c0[x] + k1 * c1[x] + k2 * c2[x] + k3; };
  const int pairs = width / 2;
  if (add) {
    for (int64_t x = 0; x < pairs; ++x)
      out[x] = jpeg_code(out[x] + share * (at(2 * x) + at(2 * x + 1)));
  } else {
    for (int64_t x = 0; x < pairs; ++x) out[x] = share * (at(2 * x) + at(2 * x + 1));
  }
  if (width & 1) {
    const float last = share * (at(width - 1) + at(width - 1));
    out[pairs] = add ? jpeg_code(out[pairs] + last) : last;
  }
}

// Rows y .. y + 15 of the picture; scratch holds 6 rows of size + 1 floats.
inline void jpeg_cut(const CutJob& job, int y, const JpegStrip& strip, float* scratch) {
  const int width = job.size, few = (width + 1) / 2, half = strip.wide / 2;
  const int64_t length = width + 1;
  float *c0 = scratch, *c1 = c0 + length, *c2 = c1 + length, *tint = c2 + length;
  const auto line = [&](int plane, int row, int count, float* out) {
    const CutPlane& p = job.planes[plane];
    const float later = float(row + kAheadPx);
    cut_fetch(p, p.u0 + p.su * later, p.v0 + p.sv * later, count);
    cut_line(p, p.u0 + p.su * float(row), p.v0 + p.sv * float(row), count, out);
  };
  for (int q = 0; q < kMcu / 2; ++q) {
    float *luma = strip.planes[0] + 2 * q * strip.wide, *chroma[2];
    for (int i = 0; i < 2; ++i) chroma[i] = strip.planes[i + 1] + q * half;
    const int rows = std::clamp(width - (y + 2 * q), 0, 2);
    if (job.step == 2 && rows) {
      line(1, y / 2 + q, few, c1), line(2, y / 2 + q, few, c2);
      jpeg_tint(job.color, c1, c2, few, tint, chroma[0], chroma[1]);
    }
    for (int r = 0; r < rows; ++r) {
      line(0, y + 2 * q + r, width, c0);
      if (job.step == 1) {
        line(1, y + 2 * q + r, width, c1), line(2, y + 2 * q + r, width, c2);
        const float share = rows == 2 ? 0.25f : 0.5f;
        for (int i = 0; i < 2; ++i)
          jpeg_mean(job.color + 4 * (i + 1), c0, c1, c2, width, share, r > 0, chroma[i]);
        for (int x = 0; x < width; ++x)
          tint[x] = job.color[1] * c1[x] + job.color[2] * c2[x] + job.color[3];
      }
      jpeg_luma(c0, job.color[0], tint, width, luma + r * strip.wide);
      jpeg_fill(luma + r * strip.wide, width, strip.wide);
    }
    for (int i = 0; i < 2; ++i) {
      if (rows)
        jpeg_fill(chroma[i], few, half);
      else
        std::copy_n(chroma[i] - half, half, chroma[i]);
    }
    for (int r = rows; r < 2; ++r)
      std::copy_n(luma + (r - 1) * strip.wide, strip.wide, luma + r * strip.wide);
  }
}

// Eight sums along the rows' order, each lane for itself.
ACCEL_INLINE void jpeg_transform(Row* r) {
  const Row s0 = r[0] + r[7], s1 = r[1] + r[6], s2 = r[2] + r[5], s3 = r[3] + r[4];
  const Row d0 = r[0] - r[7], d1 = r[1] - r[6], d2 = r[2] - r[5], d3 = r[3] - r[4];
  const Row a0 = s0 + s3, a1 = s1 + s2, a2 = s1 - s2, a3 = s0 - s3;
  const Row even = (a2 + a3) * 0.707106781f;
  r[0] = a0 + a1, r[4] = a0 - a1, r[2] = a3 + even, r[6] = a3 - even;
  const Row b0 = d3 + d2, b1 = d2 + d1, b2 = d1 + d0;
  const Row turn = (b0 - b2) * 0.382683433f, middle = b1 * 0.707106781f;
  const Row z2 = b0 * 0.541196100f + turn, z4 = b2 * 1.306562965f + turn;
  const Row high = d0 + middle, low = d0 - middle;
  r[5] = low + z2, r[3] = low - z2, r[1] = high + z4, r[7] = high - z4;
}

// Of each group of `wide` lanes of two rows those at I, J, ...; counted through both.
constexpr int jpeg_lane(int group, int wide, int at) {
  return wide * group + (at < wide ? at : kRow + at - wide);
}
template <int I, int J, int K, int L>
ACCEL_INLINE void jpeg_fours(const Row& a, const Row& b, Row& out) {
#define ACCEL_FOUR(G) jpeg_lane(G, 4, I), jpeg_lane(G, 4, J), jpeg_lane(G, 4, K), jpeg_lane(G, 4, L)
#if ACCEL_LANES == 16
  out = __builtin_shufflevector(a, b, ACCEL_FOUR(0), ACCEL_FOUR(1), ACCEL_FOUR(2), ACCEL_FOUR(3));
#else
  out = __builtin_shufflevector(a, b, ACCEL_FOUR(0), ACCEL_FOUR(1));
#endif
#undef ACCEL_FOUR
}
template <int I>
ACCEL_INLINE void jpeg_halves(const Row& a, const Row& b, Row& out) {
#define ACCEL_HALF(G, AT) \
  jpeg_lane(G, 8, AT), jpeg_lane(G, 8, AT + 1), jpeg_lane(G, 8, AT + 2), jpeg_lane(G, 8, AT + 3)
#if ACCEL_LANES == 16
  out = __builtin_shufflevector(a, b, ACCEL_HALF(0, I), ACCEL_HALF(0, I + 8), ACCEL_HALF(1, I),
                                ACCEL_HALF(1, I + 8));
#else
  out = __builtin_shufflevector(a, b, ACCEL_HALF(0, I), ACCEL_HALF(0, I + 8));
#endif
#undef ACCEL_HALF
}

// Rows and columns of each block change places.
ACCEL_INLINE void jpeg_transpose(Row* r) {
  Row a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    jpeg_fours<0, 4, 1, 5>(r[i], r[i + 1], a[i]);
    jpeg_fours<2, 6, 3, 7>(r[i], r[i + 1], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      jpeg_fours<0, 1, 4, 5>(a[i + j], a[i + 2 + j], b[i + 2 * j]);
      jpeg_fours<2, 3, 6, 7>(a[i + j], a[i + 2 + j], b[i + 2 * j + 1]);
    }
  for (int i = 0; i < 4; ++i) {
    jpeg_halves<0>(b[i], b[i + 4], r[i]);
    jpeg_halves<4>(b[i], b[i + 4], r[i + 4]);
  }
}

// Levels that lie by columns in zigzag order; returns which of them are not 0.
ACCEL_INLINE uint64_t jpeg_zigzag(const int16_t* found, int16_t* levels) {
#if ACCEL_LANES == 16
  const __m512i low = _mm512_loadu_si512(found), high = _mm512_loadu_si512(found + 32);
  uint64_t mask = 0;
  for (int i = 0; i < 2; ++i) {
    const __m512i order = _mm512_loadu_si512(kColumns + 32 * i);
    const __m512i part = _mm512_permutex2var_epi16(low, order, high);
    _mm512_storeu_si512(levels + 32 * i, part);
    mask |= uint64_t(_mm512_test_epi16_mask(part, part)) << (32 * i);
  }
  return mask;
#else
  uint64_t mask = 0;
  for (int i = 0; i < 64; ++i) {
    levels[i] = found[kColumns[i]];
    mask |= uint64_t(levels[i] != 0) << i;
  }
  return mask;
#endif
}

// Levels of one block, or of two: [kBlocks][64] in zigzag order, and which of them are not 0.
// inverse: [8][16] what each value is multiplied by, columns first, all twice.
ACCEL_INLINE void jpeg_levels(const float* from, int64_t step, const float* inverse,
                              int16_t* levels, uint64_t* masks) {
  typedef int32_t Whole __attribute__((vector_size(sizeof(Row)), may_alias));
  typedef int16_t Short __attribute__((vector_size(sizeof(Row) / 2), may_alias));
  Row r[8];
  for (int i = 0; i < 8; ++i) __builtin_memcpy(&r[i], from + i * step, sizeof(Row));
  jpeg_transform(r);
  jpeg_transpose(r);
  jpeg_transform(r);
  alignas(64) int16_t found[kBlocks][64];
  for (int i = 0; i < 8; ++i) {
    Row factor;
    __builtin_memcpy(&factor, inverse + 16 * i, sizeof(Row));
    const Row top = Row{} + 1023.f, zero = {}, half = Row{} + 0.5f;
    Row value = r[i] * factor;
    value = value > top ? top : value < -top ? -top : value;
    value += value < zero ? -half : half;
    const Short few = __builtin_convertvector(__builtin_convertvector(value, Whole), Short);
    for (int b = 0; b < kBlocks; ++b)
      __builtin_memcpy(found[b] + 8 * i, (const int16_t*)&few + 8 * b, 16);
  }
  for (int b = 0; b < kBlocks; ++b, levels += 64) masks[b] = jpeg_zigzag(found[b], levels);
}

// The blocks of a strip, plane by plane, in the order in which they lie.
inline void jpeg_strip(const JpegStrip& strip, const float (*inverse)[128], int16_t* levels,
                       uint64_t* masks) {
  for (int plane = 0; plane < 3; ++plane)
    for (int row = 0; row < (plane ? 1 : 2); ++row) {
      const int wide = plane ? strip.wide / 2 : strip.wide;
      const float* from = strip.planes[plane] + 8 * row * wide;
      for (int x = 0; x < wide; x += kRow, levels += 64 * kBlocks, masks += kBlocks)
        jpeg_levels(from + x, wide, inverse[plane > 0], levels, masks);
    }
}

#undef ACCEL_INLINE
