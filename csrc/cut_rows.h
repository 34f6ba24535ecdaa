// Rows of a picture cut out of eight-bit planes. Included once per instruction set: see simd.h.

#if ACCEL_LANES >= 8
constexpr int kWindow = 16;   // bytes that a shuffle chooses from
constexpr int kMostRows = 8;  // of a plane under one vector; beyond, gathers are faster

// The pixels x and x + 1 of two rows of a plane for a vector of places, in the low bytes.
struct CutPair {
  VecInt top, bottom;
};

// Gathers cost several cycles for every lane; places that lie close together are chosen out of
// windows of each row that they touch. False where they do not lie so.
inline bool cut_window(const CutPlane& p, VecInt ix, VecInt iy, CutPair& pair) {
  constexpr int kHalf = 8, kLast = kLanes - 1;
  int base[2];
  VecInt bases = {};
  for (int i = 0; i * kHalf < kLanes; ++i) {
    const int a = ix[i * kHalf], b = ix[i * kHalf + kHalf - 1];
    base[i] = std::min(std::min(a, b), p.width - kWindow);
    if (base[i] < 0 || std::max(a, b) + 1 - base[i] >= kWindow) return false;
  }
#if ACCEL_LANES == 16
  bases = (VecInt)_mm512_inserti64x4(_mm512_set1_epi32(base[0]), _mm256_set1_epi32(base[1]), 1);
#else
  bases += base[0];
#endif
  const int first = std::min(iy[0], iy[kLast]), last = std::max(iy[0], iy[kLast]) + 1;
  if (last - first >= kMostRows) return false;
  const VecInt choice = (ix - bases) * 0x0101 + int32_t(0x80800100);
  const uint8_t* row = p.data + first * p.row;
  pair.top = pair.bottom = VecInt{};
  const auto take = [&](int y, const uint8_t* row) {
    const __m256i left =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(row + base[0])));
#if ACCEL_LANES == 16
    const __m256i right =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(row + base[1])));
    const VecInt seen = (VecInt)_mm512_shuffle_epi8(
        _mm512_inserti64x4(_mm512_castsi256_si512(left), right, 1), (__m512i)choice);
#else
    const VecInt seen = (VecInt)_mm256_shuffle_epi8(left, (__m256i)choice);
#endif
    pair.top = iy == y ? seen : pair.top;
    pair.bottom = iy == y - 1 ? seen : pair.bottom;
  };
  // Mostly two or three rows: a count that is fixed is guessed right. The last one is read again.
  const int64_t end = int64_t(last - first) * p.row;
  take(first, row);
  take(first + 1, row + p.row);
  take(first + 2, row + std::min(2 * p.row, end));
  for (int y = first + 3; y <= last; ++y) take(y, row + (y - first) * p.row);
  return true;
}

inline CutPair cut_gather(const CutPlane& p, VecInt ix, VecInt iy) {
  // Four bytes are read at once, of which two count; the last ones of a row are reached by shifts.
  const VecInt last_word = VecInt{} + (p.width - 4), row = VecInt{} + int32_t(p.row);
  const VecInt word = ix > last_word ? last_word : ix;
  const VecInt offset = iy * row + word, shift = (ix - word) << 3;
#if ACCEL_LANES == 16
  const __m512i top = _mm512_i32gather_epi32((__m512i)offset, p.data, 1);
  const __m512i bottom = _mm512_i32gather_epi32((__m512i)(offset + row), p.data, 1);
  return {(VecInt)_mm512_srlv_epi32(top, (__m512i)shift),
          (VecInt)_mm512_srlv_epi32(bottom, (__m512i)shift)};
#else
  const int* base = reinterpret_cast<const int*>(p.data);
  const __m256i top = _mm256_i32gather_epi32(base, (__m256i)offset, 1);
  const __m256i bottom = _mm256_i32gather_epi32(base, (__m256i)(offset + row), 1);
  return {(VecInt)_mm256_srlv_epi32(top, (__m256i)shift),
          (VecInt)_mm256_srlv_epi32(bottom, (__m256i)shift)};
#endif
}

// Of the pixels from x on: the samples left of and above their places, and how far beyond they lie.
struct CutPlaces {
  VecInt x, y;
  Vec s, t;
};

__attribute__((always_inline)) inline CutPlaces cut_places(const CutPlane& p, float u0, float v0,
                                                           int x) {
#if ACCEL_LANES == 16
  const Vec step = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
  const Vec step = {0, 1, 2, 3, 4, 5, 6, 7};
#endif
  const VecInt last_x = VecInt{} + (p.width - 2), last_y = VecInt{} + (p.height - 2);
  const Vec at = spread(float(x)) + step;
  const Vec u = spread(p.du) * at + spread(u0), v = spread(p.dv) * at + spread(v0);
  VecInt ix = __builtin_convertvector(u, VecInt), iy = __builtin_convertvector(v, VecInt);
  ix = ix > last_x ? last_x : ix;
  iy = iy > last_y ? last_y : iy;
  return {ix, iy, u - __builtin_convertvector(ix, Vec), v - __builtin_convertvector(iy, Vec)};
}

// Bilinear, from codes in the low bytes and where between them the places lie.
__attribute__((always_inline)) inline Vec cut_mix(VecInt top, VecInt bottom, Vec s, Vec t) {
  const Vec a = __builtin_convertvector(top & 255, Vec);
  const Vec b = __builtin_convertvector((top >> 8) & 255, Vec);
  const Vec c = __builtin_convertvector(bottom & 255, Vec);
  const Vec d = __builtin_convertvector((bottom >> 8) & 255, Vec);
  const Vec upper = a + s * (b - a), lower = c + s * (d - c);
  return upper + t * (lower - upper);
}

#if ACCEL_LANES == 16
// Rows of a plane that a vector touches, at most; 0 where `cut_lines` cannot serve. (Windows of 64
// bytes, by VBMI, were no faster where a picture shrinks.)
inline int cut_lines_of(const CutPlane& p) {
  constexpr float kSlack = 0.25f;  // for the rounding of places in planes below 65536 samples
  if (p.width < kWindow || std::max(p.width, p.height) >= (1 << 16)) return 0;
  if (!(15 * std::abs(p.du) + kSlack < float(kWindow - 2))) return 0;
  const float lines = 15 * std::abs(p.dv) + kSlack;
  return lines < float(kMostRows - 2) ? int(lines) + 3 : 0;
}

// As cut_vectors, where a picture is enlarged: all of a vector's places lie in one window, and a
// shuffle takes from each row what belongs to it.
inline int cut_lines(const CutPlane& p, int lines, float u0, float v0, int x, int high,
                     float* out) {
  const __m512i spread_byte = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
  const auto codes = [&](const uint8_t* row) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)row));
  };
  const int left = p.du < 0 ? kLanes - 1 : 0, upper = p.dv < 0 ? kLanes - 1 : 0;
  for (; x + kLanes <= high; x += kLanes) {
    const CutPlaces at = cut_places(p, u0, v0, x);
    const int base = std::min(int(p.du * float(x + left) + u0), p.width - kWindow);
    const int first = std::min(int(p.dv * float(x + upper) + v0), p.height - 2);
    // Of each pixel two samples above, two below: where in the row, and in which.
    const __m512i place =
        _mm512_add_epi8(_mm512_shuffle_epi8((__m512i)(at.x - (VecInt{} + base)), spread_byte),
                        _mm512_set1_epi32(0x01000100));
    const __m512i line =
        _mm512_add_epi8(_mm512_shuffle_epi8((__m512i)(at.y - (VecInt{} + first)), spread_byte),
                        _mm512_set1_epi32(0x01010000));
    const uint8_t* row = p.data + first * p.row + base;
    __m512i seen = _mm512_shuffle_epi8(codes(row), place);
    const int count = std::min(lines, p.height - first);
    for (int i = 1; i < count; ++i) {
      row += p.row;
      const __mmask64 here = _mm512_cmpeq_epi8_mask(line, _mm512_set1_epi8(char(i)));
      seen = _mm512_mask_shuffle_epi8(seen, here, codes(row), place);
    }
    store(out + x, cut_mix((VecInt)seen, (VecInt)_mm512_srli_epi32(seen, 16), at.s, at.t));
  }
  return x;
}
#endif

// From pixel x on, as long as whole vectors fit before `high`; returns where it stopped.
inline int cut_vectors(const CutPlane& p, float u0, float v0, int x, int high, float* out) {
  for (; x + kLanes <= high; x += kLanes) {
    const CutPlaces at = cut_places(p, u0, v0, x);
    CutPair pair;
    if (!cut_window(p, at.x, at.y, pair)) pair = cut_gather(p, at.x, at.y);
    store(out + x, cut_mix(pair.top, pair.bottom, at.s, at.t));
  }
  return x;
}
#endif

// Asks for what `cut_line` will read: a frame mostly lies in the cache of the core that decoded it.
// Always inlined: gcc takes a function that does no more for one without effect.
__attribute__((always_inline)) inline void cut_fetch(const CutPlane& p, float u, float v,
                                                     int count) {
  const float lines = std::max(std::abs(p.du) / 64, std::abs(p.dv));  // of the cache, by pixel
  const int step = lines > 1.f / 128 ? std::max(int(1 / lines), 4) : 128;
  const float du = p.du * float(step), dv = p.dv * float(step);
  const float last_u = float(p.width - 1), last_v = float(p.height - 1);
  for (int x = 0; x < count; x += step, u += du, v += dv) {
    const float right = u > 0 ? u : 0.f, below = v > 0 ? v : 0.f;  // one instruction each
    const float a = right < last_u ? right : last_u, b = below < last_v ? below : last_v;
    __builtin_prefetch(p.data + int64_t(b) * p.row + int64_t(a));
  }
}

// Codes of one plane at (u0 + du x, v0 + dv x), bilinear, for x in 0..count-1.
inline void cut_line(const CutPlane& p, float u0, float v0, int count, float* out) {
  const CutReach r = cut_reach(p, u0, v0, count);
  for (int x = 0; x < r.first; ++x) out[x] = p.outside;
  int x = r.first;
  for (; x < r.low; ++x) out[x] = cut_sample(p, u0 + p.du * float(x), v0 + p.dv * float(x));
#if ACCEL_LANES == 16
  const int lines = cut_lines_of(p);
  if (lines) x = cut_lines(p, lines, u0, v0, x, r.high, out);
#endif
#if ACCEL_LANES >= 8
  x = cut_vectors(p, u0, v0, x, r.high, out);
#endif
  for (; x < r.last; ++x) out[x] = cut_sample(p, u0 + p.du * float(x), v0 + p.dv * float(x));
  for (; x < count; ++x) out[x] = p.outside;
}

// What chroma adds to each channel, spread over `step` pixels of the row each.
inline void cut_tint(const float* color, const float* cb, const float* cr, int few, int step,
                     float scale, int64_t row, float* tint) {
  for (int c = 0; c < 3; ++c) {
    const float m1 = color[4 * c + 1] * scale, m2 = color[4 * c + 2] * scale;
    const float m3 = color[4 * c + 3] * scale;
    float* to = tint + c * row;
    if (step == 1)
      for (int x = 0; x < few; ++x) to[x] = m1 * cb[x] + m2 * cr[x] + m3;
    else
      for (int x = 0; x < few; ++x) to[2 * x] = to[2 * x + 1] = m1 * cb[x] + m2 * cr[x] + m3;
  }
}

inline void cut_floats(const float* luma, const float* gain, const float* tint, int64_t row,
                       int width, float* out) {
  for (int c = 0; c < 3; ++c)
    for (int x = 0; x < width; ++x) {
      const float value = gain[c] * luma[x] + tint[c * row + x];
      out[3 * x + c] = value > 0 ? (value < 1 ? value : 1.0f) : 0.0f;
    }
}

inline uint8_t cut_byte(float value) {
  return uint8_t(int((value > 0 ? (value < 255 ? value : 255.0f) : 0.0f) + 0.5f));
}

inline void cut_bytes(const float* luma, const float* gain, const float* tint, int64_t row,
                      int width, uint8_t* out) {
  int x = 0;
#if ACCEL_LANES >= 8
  const Vec top = spread(255.f), none = {}, half = spread(0.5f);
  // Each vector writes four bytes more than it has: the row's end is left to the plain loop.
  for (; x + kLanes + 4 <= width; x += kLanes) {
    VecInt word = {};
    for (int c = 0; c < 3; ++c) {
      Vec value = spread(gain[c]) * load(luma + x) + load(tint + c * row + x);
      value = value > none ? value : none;
      value = (value < top ? value : top) + half;
      word |= __builtin_convertvector(value, VecInt) << (8 * c);
    }
#if ACCEL_LANES == 16
    const __m512i order = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    const __m512i packed = _mm512_shuffle_epi8((__m512i)word, order);
    uint8_t* to = out + 3 * x;
    _mm_storeu_si128((__m128i*)to, _mm512_castsi512_si128(packed));
    _mm_storeu_si128((__m128i*)(to + 12), _mm512_extracti32x4_epi32(packed, 1));
    _mm_storeu_si128((__m128i*)(to + 24), _mm512_extracti32x4_epi32(packed, 2));
    _mm_storeu_si128((__m128i*)(to + 36), _mm512_extracti32x4_epi32(packed, 3));
#else
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    const __m256i packed = _mm256_shuffle_epi8((__m256i)word, order);
    uint8_t* to = out + 3 * x;
    _mm_storeu_si128((__m128i*)to, _mm256_castsi256_si128(packed));
    _mm_storeu_si128((__m128i*)(to + 12), _mm256_extracti128_si256(packed, 1));
#endif
  }
#endif
  for (; x < width; ++x)
    for (int c = 0; c < 3; ++c) out[3 * x + c] = cut_byte(gain[c] * luma[x] + tint[c * row + x]);
}

// `step` rows of the picture from row `y` on; scratch holds 6 rows of size + 1 floats.
inline void cut_rows(const CutJob& job, int y, float* scratch) {
  const int width = job.size, few = (width + job.step - 1) / job.step;
  const int64_t length = width + 1;
  float *luma = scratch, *cb = luma + length, *cr = cb + length, *tint = cr + length;
  const int q = y / job.step;
  for (int i = 1; i < 3; ++i) {
    const CutPlane& p = job.planes[i];
    const float u = p.u0 + p.su * float(q), v = p.v0 + p.sv * float(q);
    cut_line(p, u, v, few, i == 1 ? cb : cr);
  }
  const float scale = job.floats ? 1.0f : 255.0f;
  cut_tint(job.color, cb, cr, few, job.step, scale, length, tint);
  const CutPlane& p = job.planes[0];
  const float gain[3] = {job.color[0] * scale, job.color[4] * scale, job.color[8] * scale};
  for (int row = y; row < y + job.step && row < width; ++row) {
    const float u = p.u0 + p.su * float(row), v = p.v0 + p.sv * float(row);
    cut_line(p, u, v, width, luma);
    if (job.floats)
      cut_floats(luma, gain, tint, length, width, job.floats + int64_t(row) * width * 3);
    else
      cut_bytes(luma, gain, tint, length, width, job.bytes + int64_t(row) * width * 3);
  }
}
