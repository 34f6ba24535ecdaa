// Means and norms over the pixels of each image. Part of graph_rows.h.

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
