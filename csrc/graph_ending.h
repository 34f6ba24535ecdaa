// Part of a vector of channels in and out, and what is done to a sum on its way out.
// Part of graph_rows.h.

ACCEL_INLINE Vec load_n(const float* at, int64_t n) {
#if ACCEL_LANES == 16
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

// Residual and activation of the sums of channels [channel, channel + n) of one pixel.
ACCEL_INLINE void end_sum(const Ending& e, Vec v, float* y, int64_t pixel, int64_t channel,
                          int64_t n) {
  if (e.residual && channel < e.residual_channels)
    v += get(e.residual + pixel * e.residual_step + channel, e.residual_channels - channel);
  put(y, activate(v, e, channel), n);
}

ACCEL_INLINE void end(const Ending& e, Vec v, float* y, int64_t pixel, int64_t channel, int64_t n) {
  if (e.bias) v += load(e.bias + channel);
  end_sum(e, v, y, pixel, channel, n);
}
