// The kernels of conv_kernels.h for the instruction set of conv_vec.h. Included by conv_*.cpp
// inside an unnamed namespace.
//
// F(4x4, 3x3) of Winograd 1980 in the form of Lavin and Gray 2016 (arXiv:1509.09308), with the
// points 0, ±1/√2, ±√2 and infinity in place of 0, ±1, ±2: the error is four to five times smaller
// (Barabasz et al. 2020, arXiv:1803.10986, on the choice of points).

// p and q with p² = 1/2, q² = 2, p·q = 1, which is where the constants come from.
constexpr float kP = 0.70710678118654752f, kQ = 1.4142135623730951f;

inline Vec finish(Vec sum, const float* residual, int at, int n, float slope) {
  if (residual) sum = add(sum, n == kLanes ? load(residual + at) : load_some(residual + at, n));
  if (slope == 1.0f) return sum;
  // Not max(): NaN stays NaN; and not a product for ReLU: -inf becomes 0.
  return where_negative(sum, slope == 0.0f ? all(0.0f) : mul(sum, all(slope)), sum);
}

inline Vec finish(Vec sum, const float* bias, const float* residual, int at, int n, float slope) {
  if (bias) sum = add(sum, n == kLanes ? load(bias + at) : load_some(bias + at, n));
  return finish(sum, residual, at, n, slope);
}

inline void put(float* to, Vec a, int n) {
  if (n == kLanes)
    store(to, a);
  else
    store_some(to, a, n);
}

#if defined(__GNUC__)
inline void prefetch(const float* p) { __builtin_prefetch(p, 0, 2); }
// Keeps gcc from holding 36 addresses at once, for which it has not the registers.
inline float* opaque(float* p) {
  asm("" : "+r"(p));
  return p;
}
#else
inline void prefetch(const float*) {}
inline float* opaque(float* p) { return p; }
#endif

inline int at_most_lanes(int64_t n) { return n < kLanes ? int(n) : kLanes; }

void turn(const float* in, int64_t in_step, int64_t rows, int64_t columns, float* out,
          int64_t out_step) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int height = at_most_lanes(rows - r);
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int width = at_most_lanes(columns - c);
      Vec line[kLanes];
      const float* from = in + r * in_step + c;
      float* to = out + c * out_step + r;
      if (height == kLanes && width == kLanes) {
        float* lines[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          line[i] = load(from + i * in_step);
          if (r + 2 * kLanes <= rows) prefetch(from + (kLanes + i) * in_step);
        }
        for (int i = 0; i < kLanes; ++i) lines[i] = to + i * out_step;
        transpose(line, lines);
      } else {
        float block[kLanes * kLanes];
        for (int i = 0; i < kLanes; ++i)
          line[i] = i < height ? load_some(from + i * in_step, width) : all(0.0f);
        float* lines[kLanes];
        for (int i = 0; i < kLanes; ++i) lines[i] = block + i * kLanes;
        transpose(line, lines);
        for (int i = 0; i < width; ++i) put(to + i * out_step, load(block + i * kLanes), height);
      }
    }
  }
}

void pack(const float* w, int64_t in_step, int outs, int64_t channels, int taps, float* to,
          int64_t channels_padded) {
  const int64_t count = channels * taps;
  for (int first = 0; first < kPanel; first += kLanes) {
    int64_t channel = 0;
    int tap = 0;
    for (int64_t k = 0; k < count; k += kLanes) {
      const int width = at_most_lanes(count - k);
      Vec line[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const float* from = w + (first + i) * in_step + k;
        if (first + i < outs) prefetch(from + count);  // the next block of these channels
        line[i] = first + i >= outs ? all(0.0f)
                  : width == kLanes ? load(from)
                                    : load_some(from, width);
      }
      float* rows[kLanes];
      float beyond[kLanes];
      for (int i = width; i < kLanes; ++i) rows[i] = beyond;
      for (int i = 0; i < width; ++i) {
        rows[i] = to + (tap * channels_padded + channel) * kPanel + first;
        if (++tap == taps) tap = 0, ++channel;
      }
      transpose(line, rows);
    }
  }
  for (int tap = 0; tap < taps; ++tap)
    for (int64_t c = channels; c < channels_padded; ++c)
      for (int j = 0; j < kPanel; ++j) to[(tap * channels_padded + c) * kPanel + j] = 0.0f;
}

// Six values of the polynomial with coefficients g at the points. What Lagrange's formula divides
// them by is taken care of in `line_out`.
inline void weight_line(const Vec* g, Vec* u) {
  const Vec low = fma(all(0.5f), g[2], g[0]), high = fma(all(2.0f), g[2], g[0]);
  u[0] = g[0];
  u[1] = fma(all(kP), g[1], low);
  u[2] = fma(all(-kP), g[1], low);
  u[3] = fma(all(kQ), g[1], high);
  u[4] = fma(all(-kQ), g[1], high);
  u[5] = g[2];
}

inline void line_in(const Vec* d, Vec* o) {
  const Vec two = all(-2.0f), half = all(-0.5f), most = all(-2.5f);
  const Vec a = fma(two, d[2], d[4]), b = mul(all(kP), fma(two, d[1], d[3]));
  const Vec c = fma(half, d[2], d[4]), e = mul(all(kQ), fma(half, d[1], d[3]));
  o[0] = add(d[0], fma(most, d[2], d[4]));
  o[1] = add(a, b);
  o[2] = sub(a, b);
  o[3] = add(c, e);
  o[4] = sub(c, e);
  o[5] = add(d[1], fma(most, d[3], d[5]));
}

inline void line_out(const Vec* m, Vec* y) {
  constexpr float kNear = -2.0f / 3, kFar = 1.0f / 6;  // 1 / (2p²(p² - q²)), 1 / (2q²(q² - p²))
  const Vec s = add(m[1], m[2]), d = sub(m[1], m[2]), t = add(m[3], m[4]), e = sub(m[3], m[4]);
  y[0] = fma(all(kNear), s, fma(all(kFar), t, m[0]));
  y[1] = fma(all(kNear * kP), d, mul(all(kFar * kQ), e));
  y[2] = fma(all(kNear * 0.5f), s, mul(all(kFar * 2), t));
  y[3] = fma(all(kNear * 0.5f * kP), d, fma(all(kFar * 2 * kQ), e, m[5]));
}

inline void line_out(const Vec* m, Vec shift, Vec* y) {
  constexpr float kNear = -2.0f / 3, kFar = 1.0f / 6;
  const Vec s = add(m[1], m[2]), d = sub(m[1], m[2]), t = add(m[3], m[4]), e = sub(m[3], m[4]);
  y[0] = fma(all(kNear), s, fma(all(kFar), t, add(m[0], shift)));
  y[1] = fma(all(kNear * kP), d, fma(all(kFar * kQ), e, shift));
  y[2] = fma(all(kNear * 0.5f), s, fma(all(kFar * 2), t, shift));
  y[3] = fma(all(kNear * 0.5f * kP), d, fma(all(kFar * 2 * kQ), e, add(m[5], shift)));
}

void lines_in(const float* const* rows, int64_t n, float* v, int64_t step) {
  for (int64_t at = 0; at < n; at += kLanes) {
    const int some = at_most_lanes(n - at);
    Vec d[6], o[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i)
      d[i] = some == kLanes ? load(rows[i] + at) : load_some(rows[i] + at, some);
    line_in(d, o);
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) put(v + i * step + at, o[i], some);
  }
}

void expand(const float* taps, int64_t tap_step, int64_t channels, float* u, int64_t step) {
  for (int64_t at = 0; at < channels * kPanel; at += kLanes) {
    Vec half[6][3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      Vec g[3], o[6];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) g[i] = load(taps + (3 * i + j) * tap_step + at);
      weight_line(g, o);
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) half[i][j] = o[i];
    }
    float* to = u + at;
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) {
      Vec o[6];
      weight_line(half[i], o);
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j, to = opaque(to + step)) store(to, o[j]);
    }
  }
}

template <bool kWhole>
inline void tile_in_part(const float* const* pixels, int64_t at, int n, float* v, int64_t step) {
  Vec half[6][6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    Vec d[6], o[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i)
      d[i] = kWhole ? load(pixels[6 * i + j] + at) : load_some(pixels[6 * i + j] + at, n);
    line_in(d, o);
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) half[i][j] = o[i];
  }
  float* to = v + at;
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    Vec o[6];
    line_in(half[i], o);
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j, to = opaque(to + step)) store(to, o[j]);
  }
}

void tile_in(const float* const* pixels, int64_t channels, float* v, int64_t step) {
  int64_t at = 0;
  for (; at + kLanes <= channels; at += kLanes) tile_in_part<true>(pixels, at, kLanes, v, step);
  if (at < channels) tile_in_part<false>(pixels, at, int(channels - at), v, step);
}

// Elements of kLanes rows, step apart, added up in the order of `sums_of`.
void fold(const float* rows, int64_t step, int64_t n, float* to) {
  for (int64_t at = 0; at < n; at += kLanes) {
    Vec a[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      a[i] = load(rows + i * step + at);
      if (kLanes == 16) a[i] = add(a[i], load(rows + (i + 8) * step + at));
    }
    store(to + at,
          add(add(add(a[0], a[2]), add(a[1], a[3])), add(add(a[4], a[6]), add(a[5], a[7]))));
  }
}

template <int kPixels, int kOuts>
void dots_of(const float* x, int64_t line_step, int64_t pixel_step, int lines, int64_t run,
             const float* w, float* sums, int64_t pixel_apart, int64_t out_apart) {
  const int64_t w_line = (run + kLanes - 1) / kLanes * kLanes, w_out = lines * w_line;
  Vec sum[kPixels][kOuts];
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i)
#pragma GCC unroll 4
    for (int o = 0; o < kOuts; ++o) sum[i][o] = all(0.0f);
  const auto step = [&](const float* from, const float* weights, int n) {
    Vec by[kOuts];
#pragma GCC unroll 4
    for (int o = 0; o < kOuts; ++o) by[o] = load(weights + o * w_out);
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) {
      const float* at = from + i * pixel_step;
      const Vec value = n == kLanes ? load(at) : load_some(at, n);
#pragma GCC unroll 4
      for (int o = 0; o < kOuts; ++o) sum[i][o] = fma(value, by[o], sum[i][o]);
    }
  };
  for (int line = 0; line < lines; ++line, x += line_step, w += w_line) {
    int64_t at = 0;
    for (; at + kLanes <= run; at += kLanes) step(x + at, w + at, kLanes);
    if (at < run) step(x + at, w + at, int(run - at));
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i) {
    Vec all_sums[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
#pragma GCC unroll 4
    for (int o = 0; o < kOuts; ++o) all_sums[o] = sum[i][o];
    float to[4];
    sums_of(all_sums, to);
#pragma GCC unroll 4
    for (int o = 0; o < kOuts; ++o) sums[i * pixel_apart + o * out_apart] = to[o];
  }
}

// As many sums at once as registers hold.
template <int kOuts>
void dots_for(const float* x, int64_t line_step, int64_t pixel_step, int64_t pixels, int lines,
              int64_t run, const float* w, float* sums, int64_t pixel_apart, int64_t out_apart) {
  constexpr int kAll = kLanes == 16 ? 24 : 9, kTogether = kOuts == 1 ? 8 : kAll / kOuts;
  int64_t i = 0;
  for (; i + kTogether <= pixels; i += kTogether)
    dots_of<kTogether, kOuts>(x + i * pixel_step, line_step, pixel_step, lines, run, w,
                              sums + i * pixel_apart, pixel_apart, out_apart);
  for (; i < pixels; ++i)
    dots_of<1, kOuts>(x + i * pixel_step, line_step, pixel_step, lines, run, w,
                      sums + i * pixel_apart, pixel_apart, out_apart);
}

void dots(const float* x, int64_t line_step, int64_t pixel_step, int64_t pixels, int lines,
          int64_t run, const float* w, int outs, float* sums, int64_t pixel_apart,
          int64_t out_apart) {
  const int64_t w_out = lines * ((run + kLanes - 1) / kLanes * kLanes);
  for (int o = 0; o < outs; o += 4, w += 4 * w_out, sums += 4 * out_apart) {
    const int some = outs - o < 4 ? outs - o : 4;
    const auto form = some == 1   ? dots_for<1>
                      : some == 2 ? dots_for<2>
                      : some == 3 ? dots_for<3>
                                  : dots_for<4>;
    form(x, line_step, pixel_step, pixels, lines, run, w, sums, pixel_apart, out_apart);
  }
}

bool tile_out(const float* m, int64_t step, int outs, float* const* pixels,
              const float* const* residuals, const float* bias, float slope) {
  Vec watch[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};  // NaN when a sum is not finite
  for (int at = 0; at < outs; at += kLanes) {
    const int n = at_most_lanes(outs - at);
    Vec half[4][6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      Vec d[6], o[4];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) d[i] = load(m + (6 * i + j) * step + at);
      line_out(d, o);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) half[i][j] = o[i];
    }
    for (int i = 0; i < 4; ++i) {
      Vec o[4];
      line_out(half[i], o);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        float* to = pixels[4 * i + j];
        if (!to) continue;
        watch[j] = fma(o[j], all(0.0f), watch[j]);
        const float* residual = residuals ? residuals[4 * i + j] : nullptr;
        put(to + at, finish(o[j], bias, residual, at, n, slope), n);
      }
    }
  }
  return !any_nan(add(add(watch[0], watch[1]), add(watch[2], watch[3])));
}

// Four results each of all the sums. Whole vectors of four rows and nothing but a bias to add,
// which is what most are; or anything.
template <bool kPlain>
inline Vec lines_out_all(const ConvLines l) {
  Vec watch[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  const float* from = l.m;
  float* to[4] = {l.y[0], l.y[1], l.y[2], l.y[3]};
  for (int64_t row = 0; row < l.rows; ++row) {
    const Vec of_row = all(l.bias && l.bias_of_rows ? l.bias[row] : 0.0f);
    for (int64_t at = 0; at < l.n; at += kLanes) {
      const int n = kPlain ? kLanes : at_most_lanes(l.n - at);
      Vec shift = of_row, m[6], y[4];
      if (l.bias && !l.bias_of_rows) shift = kPlain ? load(l.bias + at) : load_some(l.bias + at, n);
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) m[i] = load(from + at + i * l.m_step);
      line_out(m, shift, y);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (!kPlain && !to[i]) continue;
        watch[i] = fma(y[i], all(0.0f), watch[i]);
        if (kPlain) {
          store(to[i] + at, y[i]);
          continue;
        }
        const float* more = l.residual[i] ? l.residual[i] + row * l.y_row : nullptr;
        // An infinity may be none in truth: NaN, which no activation hides from those who sum
        // again.
        put(to[i] + at, finish(fma(y[i], all(0.0f), y[i]), more, int(at), n, l.slope), n);
      }
    }
    from += l.m_row;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      if (kPlain || to[i]) to[i] += l.y_row;
  }
  return add(add(watch[0], watch[1]), add(watch[2], watch[3]));
}

bool lines_out(const ConvLines& l) {
  const bool plain =
      l.n % kLanes == 0 && !l.residual[0] && l.slope == 1.0f && l.y[1] && l.y[2] && l.y[3];
  return !any_nan(plain ? lines_out_all<true>(l) : lines_out_all<false>(l));
}

void rows_out(const float* c, int64_t rows, int outs, float* out, const float* residual,
              int64_t out_step, const float* bias, float slope) {
  for (int at = 0; at < outs; at += kLanes) {
    const int n = at_most_lanes(outs - at);
    const Vec shift = bias ? load_some(bias + at, n) : all(0.0f);
    const bool plain = n == kLanes && !residual && slope == 1.0f;
    for (int64_t r = 0; r < rows; ++r) {
      const Vec sum = add(load(c + r * kPanel + at), shift);
      float* to = out + r * out_step + at;
      if (plain)
        store(to, sum);
      else
        put(to, finish(sum, residual ? residual + r * out_step : nullptr, at, n, slope), n);
    }
  }
}

void columns_out(const float* c, int64_t rows, int wide, float* out, const float* residual,
                 int64_t out_step, const float* bias, float slope) {
  const bool plain = wide % kLanes == 0 && !residual && slope == 1.0f;
  for (int64_t r = 0; r < rows; ++r, c += kPanel, out += out_step) {
    const Vec shift = all(bias ? bias[r] : 0.0f);
    if (plain) {
      for (int at = 0; at < wide; at += kLanes) store(out + at, add(load(c + at), shift));
      continue;
    }
    for (int at = 0; at < wide; at += kLanes) {
      const int n = at_most_lanes(wide - at);
      const float* more = residual ? residual + r * out_step : nullptr;
      put(out + at, finish(add(load(c + at), shift), more, at, n, slope), n);
    }
  }
}

#include "conv_widen.h"

const ConvKernels kTable = {ACCEL_ISA_NAME, kLanes,      kPanel,      kRows,     micro,
                            micro_steps,    micro_lines, lines_in,    lines_out, fold,
                            dots,           turn,        pack,        expand,    tile_in,
                            tile_out,       rows_out,    columns_out, widen};
