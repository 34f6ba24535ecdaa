// Softmax, sums and extremes of lines of numbers. Part of graph_rows.h.

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

constexpr float kLeast = -80;  // of a line's numbers, less the largest: e^-80 is lost beside 1

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
    const Vec less = line_part(x + at, n, -__builtin_inff()) - most;
    // Nothing instead of next to nothing: numbers below 2^-126 are slow to compute with.
    const Vec v = less < kLeast ? zeros() : exp(less);
    sums += v;
    if (s.kind == kSoftmax) put(y + at, v, n);
  }
  const float all = sum(sums), shift = most + __builtin_logf(all);
  for (int64_t at = 0; at < size; at += kLanes) {
    const int64_t n = size - at;
    put(y + at, s.kind == kSoftmax ? get(y + at, n) / all : get(x + at, n) - shift, n);
  }
}
