// Kernels of a graph's steps on vectors of ACCEL_LANES floats. Included by simd.h, once per width.
//
// Every result is one chain of multiply-adds in the order of the taps and channels, however the
// pixels are grouped: that keeps bytes independent of batch and threads.

#define ACCEL_INLINE __attribute__((always_inline)) inline

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

// ---- products ----------------------------------------------------------------------------------

// Rows of A: `lines` stretches of `depth` values each, `apart` from the next.
struct Rows {
  const float* a;
  int64_t step;  // between rows
  int64_t lines, depth, apart;
  int64_t skipped;  // values before the first, whose weights are not wanted
};

constexpr int64_t kAhead = 1024;  // floats of weights that are fetched early

// R pixels times V vectors of outputs.
template <int R, int V>
__attribute__((noinline)) void tile(const ProductStep& s, const Rows& rows, int64_t row,
                                    int64_t pixel, int64_t vector) {
  Vec sum[R][V] = {};
  const float* b = s.weights + (vector * s.depth + rows.skipped) * kLanes;
  const int64_t apart = s.depth * kLanes, step = rows.step;
  const float* line = rows.a + row * step;
  for (int64_t i = 0; i < rows.lines; ++i, line += rows.apart) {
    const float *a = line, *stop = line + rows.depth;
#pragma GCC unroll 1
    for (; a < stop; ++a, b += kLanes) {
      Vec column[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) {
        column[j] = load(b + j * apart);
        // Large weights come from far, and the hardware does not look beyond a page.
        __builtin_prefetch(b + j * apart + kAhead);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec value = spread(a[r * step]);
#pragma GCC unroll 4
        for (int j = 0; j < V; ++j) sum[r][j] = fma(value, column[j], sum[r][j]);
      }
    }
  }
  const Ending e = s.last;  // a copy: what is written cannot be it
  const int64_t left = s.y.channels - vector * kLanes, y_step = s.y.step;
  float* y = s.y.data + pixel * y_step + vector * kLanes;
#pragma GCC unroll 4
  for (int j = 0; j < V; ++j) {
    const int64_t channel = (vector + j) * kLanes, n = left - j * kLanes;
    const Vec bias = e.bias ? load(e.bias + channel) : zeros();
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) sum[r][j] += bias;
    if (e.residual && channel < e.residual_channels) {
      const float* from = e.residual + pixel * e.residual_step + channel;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
        sum[r][j] += get(from + r * e.residual_step, e.residual_channels - channel);
    }
    if (e.activation == kRelu) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r][j] = sum[r][j] < zeros() ? zeros() : sum[r][j];
    } else if (e.activation == kPrelu) {
      const Vec slope = load(e.slope + channel);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r][j] = sum[r][j] < zeros() ? sum[r][j] * slope : sum[r][j];
    } else if (e.activation != kNone) {
      float spilled[R][kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) store(spilled[r], sum[r][j]);
#pragma GCC unroll 1
      for (int r = 0; r < R; ++r)
        put(y + r * y_step + j * kLanes, activate(load(spilled[r]), e, channel), n);
      continue;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) put(y + r * y_step + j * kLanes, sum[r][j], n);
  }
}

constexpr int kMaxV = kLanes == 16 ? 4 : 3;
// Pixels of a tile by its vectors: what the registers hold.
constexpr int kTall[5] = {0, kLanes == 16 ? 16 : 8, kLanes == 16 ? 12 : 6, kLanes == 16 ? 8 : 4,
                          kLanes == 16 ? 6 : 0};

template <int V>
inline void tiles(const ProductStep& s, const Rows& rows, int64_t pixel, int64_t left,
                  int64_t vector) {
  constexpr int tall = kTall[V];
  int64_t row = 0;
#define ACCEL_TILE(R)                                    \
  if constexpr (R <= tall)                               \
    for (; left >= R; left -= R, pixel += R, row += R) { \
      tile<R, V>(s, rows, row, pixel, vector);           \
    }
  ACCEL_TILE(16)
  ACCEL_TILE(12)
  ACCEL_TILE(9)
  ACCEL_TILE(8)
  ACCEL_TILE(6)
  ACCEL_TILE(4)
  ACCEL_TILE(3)
  ACCEL_TILE(2)
  ACCEL_TILE(1)
#undef ACCEL_TILE
}

inline void multiply(const ProductStep& s, const Rows& rows, int64_t pixel, int64_t count) {
  const int64_t vectors = (s.y.channels + kLanes - 1) / kLanes;
  for (int64_t v = 0; v < vectors;) {
    const int64_t left = vectors - v;
    // Long weights are read once where one tile holds all pixels, and panels of them stay near.
    const int64_t most = s.depth <= 192 ? kMaxV : count > kTall[2] && count <= kTall[1] ? 1 : 2;
    // 5 vectors are 3 and 2 rather than 4 and 1.
    const int64_t groups = (left + most - 1) / most;
    const int64_t wide = (left + groups - 1) / groups;
    switch (wide) {
      case 1:
        tiles<1>(s, rows, pixel, count, v);
        break;
      case 2:
        tiles<2>(s, rows, pixel, count, v);
        break;
      case 3:
        tiles<3>(s, rows, pixel, count, v);
        break;
      default:
        if constexpr (kMaxV >= 4) tiles<4>(s, rows, pixel, count, v);
    }
    v += wide;
  }
}

ACCEL_INLINE void copy_run(const float* from, float* to, int64_t count) {
  for (; count >= kLanes; count -= kLanes, from += kLanes, to += kLanes) store(to, load(from));
  if (count) store_n(to, load_n(from, count), count);
}
ACCEL_INLINE void zero_run(float* to, int64_t count) {
  for (; count >= kLanes; count -= kLanes, to += kLanes) store(to, zeros());
  if (count) store_n(to, zeros(), count);
}

struct At {
  int64_t image, y, x;
};
inline At place(int64_t pixel, const Picture& p) {
  return {pixel / (p.height * p.width), pixel / p.width % p.height, pixel % p.width};
}
inline void forward(At& at, const Picture& p) {
  if (++at.x == p.width) {
    at.x = 0;
    if (++at.y == p.height) at.y = 0, ++at.image;
  }
}

inline void gather_dilated(const ProductStep& s, int64_t pixel, int64_t count, float* to) {
  const Picture& x = s.x;
  const Window& w = s.window;
  At at = place(pixel, s.y);
  for (; count; --count, forward(at, s.y))
    for (int64_t r = 0; r < w.height; ++r)
      for (int64_t c = 0; c < w.width; ++c, to += x.channels) {
        const int64_t row = at.y * w.down - w.top + r * w.apart_down;
        const int64_t column = at.x * w.across - w.left + c * w.apart_across;
        if (row < 0 || row >= x.height || column < 0 || column >= x.width)
          zero_run(to, x.channels);
        else
          copy_run(x.data + ((at.image * x.height + row) * x.width + column) * x.step, to,
                   x.channels);
      }
}

// The windows of `count` pixels of y, row by row, zeros outside.
inline void gather(const ProductStep& s, int64_t pixel, int64_t count, float* to) {
  const Picture& x = s.x;
  const Window& w = s.window;
  const bool dense = x.step == x.channels;
  if (w.apart_down != 1 || w.apart_across != 1) return gather_dilated(s, pixel, count, to);
  At at = place(pixel, s.y);
  for (; count; --count, forward(at, s.y)) {
    const int64_t top = at.y * w.down - w.top, left = at.x * w.across - w.left;
    const int64_t c0 = left < 0 ? (-left < w.width ? -left : w.width) : 0;
    const int64_t c1 = left + w.width > x.width ? (x.width > left ? x.width - left : 0) : w.width;
    for (int64_t r = 0; r < w.height; ++r, to += w.width * x.channels) {
      const int64_t row = top + r;
      if (row < 0 || row >= x.height || c0 >= c1) {
        zero_run(to, w.width * x.channels);
        continue;
      }
      const float* from = x.data + ((at.image * x.height + row) * x.width + left + c0) * x.step;
      if (c0) zero_run(to, c0 * x.channels);
      if (dense)
        copy_run(from, to + c0 * x.channels, (c1 - c0) * x.channels);
      else
        for (int64_t c = c0; c < c1; ++c, from += x.step)
          copy_run(from, to + c * x.channels, x.channels);
      if (c1 < w.width) zero_run(to + c1 * x.channels, (w.width - c1) * x.channels);
    }
  }
}

// ---- depthwise ---------------------------------------------------------------------------------

struct DepthwiseRow {
  const float* taps;     // [window][padded]
  int64_t padded, step;  // between pixels of x
  Window w;
  int64_t r0, r1;  // rows of the window that lie inside
  const float* x;  // row r0 of the window of pixel 0, were there columns on the left
  int64_t line;    // floats between rows of x
};

// One pixel, columns [c0, c1) of the window.
ACCEL_INLINE Vec depthwise_one(const DepthwiseRow& d, int64_t x, int64_t channel, int64_t n,
                               int64_t c0, int64_t c1, Vec sum) {
  const float* from = d.x + x * d.w.across * d.step + channel;
  for (int64_t r = d.r0; r < d.r1; ++r, from += d.line) {
    const float* tap = d.taps + r * d.w.width * d.padded + channel;
    for (int64_t c = c0; c < c1; ++c)
      sum = fma(get(from + c * d.step, n), load(tap + c * d.padded), sum);
  }
  return sum;
}

// Four neighbours whose windows lie inside; kAcross apart.
template <int kWide, int kAcross, bool kFull>
ACCEL_INLINE void depthwise_four(const DepthwiseRow& d, const float* from, const float* tap,
                                 int64_t n, Vec* sum) {
  Vec a = sum[0], b = sum[1], c = sum[2], e = sum[3];
  for (int64_t r = d.r0; r < d.r1; ++r, from += d.line, tap += kWide * d.padded) {
    Vec in[3 * kAcross + kWide];
#pragma GCC unroll 16
    for (int i = 0; i < 3 * kAcross + kWide; ++i)
      in[i] = kFull ? load(from + i * d.step) : load_n(from + i * d.step, n);
#pragma GCC unroll 8
    for (int i = 0; i < kWide; ++i) {
      const Vec weight = load(tap + i * d.padded);
      a = fma(in[i], weight, a);
      b = fma(in[kAcross + i], weight, b);
      c = fma(in[2 * kAcross + i], weight, c);
      e = fma(in[3 * kAcross + i], weight, e);
    }
  }
  sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = e;
}

struct Stretch {  // pixels [from, to) of one row of y, of which [inner, inner_end) need no care
  int64_t from, to, inner, inner_end;
};
inline Stretch stretch(const Picture& x, const Window& w, int64_t from, int64_t to) {
  int64_t inner = (w.left + w.across - 1) / w.across, inner_end = 0;
  if (x.width + w.left >= w.width) inner_end = (x.width + w.left - w.width) / w.across + 1;
  inner = inner < from ? from : inner > to ? to : inner;
  inner_end = inner_end > to ? to : inner_end < inner ? inner : inner_end;
  return {from, to, inner, inner_end};
}

template <int kWide, int kAcross, bool kFull, bool kPlain>
inline void depthwise_inner(const DepthwiseRow& d, const Ending& e, int64_t from, int64_t to,
                            int64_t channel, int64_t n, int64_t pixel, float* out,
                            int64_t out_step) {
  const Vec bias = e.bias ? load(e.bias + channel) : zeros();
  const float* tap = d.taps + d.r0 * kWide * d.padded + channel;
  const float* x = d.x + from * kAcross * d.step + channel;
  for (; from + 4 <= to; from += 4, pixel += 4, out += 4 * out_step, x += 4 * kAcross * d.step) {
    Vec sum[4] = {bias, bias, bias, bias};
    depthwise_four<kWide, kAcross, kFull>(d, x, tap, n, sum);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (kPlain && kFull)
        store(out + i * out_step, sum[i]);
      else if (kPlain)
        store_n(out + i * out_step, sum[i], n);
      else
        end_sum(e, sum[i], out + i * out_step, pixel + i, channel, n);
    }
  }
  for (; from < to; ++from, ++pixel, out += out_step)
    end_sum(e, depthwise_one(d, from, channel, n, 0, kWide, bias), out, pixel, channel, n);
}

template <int kWide, int kAcross>
inline void depthwise_inner(const DepthwiseRow& d, const Ending& e, int64_t from, int64_t to,
                            int64_t channel, int64_t n, int64_t pixel, float* out,
                            int64_t out_step) {
  const bool plain = !e.residual && e.activation == kNone;
  const auto run = n >= kLanes ? (plain ? depthwise_inner<kWide, kAcross, true, true>
                                        : depthwise_inner<kWide, kAcross, true, false>)
                               : (plain ? depthwise_inner<kWide, kAcross, false, true>
                                        : depthwise_inner<kWide, kAcross, false, false>);
  run(d, e, from, to, channel, n, pixel, out, out_step);
}

// Pixels [from, to) of row `row` of a picture of sums; results out_step apart.
inline void depthwise_run(const Picture& x, const Window& w, const float* taps, const Ending& last,
                          int64_t image, int64_t row, int64_t from, int64_t to, int64_t pixel,
                          float* out, int64_t out_step) {
  const int64_t padded = (x.channels + kLanes - 1) / kLanes * kLanes;
  const int64_t top = row * w.down - w.top;
  const int64_t r0 = top < 0 ? (-top < w.height ? -top : w.height) : 0;
  int64_t r1 = x.height - top < w.height ? x.height - top : w.height;
  if (r1 < r0) r1 = r0;
  const int64_t line = x.width * x.step;
  const float* start = x.data + (image * x.height + top + r0) * line - w.left * x.step;
  const DepthwiseRow d = {taps, padded, x.step, w, r0, r1, start, line};
  const Stretch s = stretch(x, w, from, to);
  for (int64_t channel = 0; channel < x.channels; channel += kLanes) {
    const int64_t n = x.channels - channel;
    const Vec bias = last.bias ? load(last.bias + channel) : zeros();
    const auto edges = [&](int64_t at, int64_t until) {
      for (; at < until; ++at) {
        const int64_t left = at * w.across - w.left, c0 = left < 0 ? -left : 0;
        const int64_t c1 = x.width - left < w.width ? x.width - left : w.width;
        end_sum(last, depthwise_one(d, at, channel, n, c0, c1, bias),
                out + (at - from) * out_step + channel, pixel + at - from, channel, n);
      }
    };
    edges(from, s.inner);
    float* to_inner = out + (s.inner - from) * out_step + channel;
    const int64_t first = pixel + s.inner - from;
#define ACCEL_INNER(WIDE, ACROSS)                                                           \
  depthwise_inner<WIDE, ACROSS>(d, last, s.inner, s.inner_end, channel, n, first, to_inner, \
                                out_step)
    if (w.width == 3 && w.across == 1)
      ACCEL_INNER(3, 1);
    else if (w.width == 3 && w.across == 2)
      ACCEL_INNER(3, 2);
    else if (w.width == 5 && w.across == 1)
      ACCEL_INNER(5, 1);
    else if (w.width == 5 && w.across == 2)
      ACCEL_INNER(5, 2);
    else if (w.width == 7 && w.across == 1)
      ACCEL_INNER(7, 1);
    else
      edges(s.inner, s.inner_end);
#undef ACCEL_INNER
    edges(s.inner_end, to);
  }
}

// One pixel of a dilated window.
inline void depthwise_dilated(const Picture& x, const Window& w, const float* taps,
                              const Ending& last, const At& at, int64_t pixel, float* out) {
  const int64_t padded = (x.channels + kLanes - 1) / kLanes * kLanes;
  for (int64_t channel = 0; channel < x.channels; channel += kLanes) {
    const int64_t n = x.channels - channel;
    Vec sum = last.bias ? load(last.bias + channel) : zeros();
    for (int64_t r = 0; r < w.height; ++r)
      for (int64_t c = 0; c < w.width; ++c) {
        const int64_t row = at.y * w.down - w.top + r * w.apart_down;
        const int64_t column = at.x * w.across - w.left + c * w.apart_across;
        if (row < 0 || row >= x.height || column < 0 || column >= x.width) continue;
        const float* from = x.data + ((at.image * x.height + row) * x.width + column) * x.step;
        sum = fma(get(from + channel, n), load(taps + (r * w.width + c) * padded + channel), sum);
      }
    end_sum(last, sum, out + channel, pixel, channel, n);
  }
}

// `count` pixels of a grid like y's from `pixel` on.
inline void depthwise(const Picture& x, const Picture& y, const Window& w, const float* taps,
                      const Ending& last, int64_t pixel, int64_t count, float* out,
                      int64_t out_step) {
  if (w.apart_down != 1 || w.apart_across != 1) {
    At at = place(pixel, y);
    for (; count; --count, ++pixel, out += out_step, forward(at, y))
      depthwise_dilated(x, w, taps, last, at, pixel, out);
    return;
  }
  while (count) {
    const At at = place(pixel, y);
    const int64_t some = y.width - at.x < count ? y.width - at.x : count;
    depthwise_run(x, w, taps, last, at.image, at.y, at.x, at.x + some, pixel, out, out_step);
    pixel += some, count -= some, out += some * out_step;
  }
}

// How many pixels are worked on together: their rows of A stay near.
inline int64_t product_chunk(const ProductStep& s) {
  const int64_t fits = (s.source == kDirect ? 16384 : 8192) / (s.depth > 0 ? s.depth : 1);
  const int64_t tall = 48;
  return fits < tall ? tall : fits / tall * tall;
}

// Whether a window's lines are read where they lie. They are short then: to gather them would take
// as long as the product.
inline bool reads_in_place(const ProductStep& s) {
  return s.x.step == s.x.channels && s.window.width * s.x.channels <= 64 && s.y.width >= 16 &&
         s.window.apart_down == 1 && s.window.apart_across == 1;
}

// Pixels [at.x, at.x + count) of one row of y.
inline void multiply_row(const ProductStep& s, const At& at, int64_t pixel, int64_t count,
                         float* scratch) {
  const Window& w = s.window;
  const Stretch part = stretch(s.x, w, at.x, at.x + count);
  const auto edges = [&](int64_t from, int64_t to) {
    if (from >= to) return;
    gather(s, pixel + from - at.x, to - from, scratch);
    multiply(s, {scratch, s.depth, 1, s.depth, 0, 0}, pixel + from - at.x, to - from);
  };
  edges(at.x, part.inner);
  if (part.inner < part.inner_end) {
    const int64_t top = at.y * w.down - w.top, line = s.x.width * s.x.step;
    const int64_t r0 = top < 0 ? -top : 0;
    const int64_t r1 = s.x.height - top < w.height ? s.x.height - top : w.height;
    const float* a = s.x.data + (at.image * s.x.height + top + r0) * line +
                     (part.inner * w.across - w.left) * s.x.step;
    const int64_t depth = w.width * s.x.channels;
    multiply(s, {a, w.across * s.x.step, r1 > r0 ? r1 - r0 : 0, depth, line, r0 * depth},
             pixel + part.inner - at.x, part.inner_end - part.inner);
  }
  edges(part.inner_end, at.x + count);
}

inline void product(const ProductStep& s, int64_t pixel, int64_t count, float* scratch) {
  if (s.source == kDirect)
    return multiply(s, {s.x.data + pixel * s.x.step, s.x.step, 1, s.depth, 0, 0}, pixel, count);
  if (s.source == kGathered && reads_in_place(s)) {
    while (count) {
      const At at = place(pixel, s.y);
      const int64_t some = s.y.width - at.x < count ? s.y.width - at.x : count;
      multiply_row(s, at, pixel, some, scratch);
      pixel += some, count -= some;
    }
    return;
  }
  if (s.source == kGathered)
    gather(s, pixel, count, scratch);
  else
    depthwise(s.x, s.y, s.window, s.taps, s.first, pixel, count, scratch, s.depth);
  multiply(s, {scratch, s.depth, 1, s.depth, 0, 0}, pixel, count);
}

// ---- everything else ---------------------------------------------------------------------------

// Pixels [pixel, pixel + count) of y.
inline void pool(const PoolStep& s, int64_t pixel, int64_t count) {
  const Picture &x = s.x, &y = s.y;
  const Window& w = s.window;
  At at = place(pixel, y);
  for (; count; --count, ++pixel, forward(at, y)) {
    const int64_t top = at.y * w.down - w.top, left = at.x * w.across - w.left;
    const int64_t r0 = top < 0 ? 0 : top, c0 = left < 0 ? 0 : left;
    const int64_t r1 = top + w.height < x.height ? top + w.height : x.height;
    const int64_t c1 = left + w.width < x.width ? left + w.width : x.width;
    const int64_t inside = (r1 > r0 ? r1 - r0 : 0) * (c1 > c0 ? c1 - c0 : 0);
    const float share = 1.f / float(s.count_zeros ? w.height * w.width : inside);
    for (int64_t c = 0; c < y.channels; c += kLanes) {
      const int64_t n = y.channels - c;
      Vec v = s.largest ? spread(-__builtin_inff()) : zeros();
      for (int64_t r = r0; r < r1; ++r) {
        const float* from = x.data + ((at.image * x.height + r) * x.width + c0) * x.step + c;
        for (int64_t i = c0; i < c1; ++i, from += x.step) {
          const Vec next = get(from, n);
          if (s.largest)
            v = (next > v) | (next != next) ? next : v;
          else
            v += next;
        }
      }
      put(y.data + pixel * y.step + c, s.largest ? v : v * share, n);
    }
  }
}

ACCEL_INLINE Vec combine(int kind, Vec a, Vec b) {
  switch (kind) {
    case kAdd:
      return a + b;
    case kSubtract:
      return a - b;
    case kMultiply:
      return a * b;
    case kDivide:
      return a / b;
    case kSubtractFrom:
      return b - a;
    case kDivideInto:
      return b / a;
    case kMaximum:
      return (a > b) | (a != a) ? a : b;
    case kMinimum:
      return (a < b) | (a != a) ? a : b;
    default:  // kKeep
      return a;
  }
}

inline void binary(const BinaryStep& s, int64_t pixel, int64_t count) {
  const int64_t an_image = s.y.height * s.y.width, wanted = s.b.count * s.b.height * s.b.width;
  const bool each = wanted == s.y.pixels();
  for (; count; --count, ++pixel) {
    const float* a = s.a.data + pixel * s.a.step;
    const float* b = s.b.data;
    if (b) b += (each ? pixel : wanted > 1 ? pixel / an_image : 0) * s.b.step;
    for (int64_t c = 0; c < s.y.channels; c += kLanes) {
      const int64_t n = s.y.channels - c;
      Vec v = get(a + c, n);
      if (b) v = combine(s.kind, v, s.b.channels == 1 ? spread(*b) : get(b + c, n));
      end(s.last, v, s.y.data + pixel * s.y.step + c, pixel, c, n);
    }
  }
}

// Sums over the pixels of one image, of the values or of their distance from `about` squared, for
// kGroup vectors of channels; in runs, so that rounding stays small.
constexpr int kGroup = 4;

template <bool kSquares>
inline void channel_sums(const float* x, int64_t pixels, int64_t step, int64_t n, const Vec* about,
                         Vec* total) {
  constexpr int64_t kRun = 64;
  for (int i = 0; i < kGroup; ++i) total[i] = zeros();
  for (int64_t p = 0; p < pixels; p += kRun) {
    const int64_t end = p + kRun < pixels ? p + kRun : pixels;
    Vec run[kGroup] = {};
    for (int64_t at = p; at < end; ++at)
#pragma GCC unroll 4
      for (int i = 0; i < kGroup; ++i) {
        if (n <= i * kLanes) break;
        const Vec v = get(x + at * step + i * kLanes, n - i * kLanes) - about[i];
        run[i] = kSquares ? fma(v, v, run[i]) : run[i] + v;
      }
    for (int i = 0; i < kGroup; ++i) total[i] += run[i];
  }
}

#if ACCEL_LANES == 4
// to[r * b + c] = from[c * a + r], four by four.
inline void turn(const float* from, int64_t a, float* to, int64_t b, int64_t rows,
                 int64_t columns) {
  constexpr int64_t kBlock = 64;  // of columns: lines of both stay near
  if (columns == 2 && b == 2) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      const Vec u = load(from + r), v = load(from + a + r);
      store(to + 2 * r, Vec{u[0], v[0], u[1], v[1]});
      store(to + 2 * r + 4, Vec{u[2], v[2], u[3], v[3]});
    }
    for (; r < rows; ++r) to[2 * r] = from[r], to[2 * r + 1] = from[a + r];
    return;
  }
  for (int64_t block = 0; block < columns; block += kBlock) {
    const int64_t end = block + kBlock < columns ? block + kBlock : columns;
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      int64_t c = block;
      for (; c + 4 <= end; c += 4) {
        Vec v[4];
        for (int i = 0; i < 4; ++i) v[i] = load(from + (c + i) * a + r);
        for (int i = 0; i < 4; ++i)
          store(to + (r + i) * b + c, Vec{v[0][i], v[1][i], v[2][i], v[3][i]});
      }
      for (; c < end; ++c)
        for (int64_t i = r; i < r + 4; ++i) to[i * b + c] = from[c * a + i];
    }
    for (; r < rows; ++r)
      for (int64_t c = block; c < end; ++c) to[r * b + c] = from[c * a + r];
  }
}
#endif

// The mean over the pixels of image `image`, for a group of channels from c on.
inline void mean(const MeanStep& s, int64_t image, int64_t c) {
  const int64_t size = s.x.height * s.x.width, n = s.x.channels - c;
  const Vec about[kGroup] = {};
  Vec sum[kGroup];
  channel_sums<false>(s.x.data + image * size * s.x.step + c, size, s.x.step, n, about, sum);
  for (int i = 0; i < kGroup && n > i * kLanes; ++i)
    put(s.y.data + image * s.y.step + c + i * kLanes, sum[i] / float(size), n - i * kLanes);
}

inline void norm(const NormStep& s, int64_t image, int64_t c) {
  const int64_t size = s.x.height * s.x.width, n = s.x.channels - c;
  const float* x = s.x.data + image * size * s.x.step + c;
  Vec about[kGroup], mean[kGroup], scale[kGroup], shift[kGroup];
  // Values may lie far from zero and close together: distances from the first are small.
  for (int i = 0; i < kGroup; ++i)
    about[i] = n > i * kLanes ? get(x + i * kLanes, n - i * kLanes) : zeros();
  channel_sums<false>(x, size, s.x.step, n, about, mean);
  for (int i = 0; i < kGroup; ++i) mean[i] = mean[i] / float(size) + about[i];
  channel_sums<true>(x, size, s.x.step, n, mean, scale);
  const int64_t affine = image * s.affine_step + c;
  for (int i = 0; i < kGroup && n > i * kLanes; ++i) {
    float root[kLanes];
    store(root, scale[i] / float(size) + s.epsilon);
    for (int j = 0; j < kLanes; ++j) root[j] = 1.f / __builtin_sqrtf(root[j]);
    const int64_t at = affine + i * kLanes, some = n - i * kLanes;
    scale[i] = s.scale ? load(root) * get(s.scale + at, some) : load(root);
    shift[i] = s.shift ? get(s.shift + at, some) : zeros();
  }
  const Ending e = s.last;
  for (int64_t p = 0; p < size; ++p)
#pragma GCC unroll 4
    for (int i = 0; i < kGroup; ++i) {
      const int64_t at = c + i * kLanes, some = n - i * kLanes;
      if (some <= 0) break;
      end(e, fma(get(x + p * s.x.step + i * kLanes, some) - mean[i], scale[i], shift[i]),
          s.y.data + (image * size + p) * s.y.step + at, image * size + p, at, some);
    }
}

// Pixels [pixel, pixel + count) of y: every tap whose place in x is whole and inside.
inline void fold(const FoldStep& s, int64_t pixel, int64_t count) {
  const Picture &x = s.x, &y = s.y;
  const Window& w = s.window;
  At at = place(pixel, y);
  for (; count; --count, ++pixel, forward(at, y)) {
    const float* from[kMostTaps];
    int taps = 0;
    for (int64_t i = 0; i < w.height; ++i) {
      const int64_t down = at.y + w.top - i * w.apart_down, row = down / w.down;
      if (down < 0 || down % w.down || row >= x.height) continue;
      for (int64_t j = 0; j < w.width; ++j) {
        const int64_t across = at.x + w.left - j * w.apart_across, column = across / w.across;
        if (across < 0 || across % w.across || column >= x.width) continue;
        from[taps++] = x.data + ((at.image * x.height + row) * x.width + column) * x.step +
                       (i * w.width + j) * y.channels;
      }
    }
    for (int64_t c = 0; c < y.channels; c += kLanes) {
      const int64_t n = y.channels - c;
      Vec v = zeros();
      for (int k = 0; k < taps; ++k) v += get(from[k] + c, n);
      end(s.last, v, y.data + pixel * y.step + c, pixel, c, n);
    }
  }
}

// Numbers of a line from `at` on, `fill` behind its end.
ACCEL_INLINE Vec line_part(const float* x, int64_t n, float fill) {
  if (n >= kLanes) return load(x);
  float part[kLanes];
  for (int i = 0; i < kLanes; ++i) part[i] = i < n ? x[i] : fill;
  return load(part);
}

template <typename F>
ACCEL_INLINE Vec along(const float* x, int64_t size, float fill, Vec start, const F& f) {
  for (int64_t i = 0; i < size; i += kLanes) start = f(start, line_part(x + i, size - i, fill));
  return start;
}

inline float largest_of_line(const float* x, int64_t size, float sign) {
  const auto larger_one = [&](Vec a, Vec b) {
    const Vec v = b * sign;
    return (v > a) | (v != v) ? v : a;
  };
  const float least = -__builtin_inff();
  float part[kLanes], most = least;
  store(part, along(x, size, least * sign, spread(least), larger_one));
  for (float v : part) most = v > most || v != v ? v : most;
  return most * sign;
}

inline void line(const LineStep& s, int64_t i) {
  const int64_t size = s.size;
  const float* x = s.x + i * size;
  const auto total = [&](bool squares) {
    return sum(
        along(x, size, 0.f, zeros(), [&](Vec a, Vec b) { return squares ? fma(b, b, a) : a + b; }));
  };
  switch (s.kind) {
    case kSum:
      s.y[i] = total(false);
      return;
    case kMean:
      s.y[i] = total(false) / float(size);
      return;
    case kSquares:
      s.y[i] = total(true);
      return;
    case kLength:
      s.y[i] = __builtin_sqrtf(total(true));
      return;
    case kLargest:
      s.y[i] = largest_of_line(x, size, 1);
      return;
    case kSmallest:
      s.y[i] = largest_of_line(x, size, -1);
      return;
  }
  float* y = s.y + i * size;
  if (size < 8) {  // too short for vectors to pay
    float most = x[0], all = 0;
    for (int64_t k = 1; k < size; ++k) most = x[k] > most || x[k] != x[k] ? x[k] : most;
    for (int64_t k = 0; k < size; ++k) all += __builtin_expf(x[k] - most);
    for (int64_t k = 0; k < size; ++k)
      y[k] = s.kind == kSoftmax ? __builtin_expf(x[k] - most) / all
                                : x[k] - most - __builtin_logf(all);
    return;
  }
  const float most = largest_of_line(x, size, 1);
  Vec sums = zeros();
  for (int64_t at = 0; at < size; at += kLanes) {
    const int64_t n = size - at;
    const Vec v = exp(line_part(x + at, n, -__builtin_inff()) - most);
    sums += v;
    if (s.kind == kSoftmax) put(y + at, v, n);
  }
  const float all = sum(sums), shift = most + __builtin_logf(all);
  for (int64_t at = 0; at < size; at += kLanes) {
    const int64_t n = size - at;
    put(y + at, s.kind == kSoftmax ? get(y + at, n) / all : get(x + at, n) - shift, n);
  }
}

// Row `row` of y, counted through the images.
inline void resize(const ResizeStep& s, int64_t row) {
  const Picture &x = s.x, &y = s.y;
  const int64_t image = row / y.height, r = row % y.height;
  const float* top = x.data + (image * x.height + s.r0[r]) * x.width * x.step;
  const float* bottom = s.row_part ? x.data + (image * x.height + s.r1[r]) * x.width * x.step : top;
  float* to = y.data + row * y.width * y.step;
  for (int64_t i = 0; i < y.width; ++i, to += y.step) {
    const int64_t left = s.c0[i] * x.step, right = s.row_part ? s.c1[i] * x.step : left;
    for (int64_t c = 0; c < y.channels; c += kLanes) {
      const int64_t n = y.channels - c;
      Vec v = get(top + left + c, n);
      if (s.row_part) {
        const float across = s.column_part[i], down = s.row_part[r];
        const Vec upper = v * (1 - across) + get(top + right + c, n) * across;
        const Vec lower =
            get(bottom + left + c, n) * (1 - across) + get(bottom + right + c, n) * across;
        v = upper * (1 - down) + lower * down;
      }
      put(to + c, v, n);
    }
  }
}
#undef ACCEL_INLINE
