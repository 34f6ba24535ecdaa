// 3x3 with stride 1 by Winograd's F(4x4, 3x3). Included once, by conv2d.cpp inside an unnamed
// namespace.

constexpr int64_t kBlockWinograd = 128;      // input channels whose 36 planes are kept in cache
constexpr int64_t kSub = 32;                 // input channels whose taps are packed at a time
constexpr int64_t kMaxT = 144;               // tiles that are worked on together, at most
constexpr int64_t kTileBytes = 8 << 20;      // transformed tiles that are worked on together
constexpr int64_t kExpandedBytes = 6 << 20;  // expanded weights small enough to keep for a call

constexpr int64_t kPlanes = 36, kTile = 4;

struct Winograd {
  const ConvKernels& k;
  const Problem& p;
  Blocks blocks;
  int64_t down, across, tiles, together, panels;
  std::vector<float> zero;
  const float* expanded = nullptr;  // every panel's planes, where they are few

  Winograd(const ConvKernels& k, const Problem& p)
      : k(k),
        p(p),
        blocks(p.inputs, kBlockWinograd, k.lanes),
        down(ceil_div(p.out_height, kTile)),
        across(ceil_div(p.out_width, kTile)),
        tiles(p.count * down * across),
        panels(ceil_div(p.outputs, k.panel)),
        zero(blocks.padded) {
    const int64_t fits = kTileBytes / (kPlanes * blocks.padded * 4) / k.rows * k.rows;
    together = std::min(tiles, std::clamp<int64_t>(fits, 4 * k.rows, kMaxT));
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
  int64_t sub() const { return kSub; }  // channels whose taps are packed at a time

  void transform(float* v, int64_t first, int64_t n, int64_t i) const {
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

  void expand(float* u, float* taps, int64_t panel, int64_t block) const {
    const int outs = int(std::min<int64_t>(k.panel, p.outputs - panel * k.panel));
    for (int64_t c = 0; c < blocks.padded_width(block); c += sub()) {
      const int64_t padded = std::min(sub(), blocks.padded_width(block) - c);
      const int64_t real = std::min(padded, std::max<int64_t>(0, blocks.width(block) - c));
      const float* w = p.w + (panel * k.panel * p.inputs + blocks.first(block) + c) * 9;
      k.pack(w, p.inputs * 9, outs, real, 9, taps, padded);
      k.expand(taps, padded * k.panel, padded, u + c * k.panel, u_step(block));
    }
  }

  void run_panel(const float* v, float* own, int64_t first, int64_t n, int64_t panel) const {
    float *m = own, *taps = m + kPlanes * m_step(together), *u = taps + 9 * sub() * k.panel;
    for (int64_t b = 0; b < blocks.count; ++b) {
      const float* planes = u;
      if (expanded)
        planes = expanded + (panel * blocks.count + b) * u_floats();
      else
        expand(u, taps, panel, b);
      const int64_t depth = blocks.padded_width(b);
      for (int64_t j = 0; j < kPlanes; ++j)
        multiply(k, v + v_start(n, b) + j * v_step(n, b), depth, planes + j * u_step(b),
                 m + j * m_step(n), n, depth, b > 0);
    }
    const int outs = int(std::min<int64_t>(k.panel, p.outputs - panel * k.panel));
    for (int64_t i = 0; i < n; ++i) finish(m + i * k.panel, m_step(n), first + i, panel, outs);
  }

  void finish(const float* m, int64_t step, int64_t tile, int64_t panel, int outs) const {
    const Place at = place(tile, down, across);
    float* pixels[16];
    const float* residuals[16];
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t y = at.y * kTile + i / kTile, x = at.x * kTile + i % kTile;
      const bool inside = y < p.out_height && x < p.out_width;
      const int64_t offset =
          ((at.image * p.out_height + y) * p.out_width + x) * p.outputs + panel * k.panel;
      pixels[i] = inside ? p.y + offset : nullptr;
      residuals[i] = inside && p.residual ? p.residual + offset : nullptr;
    }
    const float* bias = p.bias ? p.bias + at.image * p.bias_step + panel * k.panel : nullptr;
    if (!k.tile_out(m, step, outs, pixels, p.residual ? residuals : nullptr, bias, p.slope))
      repair(at, pixels, residuals, panel, outs);
  }

  // The transform spreads what is not finite over its tile.
  void repair(Place at, float* const* pixels, const float* const* residuals, int64_t panel,
              int outs) const {
    for (int64_t i = 0; i < 16; ++i) {
      const Place pixel = {at.image, at.y * kTile + i / kTile, at.x * kTile + i % kTile};
      if (pixels[i]) PlainSum{p}.repair(pixel, pixels[i], residuals[i], 1, panel * k.panel, outs);
    }
  }

  void run() {
    const int64_t all = panels * blocks.count * u_floats();
    const int64_t taps = 9 * sub() * k.panel;
    if (all * 4 <= kExpandedBytes && tiles > together) {
      float* to = expanded_scratch.get(all);
#pragma omp parallel for num_threads(p.threads) schedule(static) if (p.threads > 1)
      for (int64_t i = 0; i < panels * blocks.count; ++i)
        expand(to + i * u_floats(), own_scratch.get(taps), i / blocks.count, i % blocks.count);
      expanded = to;
    }
    run_blocks(
        p, tiles, together, panels, v_start(together, blocks.count) + kPlanes * together * k.lanes,
        kPlanes * m_step(together) + taps + (expanded ? 0 : u_floats()),
        [&](float* v, int64_t first, int64_t n, int64_t i) { transform(v, first, n, i); },
        [&](const float* v, float* own, int64_t first, int64_t n, int64_t panel) {
          run_panel(v, own, first, n, panel);
        });
  }
};
