// Any kernel and stride as one packed matrix product over rows of [taps, channels]. Included once,
// by conv2d.cpp inside an unnamed namespace.

constexpr int64_t kBlockProduct = 320;    // length of a chain of multiply-adds elsewhere
constexpr int64_t kMaxR = 1536;           // rows that are worked on together, at most
constexpr int64_t kRowBytes = 2 << 20;    // gathered rows that are worked on together
constexpr int64_t kPixelBytes = 1 << 20;  // packed pixels that are worked on together
constexpr int64_t kGroup = 4;             // calls of `micro` whose sums are written together

struct Product {
  const ConvKernels& k;
  const Problem& p;
  int64_t taps;
  Blocks blocks;
  int64_t rows, together, panels;
  bool direct;                   // the rows lie in x as they are needed
  const float* ahead = nullptr;  // weights that are packed

  Product(const ConvKernels& k, const Problem& p)
      : k(k),
        p(p),
        taps(int64_t(p.kernel_h) * p.kernel_w),
        blocks(p.inputs, std::max<int64_t>(4, kBlockProduct / taps / 4 * 4), 4),
        rows(p.count * p.out_height * p.out_width),
        panels(ceil_div(p.outputs, k.panel)),
        direct(taps == 1 && p.stride == 1 && p.pad == 0 && p.inputs % 4 == 0 &&
               p.inputs % 1024 != 0) {  // rows 4 KiB apart would fall on one set of the cache
    const int64_t fits = kRowBytes / (taps * blocks.padded * 4) / k.rows * k.rows;
    together = std::min(rows, std::clamp<int64_t>(fits, 8 * k.rows, kMaxR));
    together = ceil_div(rows, ceil_div(rows, together));
  }

  int64_t panel_floats() const { return taps * blocks.padded * k.panel; }
  int64_t depth(int64_t block) const { return taps * blocks.padded_width(block); }
  int64_t a_start(int64_t n, int64_t block) const { return n * taps * blocks.first(block); }

  void gather(float* a, int64_t first, int64_t n, int64_t i) const {
    if (direct) return;
    const Place at = place(first + i, p.out_height, p.out_width);
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t real = blocks.width(b), padded = blocks.padded_width(b);
      float* to = a + a_start(n, b) + i * depth(b);
      for (int64_t r = 0; r < p.kernel_h; ++r)
        for (int64_t c = 0; c < p.kernel_w; ++c, to += padded) {
          const int64_t y = at.y * p.stride + r - p.pad, x = at.x * p.stride + c - p.pad;
          const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
          const float* from =
              p.x + ((at.image * p.height + y) * p.width + x) * p.inputs + blocks.first(b);
          if (inside) std::copy(from, from + real, to);
          std::fill(to + (inside ? real : 0), to + padded, 0.0f);
        }
    }
  }

  // ---- weights, [panel][block][tap][channel of the block][output]

  void pack_panel(float* to, int64_t panel) const {
    const int outs = int(std::min<int64_t>(k.panel, p.outputs - panel * k.panel));
    for (int64_t b = 0; b < blocks.count; ++b) {
      const Rows w = p.w.rows((panel * k.panel * p.inputs + blocks.first(b)) * taps,
                              p.inputs * taps, outs, blocks.width(b) * taps);
      k.pack(w.at, w.step, outs, blocks.width(b), int(taps), to + taps * blocks.first(b) * k.panel,
             blocks.padded_width(b));
    }
  }
  int64_t packed_floats() const { return panels * panel_floats(); }
  void pack(float* to) const {
#pragma omp parallel for num_threads(p.threads) schedule(static) if (p.threads > 1)
    for (int64_t i = 0; i < panels; ++i) pack_panel(to + i * panel_floats(), i);
  }

  // ---- sums

  void run_panel(const float* a, float* own, int64_t first, int64_t n, int64_t panel) const {
    float *c = own, *spare = own + kGroup * k.rows * k.panel;
    const float* weights = ahead ? ahead + panel * panel_floats() : spare;
    if (!ahead) pack_panel(spare, panel);
    // A few rows through all blocks, so that their sums are still near when they are written.
    for (int64_t i = 0; i < n; i += kGroup * k.rows) {
      const int64_t some = std::min<int64_t>(kGroup * k.rows, n - i);
      for (int64_t b = 0; b < blocks.count; ++b) {
        const float* rows = direct ? p.x + (first + i) * p.inputs + blocks.first(b)
                                   : a + a_start(n, b) + i * depth(b);
        multiply(k, rows, direct ? p.inputs : depth(b), weights + taps * blocks.first(b) * k.panel,
                 c, some, depth(b), b > 0);
      }
      write(c, first + i, some, panel);
    }
  }

  void write(const float* c, int64_t first, int64_t n, int64_t panel) const {
    const int outs = int(std::min<int64_t>(k.panel, p.outputs - panel * k.panel));
    const int64_t size = p.out_height * p.out_width;
    for (int64_t i = 0; i < n;) {  // images may have a bias each
      const int64_t image = (first + i) / size;
      const int64_t until = p.bias_step ? std::min(n, (image + 1) * size - first) : n;
      const int64_t offset = (first + i) * p.outputs + panel * k.panel;
      k.rows_out(c + i * k.panel, until - i, outs, p.y + offset,
                 p.residual ? p.residual + offset : nullptr, p.outputs,
                 p.bias ? p.bias + image * p.bias_step + panel * k.panel : nullptr, p.slope);
      i = until;
    }
  }

  void run() {
    ahead = packed_for(p, *this, rows > together);
    run_blocks(
        p, rows, together, panels, direct ? 0 : together * taps * blocks.padded,
        kGroup * k.rows * k.panel + (ahead ? 0 : panel_floats()),
        [&](float* a, float*, int64_t first, int64_t n, int64_t i) { gather(a, first, n, i); },
        [&](const float* a, float* own, int64_t first, int64_t n, int64_t panel) {
          run_panel(a, own, first, n, panel);
        });
  }
};

// ---- 1x1 of contiguous pictures -----------------------------------------------------------------

// Here the weights are the rows and the pixels, as they lie, the columns: nothing has to be turned.
// Each sum runs over the same blocks in the same order as in `Product`.
struct PlaneProduct {
  const ConvKernels& k;
  const Problem& p;
  Blocks blocks;
  int64_t size, an_image, items, together, step, group;  // an item: a panel of one image's pixels

  PlaneProduct(const ConvKernels& k, const Problem& p)
      : k(k),
        p(p),
        blocks(p.inputs, kBlockProduct, 4),
        size(p.height * p.width),
        an_image(ceil_div(size, k.panel)),
        items(p.count * an_image),
        step(blocks.padded * k.panel + kPad),
        group(kGroup * k.rows) {
    together = std::min(items, std::clamp<int64_t>(kPixelBytes / (step * 4), 4, 32));
    together = ceil_div(items, ceil_div(items, together));
  }

  int64_t packed_floats() const { return 0; }  // the weights are read as they lie
  void pack(float*) const {}

  // Rows 2^n apart would fight for one set of the cache.
  int64_t row_step() const { return blocks.padded + kPad; }

  void copy_panel(const float* from, float* to) const {
    for (int i = 0; i < k.panel; i += kPad) std::memcpy(to + i, from + i, kPad * sizeof(float));
  }

  // A share of the channels of all n items, for the pixels of a channel lie side by side.
  void gather(float* to, int64_t first, int64_t n, int64_t share) const {
    for (int64_t c = blocks.padded * share / n; c < blocks.padded * (share + 1) / n; ++c)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t image = (first + i) / an_image, at = (first + i) % an_image * k.panel;
        if (c + 2 < p.inputs) expect(p.x + (image * p.inputs + c + 2) * size + at, 1, 0, k.panel);
        const int64_t some = c < p.inputs ? std::min<int64_t>(k.panel, size - at) : 0;
        float* row = to + i * step + c * k.panel;
        if (some == k.panel) {
          copy_panel(p.x + (image * p.inputs + c) * size + at, row);
          continue;
        }
        if (some) std::copy_n(p.x + (image * p.inputs + c) * size + at, some, row);
        std::fill(row + some, row + k.panel, 0.0f);
      }
  }

  void run_group(const float* pixels, float* own, int64_t first, int64_t n, int64_t at) const {
    float *c = own, *rows = own + group * k.panel;
    const int64_t begin = at * group, some = std::min(group, p.outputs - begin);
    for (int64_t i = 0; i < some; ++i) {
      const float* w = p.w.rows((begin + i) * p.inputs, 0, 1, p.inputs).at;
      float* end = std::copy_n(w, p.inputs, rows + i * row_step());
      std::fill(end, rows + i * row_step() + blocks.padded, 0.0f);
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t image = (first + i) / an_image, x = (first + i) % an_image * k.panel;
      const int64_t offset = (image * p.outputs + begin) * size + x;
      const int wide = int(std::min<int64_t>(k.panel, size - x));
      expect(p.y + offset, some, size, wide);
      for (int64_t b = 0; b < blocks.count; ++b)
        multiply(k, rows + blocks.first(b), row_step(),
                 pixels + i * step + blocks.first(b) * k.panel, c, some, blocks.padded_width(b),
                 b > 0);
      k.columns_out(c, some, wide, p.y + offset, p.residual ? p.residual + offset : nullptr, size,
                    p.bias ? p.bias + image * p.bias_step + begin : nullptr, p.slope);
    }
  }

  void run() {
    run_blocks(
        p, items, together, ceil_div(p.outputs, group), together * step,
        group * (k.panel + row_step()),
        [&](float* to, float*, int64_t first, int64_t n, int64_t i) { gather(to, first, n, i); },
        [&](const float* pixels, float* own, int64_t first, int64_t n, int64_t at) {
          run_group(pixels, own, first, n, at);
        });
  }
};
