// Part of a vector of channels in and out, and what is done to a sum on its way out.
// Part of graph_rows.h.

ACCEL_INLINE Vec load_n(const float* at, int64_t n) {
#if ACCEL_LANES == 16
  // Half a vector, as many networks leave over: it seldom lies across two cache lines.
  if (n == 8) return _mm512_zextps256_ps512(_mm256_loadu_ps(at));
  return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), at);
#elif ACCEL_LANES == 8
  return _mm256_maskload_ps(
      at, _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
#else
  return load_some(at, int(n));
#endif
}

ACCEL_INLINE void store_n(float* at, Vec v, int64_t n) {
#if ACCEL_LANES == 16
  if (n == 8) return _mm256_storeu_ps(at, _mm512_castps512_ps256(v));
  _mm512_mask_storeu_ps(at, __mmask16((1u << n) - 1), v);
#elif ACCEL_LANES == 8
  _mm256_maskstore_ps(
      at, _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
      v);
#else
  store_some(at, v, int(n));
#endif
}

ACCEL_INLINE Vec get(const float* at, int64_t n) { return n >= kLanes ? load(at) : load_n(at, n); }
ACCEL_INLINE void put(float* at, Vec v, int64_t n) {
  n >= kLanes ? store(at, v) : store_n(at, v, n);
}
ACCEL_INLINE Vec zeros() { return Vec{}; }

// Comparisons are written so that NaN stays NaN.
ACCEL_INLINE Vec within(Vec v, float low, float high) {
  const Vec bottom = spread(low), top = spread(high);
  v = v < bottom ? bottom : v;
  return v > top ? top : v;
}

// ln(1 + e^x), by the larger part and what is left.
ACCEL_INLINE Vec softplus(Vec v) {
  float part[kLanes];
  store(part, v);
  for (int i = 0; i < kLanes; ++i)
    part[i] =
        __builtin_log1pf(__builtin_expf(-__builtin_fabsf(part[i]))) + (part[i] > 0 ? part[i] : 0.f);
  return load(part);
}

// What is seldom asked for: out of line, so that it does not swell every loop.
__attribute__((noinline)) inline void activate_seldom(float* at, int kind, float alpha) {
  const Vec v = load(at);
  switch (kind) {
    case kGelu:
      return store(at, v * 0.5f * (1.f + erf(v * 0x1.6a09e6p-1f)));
    case kGeluTanh: {
      const Vec inner = 0x1.988454p-1f * (v + 0.044715f * v * v * v);
      return store(at, v * (1.f - 1.f / (exp(inner + inner) + 1.f)));
    }
    case kElu:
      return store(at, v > zeros() ? v : (exp(smaller(zeros(), v)) - 1.f) * alpha);
    case kSoftplus:
      return store(at, softplus(v));
    case kMish: {
      const Vec inner = softplus(v);
      return store(at, v * (1.f - 2.f / (exp(inner + inner) + 1.f)));
    }
    case kAbs:
      return store(at, v < zeros() ? -v : v);
    case kExp:
      return store(at, exp(v));
    case kErf:
      return store(at, erf(v));
    case kReciprocal:
      return store(at, 1.f / v);
    case kSqrt:
      for (int i = 0; i < kLanes; ++i) at[i] = __builtin_sqrtf(at[i]);
      return;
    case kLog:
      for (int i = 0; i < kLanes; ++i) at[i] = __builtin_logf(at[i]);
      return;
  }
}

ACCEL_INLINE Vec activate(Vec v, const Ending& e, int64_t channel) {
  const Vec zero = zeros();
  switch (e.activation) {
    case kRelu:
      return v < zero ? zero : v;
    case kLeaky:
      return v < zero ? v * e.alpha : v;
    case kPrelu:
      return v < zero ? v * load(e.slope + channel) : v;
    case kClip:
      return within(v, e.alpha, e.beta);
    case kHardSwish:
      return v * within(v * (1.f / 6) + 0.5f, 0, 1);
    case kHardSigmoid:
      return within(v * e.alpha + e.beta, 0, 1);
    case kSigmoid:
      return 1.f / (exp(-v) + 1.f);
    case kTanh:
      return 1.f - 2.f / (exp(v + v) + 1.f);
    case kSwish:
      return v * reciprocal(exp(-v * e.alpha) + 1.f);
    case kNone:
      return v;
    default: {
      float some[kLanes];
      store(some, v);
      activate_seldom(some, e.activation, e.alpha);
      return load(some);
    }
  }
}

// Whether an activation takes long enough that a pass of its own over what is near costs little.
ACCEL_INLINE bool is_long(int activation) { return activation >= kSigmoid && activation != kAbs; }

// Of `count` vectors in a row, of the same channels where each has a slope: one decision for all.
template <typename F>
ACCEL_INLINE void each(float* at, int64_t count, const F& f) {
#pragma GCC unroll 2
  for (int64_t i = 0; i < count; ++i) store(at + i * kLanes, f(load(at + i * kLanes)));
}
__attribute__((noinline)) inline void activate_all(float* at, int64_t count, const Ending& e,
                                                   int64_t channel) {
  switch (e.activation) {
    case kGelu:
      return each(at, count, [&](Vec v) { return v * 0.5f * (1.f + erf(v * 0x1.6a09e6p-1f)); });
    case kSwish: {
      const Vec alpha = spread(-e.alpha);
      return each(at, count, [&](Vec v) { return v * reciprocal(exp(v * alpha) + 1.f); });
    }
    case kHardSwish:
      return each(at, count, [&](Vec v) { return v * within(v * (1.f / 6) + 0.5f, 0, 1); });
    case kClip:
      return each(at, count, [&](Vec v) { return within(v, e.alpha, e.beta); });
    default:
      for (int64_t i = 0; i < count; ++i)
        store(at + i * kLanes, activate(load(at + i * kLanes), e, channel));
  }
}

// Residual and activation of the sums of channels [channel, channel + n) of one pixel.
ACCEL_INLINE void end_sum(const Ending& e, Vec v, float* y, int64_t pixel, int64_t channel,
                          int64_t n) {
  if (e.residual && channel < e.residual_channels)
    v += get(e.residual + pixel * e.residual_step + channel, e.residual_channels - channel);
  put(y, activate(v, e, channel), n);
}

// The same of R pixels, whose results lie y_step apart.
template <int R>
ACCEL_INLINE void end_sums(const Ending& e, const Vec* sums, float* y, int64_t y_step,
                           int64_t pixel, int64_t channel, int64_t n) {
  float kept[R][kLanes];
  for (int i = 0; i < R; ++i) {
    Vec v = sums[i];
    if (e.residual && channel < e.residual_channels)
      v += get(e.residual + (pixel + i) * e.residual_step + channel, e.residual_channels - channel);
    store(kept[i], v);
  }
  if (e.activation != kNone) activate_all(kept[0], R, e, channel);
  for (int i = 0; i < R; ++i) put(y + i * y_step, load(kept[i]), n);
}

ACCEL_INLINE void end(const Ending& e, Vec v, float* y, int64_t pixel, int64_t channel, int64_t n) {
  if (e.bias) v += load(e.bias + channel);
  end_sum(e, v, y, pixel, channel, n);
}
