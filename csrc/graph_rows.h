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
    case kSilu:
      return silu(v);
    default:
      return v;
  }
}

// Bias, residual and activation of the sums of channels [channel, channel + n) of one pixel.
ACCEL_INLINE void end(const Ending& e, Vec v, float* y, int64_t pixel, int64_t channel, int64_t n) {
  if (e.bias) v += load(e.bias + channel);
  if (e.residual && channel < e.residual_channels)
    v += get(e.residual + pixel * e.residual_step + channel, e.residual_channels - channel);
  put(y, activate(v, e, channel), n);
}

// ---- products ----------------------------------------------------------------------------------

// R pixels times V vectors of outputs, all depth, from a row of A on.
template <int R, int V>
__attribute__((noinline)) void tile(const ProductStep& s, const float* a, int64_t a_step,
                                    int64_t pixel, int64_t vector) {
  Vec sum[R][V] = {};
  const float* b = s.weights + vector * s.depth * kLanes;
  const int64_t apart = s.depth * kLanes;
#pragma GCC unroll 1
  for (int64_t k = 0; k < s.depth; ++k, ++a, b += kLanes) {
    Vec column[V];
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) column[i] = load(b + i * apart);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec value = spread(a[r * a_step]);
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) sum[r][i] = fma(value, column[i], sum[r][i]);
    }
  }
  const int64_t left = s.y.channels - vector * kLanes;
  float* y = s.y.data + pixel * s.y.step + vector * kLanes;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r, y += s.y.step)
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i)
      end(s.last, sum[r][i], y + i * kLanes, pixel + r, (vector + i) * kLanes, left - i * kLanes);
}

constexpr int kMaxV = kLanes == 16 ? 4 : 3;
// Pixels of a tile by its vectors: what the registers hold.
constexpr int kTall[5] = {0, kLanes == 16 ? 16 : 8, kLanes == 16 ? 12 : 6, kLanes == 16 ? 8 : 4,
                          kLanes == 16 ? 6 : 0};

template <int V>
inline int64_t tiles(const ProductStep& s, const float* a, int64_t a_step, int64_t pixel,
                     int64_t left, int64_t vector) {
  constexpr int tall = kTall[V];
#define ACCEL_TILE(R)                                           \
  if constexpr (R <= tall)                                      \
    for (; left >= R; left -= R, pixel += R, a += R * a_step) { \
      tile<R, V>(s, a, a_step, pixel, vector);                  \
    }
  ACCEL_TILE(16)
  ACCEL_TILE(12)
  ACCEL_TILE(8)
  ACCEL_TILE(6)
  ACCEL_TILE(4)
  ACCEL_TILE(3)
  ACCEL_TILE(2)
  ACCEL_TILE(1)
#undef ACCEL_TILE
  return left;
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

// The windows of `count` pixels of y, row by row, zeros outside.
inline void gather(const ProductStep& s, int64_t pixel, int64_t count, float* to) {
  const Picture& x = s.x;
  const Window& w = s.window;
  const bool dense = x.step == x.channels;
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
  const float* x;  // row r0 of the window of column 0, at `left` of the padding
  int64_t width;   // of x
};

// N neighbours, one vector of channels; columns of the window [c0, c1) lie inside.
template <int N, int kWide>
ACCEL_INLINE void depthwise_some(const DepthwiseRow& d, int64_t x, int64_t channel, int64_t n,
                                 int64_t c0, int64_t c1, Vec* sum) {
  for (int i = 0; i < N; ++i) sum[i] = zeros();
  const int64_t apart = d.w.across * d.step;
  for (int64_t r = d.r0; r < d.r1; ++r) {
    const float* from = d.x + (r - d.r0) * d.width * d.step + x * apart + channel;
    const float* tap = d.taps + r * d.w.width * d.padded + channel;
    const auto column = [&](int64_t c) __attribute__((always_inline)) {
      const Vec weight = load(tap + c * d.padded);
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const float* at = from + i * apart + c * d.step;
        sum[i] = fma(n >= kLanes ? load(at) : load_n(at, n), weight, sum[i]);
      }
    };
    if (kWide) {
#pragma GCC unroll 5
      for (int c = 0; c < kWide; ++c) column(c);
    } else {
      for (int64_t c = c0; c < c1; ++c) column(c);
    }
  }
}

// Pixels [from, to) of row `at` of y's grid; results to_step apart, the first at `to_data`.
template <int kWide>
inline void depthwise_run(const Picture& x, const Window& w, const float* taps, const Ending& last,
                          int64_t image, int64_t row, int64_t from, int64_t to, int64_t pixel,
                          float* out, int64_t out_step) {
  const int64_t padded = (x.channels + kLanes - 1) / kLanes * kLanes;
  const int64_t top = row * w.down - w.top;
  const int64_t r0 = top < 0 ? (-top < w.height ? -top : w.height) : 0;
  int64_t r1 = x.height - top < w.height ? x.height - top : w.height;
  if (r1 < r0) r1 = r0;
  const float* start = x.data + (image * x.height + top + r0) * x.width * x.step - w.left * x.step;
  const DepthwiseRow d = {taps, padded, x.step, w, r0, r1, start, x.width};
  // Columns whose whole window lies inside.
  int64_t inner = (w.left + w.across - 1) / w.across, end_inner = 0;
  if (x.width + w.left >= w.width) end_inner = (x.width + w.left - w.width) / w.across + 1;
  inner = inner < from ? from : inner > to ? to : inner;
  end_inner = end_inner > to ? to : end_inner < inner ? inner : end_inner;
  for (int64_t channel = 0; channel < x.channels; channel += kLanes) {
    const int64_t n = x.channels - channel;
    const auto edge = [&](int64_t at) {
      const int64_t left = at * w.across - w.left;
      const int64_t c0 = left < 0 ? -left : 0;
      const int64_t c1 = x.width - left < w.width ? x.width - left : w.width;
      Vec sum[1];
      depthwise_some<1, 0>(d, at, channel, n, c0, c1, sum);
      end(last, sum[0], out + (at - from) * out_step + channel, pixel + at - from, channel, n);
    };
    int64_t at = from;
    for (; at < inner; ++at) edge(at);
    for (; at + 4 <= end_inner; at += 4) {
      Vec sum[4];
      if (n >= kLanes)
        depthwise_some<4, kWide>(d, at, channel, kLanes, 0, w.width, sum);
      else
        depthwise_some<4, kWide>(d, at, channel, n, 0, w.width, sum);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        end(last, sum[i], out + (at - from + i) * out_step + channel, pixel + at - from + i,
            channel, n);
    }
    for (; at < end_inner; ++at) {
      Vec sum[1];
      depthwise_some<1, kWide>(d, at, channel, n, 0, w.width, sum);
      end(last, sum[0], out + (at - from) * out_step + channel, pixel + at - from, channel, n);
    }
    for (; at < to; ++at) edge(at);
  }
}

// `count` pixels of a grid like y's from `pixel` on.
inline void depthwise(const Picture& x, const Picture& y, const Window& w, const float* taps,
                      const Ending& last, int64_t pixel, int64_t count, float* out,
                      int64_t out_step) {
  while (count) {
    const At at = place(pixel, y);
    const int64_t some = y.width - at.x < count ? y.width - at.x : count;
    const auto run = w.width == 3   ? depthwise_run<3>
                     : w.width == 5 ? depthwise_run<5>
                                    : depthwise_run<0>;
    run(x, w, taps, last, at.image, at.y, at.x, at.x + some, pixel, out, out_step);
    pixel += some, count -= some, out += some * out_step;
  }
}

// How many pixels are worked on together: their rows of A stay near.
inline int64_t product_chunk(const ProductStep& s) {
  const int64_t fits = (s.source == kDirect ? 16384 : 8192) / (s.depth > 0 ? s.depth : 1);
  const int64_t tall = 48;
  return fits < tall ? tall : fits / tall * tall;
}

inline void product(const ProductStep& s, int64_t pixel, int64_t count, float* scratch) {
  const float* a = scratch;
  int64_t a_step = s.depth;
  if (s.source == kDirect)
    a = s.x.data + pixel * s.x.step, a_step = s.x.step;
  else if (s.source == kGathered)
    gather(s, pixel, count, scratch);
  else
    depthwise(s.x, s.y, s.window, s.taps, s.first, pixel, count, scratch, s.depth);
  const int64_t vectors = (s.y.channels + kLanes - 1) / kLanes;
  for (int64_t v = 0; v < vectors;) {
    const int64_t left = vectors - v;
    const int64_t most = s.depth > 192 ? 2 : kMaxV;
    // 5 vectors are 3 and 2 rather than 4 and 1.
    const int64_t groups = (left + most - 1) / most;
    const int64_t wide = (left + groups - 1) / groups;
    switch (wide) {
      case 1:
        tiles<1>(s, a, a_step, pixel, count, v);
        break;
      case 2:
        tiles<2>(s, a, a_step, pixel, count, v);
        break;
      case 3:
        tiles<3>(s, a, a_step, pixel, count, v);
        break;
      default:
        if constexpr (kMaxV >= 4) tiles<4>(s, a, a_step, pixel, count, v);
    }
    v += wide;
  }
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

// Sums of channels [c, c + lanes) of one image, of the values or of their distance from `about`
// squared; in runs, so that rounding stays small.
template <bool kSquares>
inline Vec channel_sum(const float* x, int64_t pixels, int64_t step, int64_t n, Vec about) {
  constexpr int64_t kRun = 64;
  Vec total = zeros();
  for (int64_t p = 0; p < pixels; p += kRun) {
    const int64_t end = p + kRun < pixels ? p + kRun : pixels;
    Vec s0 = zeros(), s1 = zeros();
    int64_t i = p;
    for (; i + 2 <= end; i += 2) {
      const Vec a = get(x + i * step, n) - about, b = get(x + (i + 1) * step, n) - about;
      s0 = kSquares ? fma(a, a, s0) : s0 + a;
      s1 = kSquares ? fma(b, b, s1) : s1 + b;
    }
    if (i < end) {
      const Vec a = get(x + i * step, n) - about;
      s0 = kSquares ? fma(a, a, s0) : s0 + a;
    }
    total += s0 + s1;
  }
  return total;
}

// The mean over the pixels of image `image`, for the vector of channels from c on.
inline void mean(const MeanStep& s, int64_t image, int64_t c) {
  const int64_t size = s.x.height * s.x.width, n = s.x.channels - c;
  const float* x = s.x.data + image * size * s.x.step + c;
  put(s.y.data + image * s.y.step + c,
      channel_sum<false>(x, size, s.x.step, n, zeros()) / float(size), n);
}

inline void norm(const NormStep& s, int64_t image, int64_t c) {
  const int64_t size = s.x.height * s.x.width, n = s.x.channels - c;
  const float* x = s.x.data + image * size * s.x.step + c;
  const float* first = x;  // values may lie far from zero and close together
  const Vec about = get(first, n);
  const Vec mean = channel_sum<false>(x, size, s.x.step, n, about) / float(size) + about;
  const Vec variance = channel_sum<true>(x, size, s.x.step, n, mean) / float(size);
  float root[kLanes];
  store(root, variance + s.epsilon);
  for (int i = 0; i < kLanes; ++i) root[i] = 1.f / __builtin_sqrtf(root[i]);
  Vec scale = load(root), shift = zeros();
  const int64_t affine = image * s.affine_step + c;
  if (s.scale) scale = scale * get(s.scale + affine, n);
  if (s.shift) shift = get(s.shift + affine, n);
  for (int64_t p = 0; p < size; ++p)
    end(s.last, fma(get(x + p * s.x.step, n) - mean, scale, shift),
        s.y.data + (image * size + p) * s.y.step + c, image * size + p, c, n);
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
