// Windows of any size and stride as a packed matrix product whose rows are the pixels where they
// lie. Included once, by conv2d.cpp inside an unnamed namespace.
//
// Rows of pictures are copied with their zeros around them and their channels side by side, some at
// a time; a tap of the window is then a distance, and the pixels of the results of a row lie evenly
// apart: they are rows of the product, and nothing is gathered once for each tap. Contiguous
// pictures are turned on this way in, and their results, a few pixels at a time, on the way out.

constexpr int64_t kStripBytes = 1 << 20;  // copied pixels that are worked on together, about
constexpr int64_t kStripPixels = 128;     // results that are, at least

struct Strips {
  const ConvKernels& k;
  const Problem& p;
  Panels weights;
  const Blocks& blocks;
  int64_t row_step, more_rows;  // copied rows from one result's to the next's; of the last, beyond
  int64_t column_step, columns;
  int64_t cell, pitch;         // floats of a copied pixel, of a row
  int64_t a_chain, chains;     // taps that are summed in one chain, chains of a block
  int64_t items, together;     // rows of results
  std::vector<int64_t> jumps;  // between taps

  Strips(const ConvKernels& k, const Problem& p)
      : k(k),
        p(p),
        weights(k, p),
        blocks(weights.blocks),
        row_step(std::min(p.stride, p.kernel_h)),
        more_rows(p.kernel_h - row_step),
        column_step(std::min(p.stride, p.kernel_w)),
        columns((p.out_width - 1) * column_step + p.kernel_w),
        cell(blocks.padded),
        a_chain(blocks.count > 1 ? 1 : std::max<int64_t>(1, kBlockProduct / blocks.padded)),
        chains(ceil_div(weights.taps, a_chain)),
        items(p.count * p.out_height) {
    if (cell * column_step % 512 == 0) cell += kPad;  // would fall on few sets of the cache
    pitch = columns * cell;
    const int64_t fits = kStripBytes / (row_step * pitch * 4);
    together = std::min(items, std::max(fits, ceil_div(kStripPixels, p.out_width)));
    together = ceil_div(items, ceil_div(items, together));
  }
  Strips(const Strips& other) : Strips(other.k, other.p) {}

  int64_t packed_floats() const { return weights.count * weights.floats(); }
  void pack(float* to) const { weights.pack(to); }

  // ---- pixels

  // Where the rows of result row `first + i` begin: images have more rows than their steps.
  int64_t row_of(int64_t first, int64_t i) const {
    return i * row_step + ((first + i) / p.out_height - first / p.out_height) * more_rows;
  }

  void copy(float* to, int64_t first, int64_t n, int64_t i) const {
    const int64_t image = (first + i) / p.out_height, at = (first + i) % p.out_height;
    const bool last = i + 1 == n || at + 1 == p.out_height;
    to += row_of(first, i) * pitch;
    for (int64_t r = 0; r < row_step + (last ? more_rows : 0); ++r)
      copy_row(to + r * pitch, image, at * p.stride - p.pad + r);
  }

  void copy_row(float* to, int64_t image, int64_t y) const {
    if (y < 0 || y >= p.height) return std::fill_n(to, pitch, 0.0f), void();
    if (p.stride <= p.kernel_w) return copy_pixels(to, image, y, -p.pad, columns);
    for (int64_t i = 0; i < p.out_width; ++i)  // pixels between windows are left out
      copy_pixels(to + i * p.kernel_w * cell, image, y, i * p.stride - p.pad, p.kernel_w);
  }

  // `n` pixels side by side from column x on.
  void copy_pixels(float* to, int64_t image, int64_t y, int64_t x, int64_t n) const {
    const int64_t begin = std::clamp<int64_t>(-x, 0, n), end = std::clamp(p.width - x, begin, n);
    std::fill_n(to, begin * cell, 0.0f);
    std::fill(to + end * cell, to + n * cell, 0.0f);
    if (begin == end) return;
    to += begin * cell, x += begin, n = end - begin;
    if (p.planes)
      k.turn(p.x + (image * p.inputs * p.height + y) * p.width + x, p.height * p.width, p.inputs, n,
             to, cell);
    const float* from = p.x + ((image * p.height + y) * p.width + x) * p.inputs;
    if (!p.planes && cell == p.inputs) return std::copy_n(from, n * cell, to), void();
    for (int64_t i = 0; i < n; ++i, to += cell, from += p.inputs) {
      if (!p.planes) std::copy_n(from, p.inputs, to);
      std::fill(to + p.inputs, to + blocks.padded, 0.0f);
    }
  }

  // ---- sums

  int64_t place_of(int64_t tap) const { return tap / p.kernel_w * pitch + tap % p.kernel_w * cell; }

  void run_panel(const float* rows, float* own, int64_t first, int64_t n, int64_t panel) const {
    float* whole = own + 2 * std::max<int64_t>(kGroup * k.rows, k.panel) * k.panel;
    const float* b = weights.of(panel, whole + k.panel);
    // Some calls' results at a time; of contiguous pictures as many as can be turned together.
    const int64_t calls = ceil_div(p.out_width, k.rows), most = ceil_div(p.out_width, calls);
    const int64_t some = p.planes ? k.panel / most : kGroup;
    for (int64_t i = 0; i < n; ++i) {
      const float* row = rows + row_of(first, i) * pitch;
      const int64_t image = (first + i) / p.out_height;
      const float* bias = weights.bias_of(image, panel, whole);
      for (int64_t call = 0; call < calls; call += some) {
        const int64_t x = p.out_width * call / calls;
        const int64_t end = p.out_width * std::min(call + some, calls) / calls;
        sum(row + x * column_step * cell, b, bias, own, {image, (first + i) % p.out_height, x},
            end - x, panel, i * calls + call);
      }
    }
  }

  void sum(const float* pixels, const float* b, const float* bias, float* c, Place at, int64_t n,
           int64_t panel, int64_t call) const {
    const int64_t channel = panel * k.panel;
    const int64_t place = (at.image * p.out_height + at.y) * p.out_width + at.x;
    float* y = p.y + place * p.outputs + channel;
    const bool plain = !p.planes && weights.plain(panel);
    if (!p.planes) expect(y, n, p.outputs, weights.outs(panel));
    for (int64_t block = 0, done = 0; block < blocks.count; ++block)
      for (int64_t chain = 0; chain < chains; ++chain) {
        const int64_t tap = chain * a_chain, some = std::min(a_chain, weights.taps - tap);
        const int64_t depth = blocks.padded_width(block);
        const bool last = plain && block + 1 == blocks.count && chain + 1 == chains;
        const float* from = pixels + place_of(tap) + blocks.first(block);
        int64_t number = call;
        each_call(k, n, [&](int64_t first, int64_t rows) {
          float* sums = c + first * k.panel;
          const float* a = from + first * column_step * cell;
          k.micro(
              int(rows), a, column_step * cell, b + done * k.panel,
              {depth / 4, some, jumps.data() + tap + weights.taps * (depth != blocks.size),
               last ? y + first * p.outputs : sums, last ? p.outputs : k.panel, done ? sums : bias,
               done ? k.panel : 0, weights.next(b, number++, done, some * depth, a)});
        });
        done += some * depth;
      }
    if (!plain) write(c, at, n, channel, weights.outs(panel));
  }

  void write(float* c, Place at, int64_t n, int64_t channel, int outs) const {
    const int64_t size = p.out_height * p.out_width, place = at.y * p.out_width + at.x;
    if (!p.planes) {
      const int64_t offset = (at.image * size + place) * p.outputs + channel;
      k.rows_out(c, n, outs, p.y + offset, p.residual ? p.residual + offset : nullptr, p.outputs,
                 nullptr, p.slope);
      return;
    }
    const int64_t offset = (at.image * p.outputs + channel) * size + place;
    float* turned = c + k.panel * k.panel;
    k.turn(c, k.panel, n, outs, turned, k.panel);
    k.columns_out(turned, outs, int(n), p.y + offset, p.residual ? p.residual + offset : nullptr,
                  size, nullptr, p.slope);
  }

  // After each tap, for whole blocks and for the last one.
  void find_jumps() {
    for (const int64_t depth : {blocks.size, blocks.padded_width(blocks.count - 1)})
      for (int64_t tap = 0; tap < weights.taps; ++tap)
        jumps.push_back(4 * (place_of(tap + 1) - place_of(tap) - depth));
  }

  void run() {
    find_jumps();
    weights.ahead = packed_for(p, *this, items > together);
    const int64_t images = std::min(p.count, ceil_div(together, p.out_height) + 1);
    const int64_t sums = 2 * std::max<int64_t>(kGroup * k.rows, k.panel) * k.panel;
    run_blocks(
        p, items, together, weights.count, (together * row_step + images * more_rows) * pitch,
        sums + k.panel + (weights.ahead ? 0 : weights.floats()),
        [&](float* to, float*, int64_t first, int64_t n, int64_t i) { copy(to, first, n, i); },
        [&](const float* rows, float* own, int64_t first, int64_t n, int64_t panel) {
          run_panel(rows, own, first, n, panel);
        });
  }
};
