// Products of a matrix of pixels, or of windows around them, and weights. Part of graph_rows.h.

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
    } else if (e.activation == kClip) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r][j] = within(sum[r][j], e.alpha, e.beta);
    } else if (e.activation == kHardSwish) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r][j] *= within(sum[r][j] * (1.f / 6) + 0.5f, 0, 1);
    } else if (e.activation == kPrelu) {
      const Vec slope = load(e.slope + channel);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r][j] = sum[r][j] < zeros() ? sum[r][j] * slope : sum[r][j];
    } else if (e.activation != kNone) {
      float spilled[R][kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) store(spilled[r], sum[r][j]);
      activate_all(spilled[0], R, e, channel);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) put(y + r * y_step + j * kLanes, load(spilled[r]), n);
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
