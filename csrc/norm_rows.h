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

// Channels last: adds pixels' values less `shift`[C] into sum[C] and squares[C].
inline void pixel_moments(const float* x, int64_t pixels, int64_t channels, const float* shift,
                          float* sums, float* squares) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int some = int(channels - c < kLanes ? channels - c : kLanes);
    const Vec zero = load_some(shift + c, some);
    Vec s{}, q{};
    for (int64_t p = 0; p < pixels; ++p) {
      const Vec d =
          (some == kLanes ? load(x + p * channels + c) : load_some(x + p * channels + c, some)) -
          zero;
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
  int64_t i = 0;
  for (; i < count; i += kLanes) {
    const int some = int(count - i < kLanes ? count - i : kLanes);
    const Vec g = some == kLanes ? load(gate + i) : load_some(gate + i, some);
    const Vec v = some == kLanes ? load(value + i) : load_some(value + i, some);
    const Vec out = v * (g * 0.5f) * (1.f + erf(g * root));
    some == kLanes ? store(y + i, out) : store_some(y + i, out, some);
  }
}
