// Moves points of colour space; compiled once per instruction set, see csrc/simd.h.

#if ACCEL_LANES == 16
inline Vec gathered(const float* table, VecInt at) {
  return _mm512_mask_i32gather_ps(Vec{}, 0xffff, (__m512i)at, table, 4);
}
#elif ACCEL_LANES == 8
inline Vec gathered(const float* table, VecInt at) {
  return _mm256_i32gather_ps(table, (__m256i)at, 4);
}
#else
inline Vec gathered(const float* table, VecInt at) {
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = table[at[i]];
  return v;
}
#endif

// A few lanes of points at p, [3, n] apart, and the sums of where they go.
struct Points {
  const float* p;
  int64_t n;
  float *x, *y, *z;

  void add(const Shift& shift, const float* way, int64_t i) const {
    const Vec a = load(p + i), b = load(p + n + i), c = load(p + 2 * n + i);
    add(shift, way, i, a, b, c);
  }
  void add(const Shift& shift, const float* way, int64_t i, Vec a, Vec b, Vec c) const {
    // Not fused, so that all CPUs round alike. NaN becomes 0: see `larger`.
    const Vec q = (way[0] * a + way[1] * b + way[2] * c - shift.low) * shift.per_step;
    const Vec at = smaller(larger(q, Vec{}), spread(float(kShiftSteps - 1)));
    const Vec away = gathered(shift.away, __builtin_convertvector(at, VecInt));
    store(x + i, load(x + i) + away * way[0]);
    store(y + i, load(y + i) + away * way[1]);
    store(z + i, load(z + i) + away * way[2]);
  }
};

// p: [3, n], of which `size` points are moved by the mean of what `count` directions ask for.
inline void shift_points(float* p, int64_t n, int64_t size, const float* ways, const Shift* shifts,
                         int64_t count) {
  constexpr int64_t kBlock = 1024;  // places and sums stay in the innermost cache
  float x[kBlock + kLanes], y[kBlock + kLanes], z[kBlock + kLanes];
  const float share = 1.0f / float(count);
  for (int64_t at = 0; at < size; at += kBlock) {
    const int64_t here = size - at < kBlock ? size - at : kBlock;
    for (float* sums : {x, y, z})
      for (int64_t i = 0; i < here + kLanes; ++i) sums[i] = 0;
    const Points points = {p + at, n, x, y, z};
    const int rest = int(here % kLanes);
    for (int64_t d = 0; d < count; ++d) {
      int64_t i = 0;
      for (; i + kLanes <= here; i += kLanes) points.add(shifts[d], ways + 3 * d, i);
      if (rest)
        points.add(shifts[d], ways + 3 * d, i, load_some(p + at + i, rest),
                   load_some(p + at + n + i, rest), load_some(p + at + 2 * n + i, rest));
    }
    for (int64_t i = 0; i < here; ++i) {
      p[at + i] += x[i] * share;
      p[at + n + i] += y[i] * share;
      p[at + 2 * n + i] += z[i] * share;
    }
  }
}
