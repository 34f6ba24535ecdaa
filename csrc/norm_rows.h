// Group normalisation on vectors of ACCEL_LANES floats. Included by simd.h, once per width.

// After vectors were written past the caches.
inline void end_streams() { fence(); }

constexpr int kTogether = 8;  // pixels

// Into into[2]: the sum of the values less `shift`, and of their squares.
// Sums are kept in floats over short runs only, so that their rounding stays far below the answer.
inline void moments(const float* x, int64_t count, float shift, double* into) {
  constexpr int64_t kRun = 1024;
  const Vec zero = spread(shift);
  int64_t i = 0;
  while (i + 2 * kLanes <= count) {
    const int64_t end = i + kRun < count ? i + kRun : count;
    Vec s0{}, s1{}, q0{}, q1{};
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      const Vec a = load(x + i) - zero, b = load(x + i + kLanes) - zero;
      s0 += a, s1 += b;
      q0 = fma(a, a, q0), q1 = fma(b, b, q1);
    }
    into[0] += sum(s0 + s1), into[1] += sum(q0 + q1);
  }
  for (; i < count; ++i) {
    const float d = x[i] - shift;
    into[0] += d, into[1] += double(d) * d;
  }
}

// `ahead`: what is read soon, as many values.
template <bool kSilu, bool kStream>
inline void scale_run(const float* x, float* y, int64_t count, float about, float scale,
                      float shift, const float* ahead) {
  const Vec a = spread(about), s = spread(scale), t = spread(shift);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __builtin_prefetch(ahead + i, 0, 2);
    const Vec v = fma(load(x + i) - a, s, t), out = kSilu ? silu(v) : v;
    kStream ? stream(y + i, out) : store(y + i, out);
  }
  if (i < count) {
    const Vec v = fma(load_some(x + i, int(count - i)) - a, s, t);
    store_some(y + i, kSilu ? silu(v) : v, int(count - i));
  }
}

inline void apply_run(const float* x, float* y, int64_t count, float about, float scale,
                      float shift, bool with_silu, bool past_caches, const float* ahead) {
  const auto run = with_silu ? (past_caches ? scale_run<true, true> : scale_run<true, false>)
                             : (past_caches ? scale_run<false, true> : scale_run<false, false>);
  run(x, y, count, about, scale, shift, ahead);
}

// Adds `count` pixels' values less `zero`, and their squares, to the sums of one vector of
// channels.
template <bool kFirst>
inline void add_pixels(const float* x, int count, int64_t channels, Vec zero, Vec& s, Vec& q) {
  if (kFirst) s = q = Vec{};
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) {
    const Vec d = load(x + i * channels) - zero;
    s += d;
    q = fma(d, d, q);
  }
}

template <bool kFirst>
inline void some_moments(const float* x, int count, int64_t channels, const float* shift,
                         float* sums, float* squares) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    Vec s = load(sums + c), q = load(squares + c);
    if (count == kTogether)
      add_pixels<kFirst>(x + c, kTogether, channels, load(shift + c), s, q);
    else
      add_pixels<kFirst>(x + c, count, channels, load(shift + c), s, q);
    store(sums + c, s), store(squares + c, q);
  }
  for (; c < channels; ++c) {
    float s = kFirst ? 0 : sums[c], q = kFirst ? 0 : squares[c];
    for (int i = 0; i < count; ++i) {
      const float d = x[i * channels + c] - shift[c];
      s += d, q += d * d;
    }
    sums[c] = s, squares[c] = q;
  }
}

// Channels last: the pixels' values less `shift`[C] summed into sums[C], their squares likewise. A
// few pixels are read side by side, each from its first channel to its last, as the CPU foresees.
inline void pixel_moments(const float* x, int64_t pixels, int64_t channels, const float* shift,
                          float* sums, float* squares) {
  for (int64_t p = 0; p < pixels; p += kTogether, x += kTogether * channels) {
    const int count = pixels - p < kTogether ? int(pixels - p) : kTogether;
    const auto add = p ? some_moments<false> : some_moments<true>;
    add(x, count, channels, shift, sums, squares);
  }
}

template <bool kSilu, bool kStream>
inline void scale_pixels(const float* x, float* y, int64_t pixels, int64_t channels,
                         const float* about, const float* scale, const float* shift,
                         const float* ahead) {
  for (int64_t p = 0; p < pixels; ++p) {
    const float* from = x + p * channels;
    const float* later = ahead + p * channels;
    float* to = y + p * channels;
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      __builtin_prefetch(later + c, 0, 2);
      const Vec v = fma(load(from + c) - load(about + c), load(scale + c), load(shift + c));
      const Vec out = kSilu ? silu(v) : v;
      kStream ? stream(to + c, out) : store(to + c, out);
    }
    if (const int some = int(channels - c)) {
      const Vec v = fma(load_some(from + c, some) - load_some(about + c, some),
                        load_some(scale + c, some), load_some(shift + c, some));
      store_some(to + c, kSilu ? silu(v) : v, some);
    }
  }
}

inline void apply_pixels(const float* x, float* y, int64_t pixels, int64_t channels,
                         const float* about, const float* scale, const float* shift, bool with_silu,
                         bool past_caches, const float* ahead) {
  const auto run = with_silu
                       ? (past_caches ? scale_pixels<true, true> : scale_pixels<true, false>)
                       : (past_caches ? scale_pixels<false, true> : scale_pixels<false, false>);
  run(x, y, pixels, channels, about, scale, shift, ahead);
}

// 1 + erf(x / sqrt 2), to 5e-7: a quotient of polynomials where that is not 0 or 2. It is fitted a
// little too large, so that nothing is left of what lies far below zero.
inline Vec twice_below(Vec x) {
  const Vec a = larger(spread(-5.4f), smaller(spread(5.4f), x)), t = a * a;
  Vec p = spread(0x1.fea33ap-33f);
  p = fma(p, t, spread(-0x1.7e5cc2p-25f));
  p = fma(p, t, spread(0x1.a484a4p-18f));
  p = fma(p, t, spread(0x1.4d4e1ap-12f));
  p = fma(p, t, spread(0x1.22a4d4p-7f));
  p = fma(p, t, spread(0x1.1cf098p-4f));
  p = fma(p, t, spread(0x1.988450p-1f));
  Vec q = spread(0x1.ec230ep-15f);
  q = fma(q, t, spread(0x1.ce46d4p-10f));
  q = fma(q, t, spread(0x1.d1c620p-6f));
  q = fma(q, t, spread(0x1.03f1d6p-2f));
  q = fma(q, t, spread(1.f));
  return larger(spread(0.f), 1.f + p * a * reciprocal(q));
}

// Values times the gelu of the gates, which is made first: it may be 0 where their product is not.
template <bool kStream>
inline void gates(const float* value, const float* gate, float* y, int64_t count) {
  // Two short streams at once: the CPU foresees them too late. Each goes on in the next row, behind
  // a row of the other.
  constexpr int64_t kAhead = 512;
  int64_t i = 0, ahead = kAhead;
  for (int64_t end = count - kAhead;; end = count, ahead = kAhead + count) {
    for (; i < end && i + kLanes <= count; i += kLanes) {
      __builtin_prefetch(gate + i + ahead);
      __builtin_prefetch(value + i + ahead);
      const Vec g = load(gate + i), out = load(value + i) * ((g * 0.5f) * twice_below(g));
      kStream ? stream(y + i, out) : store(y + i, out);
    }
    if (end == count) break;
  }
  if (const int some = int(count - i)) {
    const Vec g = load_some(gate + i, some);
    store_some(y + i, load_some(value + i, some) * ((g * 0.5f) * twice_below(g)), some);
  }
}

// Rows of values, then gates.
inline void gate_rows(const float* x, float* y, int64_t rows, int64_t width, bool past_caches) {
  for (int64_t row = 0; row < rows; ++row, x += 2 * width, y += width)
    past_caches ? gates<true>(x, x + width, y, width) : gates<false>(x, x + width, y, width);
  if (past_caches) end_streams();
}

// The sum of a vector's numbers in few steps.
inline float sum_up(Vec v) {
#if ACCEL_LANES == 16
  const __m256 half = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0),
                                    _mm512_maskz_extractf32x8_ps(0xff, v, 1));
#elif ACCEL_LANES == 8
  const __m256 half = v;
#endif
#if ACCEL_LANES > 4
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
#else
  return sum(v);
#endif
}

// The sums of a row less `about`, and of their squares; few numbers in each lane's sum.
inline void row_sums(const float* x, int64_t count, float about, double* into) {
  constexpr int64_t kRun = 4096, kStep = 4 * kLanes;
  const Vec zero = spread(about);
  into[0] = into[1] = 0;
  for (int64_t i = 0; i < count;) {
    const int64_t end = i + kRun < count ? i + kRun : count;
    Vec s[4] = {}, q[4] = {};
    const auto add = [&](Vec d, int k) {
      s[k] += d;
      q[k] = fma(d, d, q[k]);
    };
    for (; i + kStep <= end; i += kStep)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) add(load(x + i + k * kLanes) - zero, k);
    for (; i + kLanes <= end; i += kLanes) add(load(x + i) - zero, 0);
    if (const int some = int(end - i)) {
      float left[kLanes];
      store(left, zero);
      add(load_some(x + i, some) - load_some(left, some), 1);
      i = end;
    }
    into[0] += sum_up((s[0] + s[1]) + (s[2] + s[3]));
    into[1] += sum_up((q[0] + q[1]) + (q[2] + q[3]));
  }
}

// One row: less its mean, over its deviation, times weight, plus bias (both or neither).
inline void normalize_row(const float* x, float* y, int64_t count, double eps, const float* weight,
                          const float* bias) {
  double sums[2];
  float about = count < kLanes ? x[0] : sum_up(load(x)) / kLanes;
  const double share = 1 / double(count);
  row_sums(x, count, about, sums);
  double off = sums[0] * share, variance = sums[1] * share - off * off;
  // Where the first values lie far from the rest, squares about their mean say nothing.
  if (!(off * off <= variance)) {
    about = float(about + off);
    row_sums(x, count, about, sums);
    off = sums[0] * share, variance = sums[1] * share - off * off;
  }
  const double rate = 1 / __builtin_sqrt((variance < 0 ? 0 : variance) + eps);
  const Vec a = spread(about), s = spread(float(rate)), t = spread(float(-off * rate));
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec v = fma(load(x + i) - a, s, t);
    store(y + i, weight ? fma(v, load(weight + i), load(bias + i)) : v);
  }
  if (const int some = int(count - i)) {
    const Vec v = fma(load_some(x + i, some) - a, s, t);
    store_some(y + i, weight ? fma(v, load_some(weight + i, some), load_some(bias + i, some)) : v,
               some);
  }
}
