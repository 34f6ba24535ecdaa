// Group normalisation on vectors of ACCEL_LANES floats. Included by simd.h, once per width.

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

template <bool kSilu>
inline void scale_run(const float* x, float* y, int64_t count, float about, float scale,
                      float shift) {
  const Vec a = spread(about), s = spread(scale), t = spread(shift);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vec v = fma(load(x + i) - a, s, t);
    store(y + i, kSilu ? silu(v) : v);
  }
  if (i < count) {
    const Vec v = fma(load_some(x + i, int(count - i)) - a, s, t);
    store_some(y + i, kSilu ? silu(v) : v, int(count - i));
  }
}

inline void apply_run(const float* x, float* y, int64_t count, float about, float scale,
                      float shift, bool with_silu) {
  with_silu ? scale_run<true>(x, y, count, about, scale, shift)
            : scale_run<false>(x, y, count, about, scale, shift);
}

// A few vectors of channels at a time, so that a pixel's lines are read side by side.
template <int kVectors>
inline void some_moments(const float* x, int64_t pixels, int64_t channels, const float* shift,
                         float* sums, float* squares) {
  Vec zero[kVectors], s[kVectors], q[kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) zero[i] = load(shift + i * kLanes), s[i] = q[i] = Vec{};
  for (int64_t p = 0; p < pixels; ++p, x += channels)
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const Vec d = load(x + i * kLanes) - zero[i];
      s[i] += d;
      q[i] = fma(d, d, q[i]);
    }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i)
    store(sums + i * kLanes, s[i]), store(squares + i * kLanes, q[i]);
}

// Channels last: the pixels' values less `shift`[C] summed into sums[C], their squares likewise.
inline void pixel_moments(const float* x, int64_t pixels, int64_t channels, const float* shift,
                          float* sums, float* squares) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes)
    some_moments<4>(x + c, pixels, channels, shift + c, sums + c, squares + c);
  for (; c + kLanes <= channels; c += kLanes)
    some_moments<1>(x + c, pixels, channels, shift + c, sums + c, squares + c);
  if (const int some = int(channels - c)) {
    const Vec zero = load_some(shift + c, some);
    Vec s{}, q{};
    for (int64_t p = 0; p < pixels; ++p) {
      const Vec d = load_some(x + p * channels + c, some) - zero;
      s += d;
      q = fma(d, d, q);
    }
    store_some(sums + c, s, some);
    store_some(squares + c, q, some);
  }
}

template <bool kSilu>
inline void scale_pixels(const float* x, float* y, int64_t pixels, int64_t channels,
                         const float* about, const float* scale, const float* shift) {
  for (int64_t p = 0; p < pixels; ++p) {
    const float* from = x + p * channels;
    float* to = y + p * channels;
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const Vec v = fma(load(from + c) - load(about + c), load(scale + c), load(shift + c));
      store(to + c, kSilu ? silu(v) : v);
    }
    if (const int some = int(channels - c)) {
      const Vec v = fma(load_some(from + c, some) - load_some(about + c, some),
                        load_some(scale + c, some), load_some(shift + c, some));
      store_some(to + c, kSilu ? silu(v) : v, some);
    }
  }
}

inline void apply_pixels(const float* x, float* y, int64_t pixels, int64_t channels,
                         const float* about, const float* scale, const float* shift,
                         bool with_silu) {
  with_silu ? scale_pixels<true>(x, y, pixels, channels, about, scale, shift)
            : scale_pixels<false>(x, y, pixels, channels, about, scale, shift);
}

// Values times the gelu of the gates.
inline void gate_row(const float* value, const float* gate, float* y, int64_t count) {
  const Vec root = spread(0.70710678118654752f);
  constexpr int64_t kAhead = 256;  // two short streams at once: the CPU foresees them too late
  int64_t i = 0;
  for (; i < count; i += kLanes) {
    __builtin_prefetch(gate + i + kAhead);
    __builtin_prefetch(value + i + kAhead);
    const int some = int(count - i < kLanes ? count - i : kLanes);
    const Vec g = some == kLanes ? load(gate + i) : load_some(gate + i, some);
    const Vec v = some == kLanes ? load(value + i) : load_some(value + i, some);
    const Vec out = v * (g * 0.5f) * (1.f + erf(g * root));
    some == kLanes ? store(y + i, out) : store_some(y + i, out, some);
  }
}

// One row: less its mean, over its deviation, times weight, plus bias (both or neither).
inline void normalize_row(const float* x, float* y, int64_t count, double eps, const float* weight,
                          const float* bias) {
  double first[2] = {}, second[2] = {};
  moments(x, count, x[0], first);
  // From the mean itself: where x[0] lies far from the rest, the squares about it say nothing.
  const float mean = float(x[0] + first[0] / double(count));
  moments(x, count, mean, second);
  const double off = second[0] / double(count);
  const double variance = second[1] / double(count) - off * off;
  const double rate = 1 / __builtin_sqrt((variance < 0 ? 0 : variance) + eps);
  const Vec a = spread(mean), s = spread(float(rate)), t = spread(float(-off * rate));
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
