// 3x3 with stride 1 by Winograd's F(4x4, 3x3). Included once, by conv2d.cpp inside an unnamed
// namespace.

constexpr int64_t kBlockWinograd = 128;      // input channels whose 36 planes are kept in cache
constexpr int64_t kSub = 32;                 // input channels that are packed or turned at a time
constexpr int64_t kMaxT = 144;               // tiles that are worked on together, at most
constexpr int64_t kTileBytes = 8 << 20;      // transformed tiles that are worked on together
constexpr int64_t kExpandedBytes = 3 << 20;  // expanded weights that are kept as such, at most
constexpr int64_t kKeptT = 48;               // tiles that are worked on together where those are

constexpr int64_t kPlanes = 36, kTile = 4;
constexpr int64_t kRun = 16;                 // tiles whose pixels are turned together
constexpr int64_t kWide = kRun * kTile + 2;  // columns of those

struct Winograd {
  const ConvKernels& k;
  const Problem& p;
  Blocks blocks;
  int64_t down, across, tiles, together, panels;
  bool keeps;  // every panel's planes are few enough to be kept expanded
  std::vector<float> zero;
  const float *ahead = nullptr, *expanded = nullptr;  // weights that are packed; and expanded

  Winograd(const ConvKernels& k, const Problem& p)
      : k(k),
        p(p),
        blocks(p.inputs, kBlockWinograd, k.lanes),
        down(ceil_div(p.out_height, kTile)),
        across(ceil_div(p.out_width, kTile)),
        tiles(p.count * down * across),
        panels(ceil_div(p.outputs, k.panel)),
        keeps(panels * blocks.count * u_floats() * 4 <= kExpandedBytes),
        zero(blocks.padded) {
    const int64_t fits = kTileBytes / (kPlanes * blocks.padded * 4) / k.rows * k.rows;
    // Weights that are not expanded again for each stretch of tiles leave stretches to be short,
    // so that their planes and sums stay near.
    together = keeps ? kKeptT : std::clamp<int64_t>(fits, 4 * k.rows, kMaxT);
    together = std::min(tiles, together);
    together = ceil_div(tiles, ceil_div(tiles, together));
  }

  // The padding keeps 36 streams from falling on one set of the first cache.
  int64_t v_step(int64_t n, int64_t block) const { return n * blocks.padded_width(block) + kPad; }
  int64_t v_start(int64_t n, int64_t block) const {
    return kPlanes * (n * blocks.first(block) + kPad * block);
  }
  int64_t u_step(int64_t block) const { return blocks.padded_width(block) * k.panel + kPad; }
  int64_t m_step(int64_t n) const { return n * k.panel + kPad; }
  int64_t u_floats() const { return kPlanes * (blocks.size * k.panel + kPad); }

  // ---- pixels to planes

  void transform(float* v, float* own, int64_t first, int64_t n, int64_t i) const {
    if (!p.planes) return transform_pixels(v, first, n, i);
    for (int64_t at = i, run; i % kRun == 0 && at < std::min(i + kRun, n); at += run) {
      const Place from = place(first + at, down, across);
      run = std::min({across - from.x, i + kRun - at, n - at});
      for (int64_t b = 0; b < blocks.count; ++b)
        for (int64_t c = 0; c < blocks.padded_width(b); c += kSub)
          transform_planes(v + v_start(n, b) + at * blocks.padded_width(b) + c, own, from, run, b,
                           c, v_step(n, b));
    }
  }

  void transform_pixels(float* v, int64_t first, int64_t n, int64_t i) const {
    const Place at = place(first + i, down, across);
    const float* pixels[kPlanes];
    for (int64_t r = 0; r < 6; ++r)
      for (int64_t c = 0; c < 6; ++c) {
        const int64_t y = at.y * kTile + r - p.pad, x = at.x * kTile + c - p.pad;
        const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
        pixels[6 * r + c] =
            inside ? p.x + ((at.image * p.height + y) * p.width + x) * p.inputs : zero.data();
      }
    for (int64_t b = 0; b < blocks.count; ++b) {
      k.tile_in(pixels, blocks.width(b), v + v_start(n, b) + i * blocks.padded_width(b),
                v_step(n, b));
      const bool more = b + 1 < blocks.count;
      for (int64_t j = 0; more && j < kPlanes; ++j) pixels[j] += blocks.size;
    }
  }

  // Of `run` tiles side by side, kSub channels from `c` of block `b` on.
  void transform_planes(float* v, float* pixels, Place from, int64_t run, int64_t b, int64_t c,
                        int64_t step) const {
    const int64_t depth = blocks.padded_width(b), channel = blocks.first(b) + c;
    const int64_t padded = std::min(kSub, depth - c);
    const int64_t real = std::min(padded, p.inputs - channel), size = p.height * p.width;
    const int64_t left = from.x * kTile - p.pad, top = from.y * kTile - p.pad;
    const int64_t begin = std::max<int64_t>(0, left);
    const int64_t wide = std::min(left + run * kTile + 2, p.width) - begin;
    for (int64_t r = 0; r < 6; ++r) {
      if (top + r < 0 || top + r >= p.height || wide <= 0) continue;
      const float* x = p.x + (from.image * p.inputs + channel) * size + (top + r) * p.width + begin;
      if (channel + kSub < p.inputs)
        expect<0>(x + kSub * size, std::min(kSub, p.inputs - channel - kSub), size, wide);
      k.turn(x, size, real, wide, pixels + (r * kWide + begin - left) * kSub, kSub);
    }
    for (int64_t t = 0; t < run; ++t, v += depth) {
      const float* window[kPlanes];
      for (int64_t r = 0; r < 6; ++r)
        for (int64_t w = 0; w < 6; ++w) {
          const int64_t at = t * kTile + w;
          const bool inside =
              top + r >= 0 && top + r < p.height && left + at >= 0 && left + at < p.width;
          window[6 * r + w] = inside ? pixels + (r * kWide + at) * kSub : zero.data();
        }
      k.tile_in(window, real, v, step);
    }
  }

  // ---- weights and sums

  // Where the taps of a panel's channel lie that were packed ahead.
  int64_t taps_at(int64_t panel, int64_t channel) const {
    return (panel * blocks.padded + channel) * 9 * k.panel;
  }

  // f(first, how many there are, how many with padding) for a block's channels, kSub at a time.
  template <typename F>
  void each_sub(int64_t block, const F& f) const {
    for (int64_t c = 0; c < blocks.padded_width(block); c += kSub) {
      const int64_t padded = std::min(kSub, blocks.padded_width(block) - c);
      f(c, std::clamp<int64_t>(blocks.width(block) - c, 0, padded), padded);
    }
  }

  void pack_taps(float* taps, int64_t panel, int64_t channel, int64_t real, int64_t padded) const {
    const int outs = int(std::min<int64_t>(k.panel, p.outputs - panel * k.panel));
    const Rows w =
        p.w.rows((panel * k.panel * p.inputs + channel) * 9, p.inputs * 9, outs, real * 9);
    k.pack(w.at, w.step, outs, real, 9, taps, padded);
  }

  void expand(float* u, float* taps, int64_t panel, int64_t block) const {
    each_sub(block, [&](int64_t c, int64_t real, int64_t padded) {
      const int64_t channel = blocks.first(block) + c;
      const float* from = taps;
      if (ahead && !keeps)
        from = ahead + taps_at(panel, channel);
      else
        pack_taps(taps, panel, channel, real, padded);
      k.expand(from, padded * k.panel, padded, u + c * k.panel, u_step(block));
    });
  }

  // ---- weights packed ahead: expanded where they are few, else their taps, for which a quarter
  // of the memory does and is read sooner

  int64_t packed_floats() const {
    return keeps ? panels * blocks.count * u_floats() : taps_at(panels, 0);
  }
  void pack(float* to) const {
#pragma omp parallel for num_threads(p.threads) schedule(static) if (p.threads > 1)
    for (int64_t i = 0; i < panels * blocks.count; ++i) {
      const int64_t panel = i / blocks.count, block = i % blocks.count;
      if (keeps)
        expand(to + i * u_floats(), own_scratch.get(9 * kSub * k.panel), panel, block);
      else
        each_sub(block, [&](int64_t c, int64_t real, int64_t padded) {
          const int64_t channel = blocks.first(block) + c;
          pack_taps(to + taps_at(panel, channel), panel, channel, real, padded);
        });
    }
  }

  // ---- sums

  void run_panel(const float* v, float* own, int64_t first, int64_t n, int64_t panel) const {
    float *m = own, *u = m + kPlanes * m_step(together), *spare = u + (expanded ? 0 : u_floats());
    for (int64_t b = 0; b < blocks.count; ++b) {
      const float* planes = u;
      if (expanded)
        planes = expanded + (panel * blocks.count + b) * u_floats();
      else
        expand(u, spare, panel, b);
      const int64_t depth = blocks.padded_width(b);
      for (int64_t j = 0; j < kPlanes; ++j) {
        expect_taps(panel, b, j);
        multiply(k, v + v_start(n, b) + j * v_step(n, b), depth, planes + j * u_step(b),
                 m + j * m_step(n), n, depth, b > 0);
      }
    }
    finish(m, spare, first, n, panel);
  }

  // Fetches a plane's share of the taps that are expanded next.
  void expect_taps(int64_t panel, int64_t block, int64_t j) const {
    if (!ahead || keeps) return;
    const int64_t from = taps_at(panel, blocks.first(block) + blocks.padded_width(block));
    const int64_t until = std::min(from + 9 * blocks.size * k.panel, taps_at(panels, 0));
    const int64_t share = round_up(ceil_div(until - from, kPlanes), kPad), at = from + j * share;
    expect<0, 2>(ahead + at, 1, 0, std::min(share, until - at));
  }

  // ---- sums to pixels

  void finish(const float* m, float* spare, int64_t first, int64_t n, int64_t panel) const {
    const int outs = int(std::min<int64_t>(k.panel, p.outputs - panel * k.panel));
    for (int64_t i = 0, run; i < n; i += run) {
      run = p.planes ? std::min<int64_t>(k.panel / kTile, n - i) : 1;
      const Place at = place(first + i, down, across);
      run = std::min(run, across - at.x);
      if (p.planes)
        finish_planes(m + i * k.panel, m_step(n), spare, at, run, panel * k.panel, outs);
      else
        finish_pixels(m + i * k.panel, m_step(n), at, panel * k.panel, outs);
    }
  }

  int64_t place_of(Place at, int64_t y, int64_t x, int64_t channel) const {
    if (p.planes) return ((at.image * p.outputs + channel) * p.out_height + y) * p.out_width + x;
    return ((at.image * p.out_height + y) * p.out_width + x) * p.outputs + channel;
  }
  const float* bias_of(Place at, int64_t channel) const {
    return p.bias ? p.bias + at.image * p.bias_step + channel : nullptr;
  }

  void finish_pixels(const float* m, int64_t step, Place at, int64_t channel, int outs) const {
    float* pixels[16];
    const float* residuals[16];
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t y = at.y * kTile + i / kTile, x = at.x * kTile + i % kTile;
      const bool inside = y < p.out_height && x < p.out_width;
      const int64_t offset = place_of(at, y, x, channel);
      pixels[i] = inside ? p.y + offset : nullptr;
      residuals[i] = inside && p.residual ? p.residual + offset : nullptr;
    }
    if (!k.tile_out(m, step, outs, pixels, p.residual ? residuals : nullptr, bias_of(at, channel),
                    p.slope))
      repair(at, channel, outs);
  }

  // `run` tiles side by side, by way of `pixels` [4][panel columns][panel channels].
  void finish_planes(const float* m, int64_t step, float* pixels, Place at, int64_t run,
                     int64_t channel, int outs) const {
    const int64_t size = p.out_height * p.out_width, line = k.panel;
    float* turned = pixels + kTile * k.panel * line;
    uint64_t broken = 0;
    for (int64_t t = 0; t < run; ++t) {
      float* to[16];
      for (int64_t i = 0; i < 16; ++i)
        to[i] = pixels + (i / kTile * k.panel + t * kTile + i % kTile) * line;
      if (!k.tile_out(m + t * k.panel, step, outs, to, nullptr, nullptr, 1.0f))
        broken |= uint64_t(1) << t;
    }
    const int64_t x = at.x * kTile, some = std::min(run * kTile, p.out_width - x);
    for (int64_t r = 0; r < kTile && at.y * kTile + r < p.out_height; ++r) {
      const int64_t offset = place_of(at, at.y * kTile + r, x, channel);
      k.turn(pixels + r * k.panel * line, line, some, outs, turned, k.panel);
      k.columns_out(turned, outs, int(some), p.y + offset,
                    p.residual ? p.residual + offset : nullptr, size, bias_of(at, channel),
                    p.slope);
    }
    for (int64_t t = 0; broken >> t; ++t)
      if (broken >> t & 1) repair({at.image, at.y, at.x + t}, channel, outs);
  }

  // The transform spreads what is not finite over its tile.
  void repair(Place at, int64_t channel, int outs) const {
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t y = at.y * kTile + i / kTile, x = at.x * kTile + i % kTile;
      if (y >= p.out_height || x >= p.out_width) continue;
      const int64_t offset = place_of(at, y, x, channel);
      PlainSum{p}.repair({at.image, y, x}, p.y + offset, p.residual ? p.residual + offset : nullptr,
                         p.planes ? p.out_height * p.out_width : 1, channel, outs);
    }
  }

  void run() {
    ahead = packed_for(p, *this, tiles > together);
    expanded = keeps ? ahead : nullptr;
    // The same memory serves to turn pixels on their way in, taps, and results on their way out.
    const int64_t turned = (kTile + 1) * k.panel * k.panel + k.panel;
    const int64_t spare = std::max<int64_t>(9 * kSub * k.panel, turned);
    const int64_t own = kPlanes * m_step(together) + (expanded ? 0 : u_floats()) + spare;
    run_blocks(
        p, tiles, together, panels, v_start(together, blocks.count) + kPlanes * together * k.lanes,
        std::max(6 * kWide * kSub, own),
        [&](float* v, float* own, int64_t first, int64_t n, int64_t i) {
          transform(v, own, first, n, i);
        },
        [&](const float* v, float* own, int64_t first, int64_t n, int64_t panel) {
          run_panel(v, own, first, n, panel);
        });
  }
};
