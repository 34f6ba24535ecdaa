// 1x1 convolutions and linear layers as a packed matrix product over rows of channels, and what the
// products of windows (conv_strips.h) share with them. Included once, by conv2d.cpp inside an
// unnamed namespace.

constexpr int64_t kBlockProduct = 320;     // length of a chain of multiply-adds elsewhere
constexpr int64_t kRowBytes = 1 << 20;     // pixels that are worked on together
constexpr int64_t kMostRows = 1536;        // the same, in number, at most
constexpr int64_t kFewestRows = 16;        // and at least, in calls of `micro`
constexpr int64_t kNearBytes = 512 << 10;  // weights that stay near while all rows pass by
constexpr int64_t kPixelBytes = 1 << 20;   // packed pixels that are worked on together
constexpr int64_t kStreams = 32;           // channels that are copied side by side
constexpr int64_t kGroup = 4;              // calls of `micro` whose sums are written together

// Weights [panel][block][tap][channel of the block][output].
struct Panels {
  const ConvKernels& k;
  const Problem& p;
  int64_t taps;
  Blocks blocks;
  int64_t count;
  const float* ahead = nullptr;  // weights that are packed
  bool near = false;             // and stay so near that they need not be fetched

  Panels(const ConvKernels& k, const Problem& p)
      : k(k),
        p(p),
        taps(int64_t(p.kernel_h) * p.kernel_w),
        blocks(p.inputs, kBlockProduct, 4),
        count(ceil_div(p.outputs, k.panel)) {}

  int64_t floats() const { return taps * blocks.padded * k.panel; }
  int outs(int64_t panel) const {
    return int(std::min<int64_t>(k.panel, p.outputs - panel * k.panel));
  }

  void pack_one(float* to, int64_t panel) const {
    for (int64_t b = 0; b < blocks.count; ++b) {
      const Rows w = p.w.rows((panel * k.panel * p.inputs + blocks.first(b)) * taps,
                              p.inputs * taps, outs(panel), blocks.width(b) * taps);
      k.pack(w.at, w.step, outs(panel), blocks.width(b), int(taps),
             to + taps * blocks.first(b) * k.panel, blocks.padded_width(b));
    }
  }
  void pack(float* to) const {
#pragma omp parallel for num_threads(p.threads) schedule(static) if (p.threads > 1)
    for (int64_t i = 0; i < count; ++i) pack_one(to + i * floats(), i);
  }

  // Those of a panel; packed into `spare` if they are not yet.
  const float* of(int64_t panel, float* spare) const {
    if (ahead) return ahead + panel * floats();
    pack_one(spare, panel);
    return spare;
  }
  // What the call of that number, over the terms from `done` on, is to fetch: a share of the
  // weights that come next; or, when those are on their way, the rows that do.
  const float* next(const float* weights, int64_t call, int64_t done, int64_t terms,
                    const float* rows) const {
    const int64_t share = terms * k.panel * 3 / 8;  // see ACCEL_AHEAD
    const bool fetch = ahead && !near && call * share < terms * k.panel;
    return fetch ? weights + floats() + done * k.panel + call * share : rows;
  }

  // The bias for whole vectors, or null.
  const float* bias_of(int64_t image, int64_t panel, float* whole) const {
    if (!p.bias) return nullptr;
    const float* from = p.bias + image * p.bias_step + panel * k.panel;
    std::fill(std::copy_n(from, outs(panel), whole), whole + k.panel, 0.0f);
    return whole;
  }
  // Whether sums may go to the result at once.
  bool plain(int64_t panel) const {
    return !p.residual && p.slope == 1.0f && outs(panel) == k.panel;
  }
};

struct Product {
  const ConvKernels& k;
  const Problem& p;
  Panels weights;
  const Blocks& blocks;
  int64_t rows, together;
  bool direct;  // the rows lie in x as they are needed

  Product(const ConvKernels& k, const Problem& p)
      : k(k),
        p(p),
        weights(k, p),
        blocks(weights.blocks),
        rows(p.count * p.out_height * p.out_width),
        direct(p.inputs % 4 == 0 &&
               p.inputs % 1024 != 0) {  // rows 4 KiB apart would fall on one set of the cache
    const int64_t bytes = p.packed ? kRowBytes : 2 * kRowBytes;  // packing takes as much as 30 rows
    const int64_t fits = bytes / (blocks.padded * 4) / k.rows * k.rows;
    together = std::clamp<int64_t>(fits, kFewestRows * k.rows, kMostRows);
    // All outputs of some rows, then the next rows: many results are written as they lie.
    weights.near = packed_floats() * 4 <= kNearBytes && rows * p.outputs * 4 > kRowBytes;
    if (weights.near) together = 2 * kGroup * k.rows;
    together = std::min(rows, together);
    together = ceil_div(rows, ceil_div(rows, together));
  }
  Product(const Product& other) : Product(other.k, other.p) {}

  int64_t packed_floats() const { return weights.count * weights.floats(); }
  void pack(float* to) const { weights.pack(to); }

  int64_t step() const { return direct ? p.inputs : blocks.padded + kPad; }

  void gather(float* a, int64_t first, int64_t, int64_t i) const {
    if (direct) return;
    float* to = a + i * step();
    std::fill(std::copy_n(p.x + (first + i) * p.inputs, p.inputs, to), to + blocks.padded, 0.0f);
  }

  void run_panel(const float* a, float* own, int64_t first, int64_t n, int64_t panel) const {
    float *c = own, *whole = own + kGroup * k.rows * k.panel;
    const float* b = weights.of(panel, whole + k.panel);
    if (direct) a = p.x + first * p.inputs;
    // A few rows through all blocks, so that their sums are still near when they are written. Where
    // images have a bias each, those of one.
    const int64_t size = p.bias_step ? p.out_height * p.out_width : rows;
    for (int64_t i = 0, call = 0, some; i < n; i += some, call += kGroup) {
      some = std::min({kGroup * k.rows, n - i, size - (first + i) % size});
      sum(a + i * step(), b, weights.bias_of((first + i) / size, panel, whole), c, first + i, some,
          panel, call);
    }
  }

  void sum(const float* a, const float* b, const float* bias, float* c, int64_t row, int64_t n,
           int64_t panel, int64_t call) const {
    const int64_t offset = row * p.outputs + panel * k.panel;
    const int outs = weights.outs(panel);
    const bool plain = weights.plain(panel);
    expect(p.y + offset, n, p.outputs, outs);
    for (int64_t block = 0; block < blocks.count; ++block) {
      const int64_t done = blocks.first(block), depth = blocks.padded_width(block);
      const bool last = plain && block + 1 == blocks.count;
      int64_t number = call;
      each_call(k, n, [&](int64_t at, int64_t some) {
        const float* from = a + at * step() + done;
        float* sums = c + at * k.panel;
        k.micro(int(some), from, step(), b + done * k.panel,
                {depth / 4, 1, &kNoJump, last ? p.y + offset + at * p.outputs : sums,
                 last ? p.outputs : k.panel, block ? sums : bias, block ? k.panel : 0,
                 weights.next(b, number++, done, depth, from + some * step())});
      });
    }
    if (!plain)
      k.rows_out(c, n, outs, p.y + offset, p.residual ? p.residual + offset : nullptr, p.outputs,
                 nullptr, p.slope);
  }

  void run() {
    weights.ahead = packed_for(p, *this, rows > together);
    run_blocks(
        p, rows, together, weights.count, direct ? 0 : together * step(),
        (kGroup * k.rows + 1) * k.panel + (weights.ahead ? 0 : weights.floats()),
        [&](float* a, float*, int64_t first, int64_t n, int64_t i) { gather(a, first, n, i); },
        [&](const float* a, float* own, int64_t first, int64_t n, int64_t panel) {
          run_panel(a, own, first, n, panel);
        },
        weights.near);
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
        size(p.out_height * p.out_width),
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

  // `some` results' pixels of a channel, from result `at` on.
  void copy_apart(const float* channel, int64_t at, int64_t some, float* to) const {
    int64_t y = at / p.out_width, x = at % p.out_width;
    for (float* const end = to + some; to < end; ++y, x = 0) {
      const float* from = channel + y * p.stride * p.width + x * p.stride;
      const int64_t n = std::min<int64_t>(end - to, p.out_width - x);
      if (p.stride == 2)  // said apart, so that the compiler takes whole vectors
        for (int64_t i = 0; i < n; ++i) to[i] = from[2 * i];
      else
        for (int64_t i = 0; i < n; ++i) to[i] = from[i * p.stride];
      to += n;
    }
  }

  // A share of the channels of all n items: of a few channels at a time, for the pixels of a
  // channel lie side by side, and a panel's channels do.
  void gather(float* to, int64_t first, int64_t n, int64_t share) const {
    const int64_t begin = blocks.padded * share / n, end = blocks.padded * (share + 1) / n;
    for (int64_t c = begin; c < end; c += kStreams)
      for (int64_t i = 0; i < n; ++i)
        gather_rows(to + i * step + c * k.panel, first + i, c, std::min(kStreams, end - c));
  }

  void gather_rows(float* to, int64_t item, int64_t c, int64_t count) const {
    const int64_t image = item / an_image, at = item % an_image * k.panel;
    const int64_t some = std::min<int64_t>(k.panel, size - at), plane = p.height * p.width;
    const int64_t real = std::clamp<int64_t>(p.inputs - c, 0, count);
    const float* channel = p.x + (image * p.inputs + c) * plane;
    const bool whole = p.stride == 1 && some == k.panel;
    for (int64_t j = 0; j < real; ++j, channel += plane, to += k.panel) {
      if (whole) {
        expect<0>(channel + 4 * plane + at, 1, 0, k.panel);
        copy_panel(channel + at, to);
      } else {
        copy_apart(channel, at, some, to);
        std::fill(to + some, to + k.panel, 0.0f);
      }
    }
    std::fill_n(to, (count - real) * k.panel, 0.0f);
  }

  void run_group(const float* pixels, float* own, int64_t first, int64_t n, int64_t at) const {
    float *c = own, *biases = c + group * k.panel, *rows = biases + group * k.panel;
    const int64_t begin = at * group, some = std::min(group, p.outputs - begin);
    for (int64_t i = 0; i < some; ++i) {
      const float* w = p.w.rows((begin + i) * p.inputs, 0, 1, p.inputs).at;
      float* end = std::copy_n(w, p.inputs, rows + i * row_step());
      std::fill(end, rows + i * row_step() + blocks.padded, 0.0f);
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t image = (first + i) / an_image;
      if (p.bias && (!i || (p.bias_step && (first + i) % an_image == 0)))
        for (int64_t o = 0; o < some; ++o)
          std::fill_n(biases + o * k.panel, k.panel, p.bias[image * p.bias_step + begin + o]);
      sum(pixels + i * step, rows, p.bias ? biases : nullptr, c, first + i, begin, some);
    }
  }

  void sum(const float* pixels, const float* rows, const float* biases, float* c, int64_t item,
           int64_t begin, int64_t some) const {
    const int64_t image = item / an_image, x = item % an_image * k.panel;
    const int64_t offset = (image * p.outputs + begin) * size + x;
    const int wide = int(std::min<int64_t>(k.panel, size - x));
    const bool plain = !p.residual && p.slope == 1.0f && wide == k.panel;
    expect(p.y + offset, some, size, wide);
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t done = blocks.first(b);
      const bool last = plain && b + 1 == blocks.count;
      each_call(k, some, [&](int64_t at, int64_t n) {
        float* sums = c + at * k.panel;
        const float* more = b ? sums : biases ? biases + at * k.panel : nullptr;
        const float* from = rows + at * row_step() + done;
        k.micro(int(n), from, row_step(), pixels + done * k.panel,
                {blocks.padded_width(b) / 4, 1, &kNoJump, last ? p.y + offset + at * size : sums,
                 last ? size : k.panel, more, k.panel, from + n * row_step()});
      });
    }
    if (!plain)
      k.columns_out(c, some, wide, p.y + offset, p.residual ? p.residual + offset : nullptr, size,
                    nullptr, p.slope);
  }

  void run() {
    run_blocks(
        p, items, together, ceil_div(p.outputs, group), together * step,
        group * (2 * k.panel + row_step()),
        [&](float* to, float*, int64_t first, int64_t n, int64_t i) { gather(to, first, n, i); },
        [&](const float* pixels, float* own, int64_t first, int64_t n, int64_t at) {
          run_group(pixels, own, first, n, at);
        });
  }
};
