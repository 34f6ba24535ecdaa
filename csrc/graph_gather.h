// Where the pixels of a result lie, and the windows that they see. Part of graph_rows.h.

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
