// Steps that make each pixel by itself: pools, arithmetic, folds, resizing. Part of graph_rows.h.

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
  const int64_t later = is_long(s.last.activation) ? s.y.channels / kLanes : 0;  // whole vectors
  Ending now = s.last;
  if (later) now.activation = kNone;
  for (; count; --count, ++pixel) {
    const float* a = s.a.data + pixel * s.a.step;
    const float* b = s.b.data;
    if (b) b += (each ? pixel : wanted > 1 ? pixel / an_image : 0) * s.b.step;
    for (int64_t c = 0; c < s.y.channels; c += kLanes) {
      const int64_t n = s.y.channels - c;
      Vec v = get(a + c, n);
      if (b) v = combine(s.kind, v, s.b.channels == 1 ? spread(*b) : get(b + c, n));
      end(n >= kLanes ? now : s.last, v, s.y.data + pixel * s.y.step + c, pixel, c, n);
    }
    if (later) activate_all(s.y.data + pixel * s.y.step, later, s.last, 0);
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
