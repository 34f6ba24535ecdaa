// Depthwise convolutions: each channel by itself. Part of graph_rows.h.

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
    if (kPlain) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        kFull ? store(out + i * out_step, sum[i]) : store_n(out + i * out_step, sum[i], n);
    } else {
      end_sums<4>(e, sum, out, out_step, pixel, channel, n);
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
