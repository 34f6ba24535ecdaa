// Few input or few output channels: sums over the window as it lies, nothing gathered or expanded.
// Included once, by conv2d.cpp inside an unnamed namespace.
//
// Rows of pictures are copied with their zeros around them, some at a time, so that a tap is only a
// distance. Few inputs, channels-last: vectors hold output channels, and pixels are the rows of a
// product. Few inputs in planes: vectors hold pixels, and output channels are the rows; sums run
// over the same terms in the same order. Few outputs: pixels are copied channels-last, and vectors
// run along the channels of a line of the window.

constexpr int64_t kFewIn = 8, kFewOut = 4, kFewTerms = 64;
constexpr int64_t kDirectBytes = 384 << 10;  // rows of pictures that are worked on together
constexpr int64_t kDotBytes = 1536 << 10;    // the same where outputs are few

struct Direct {
  const ConvKernels& k;
  const Problem& p;
  bool few_outputs, by_pixel;  // the copied rows have their channels side by side
  int64_t taps;
  Blocks blocks;
  int64_t column_phases, pitch;  // columns apart by the stride lie side by side; floats of a row
  int64_t down, stored;          // rows of results worked on together, rows that those need
  int64_t strips;                // of an image
  int64_t groups, group;         // calls, output channels of one
  std::vector<ConvStep> steps, last_steps;  // of a block, of the last one
  const float* weights = nullptr;

  Direct(const ConvKernels& k, const Problem& p)
      : k(k),
        p(p),
        few_outputs(p.inputs > kFewIn),
        by_pixel(!p.planes || few_outputs),
        taps(int64_t(p.kernel_h) * p.kernel_w),
        blocks(p.inputs, std::max<int64_t>(1, kBlockProduct / taps), 1),
        column_phases(by_pixel ? 1 : p.stride),
        groups(ceil_div(p.outputs, by_pixel ? k.panel : k.rows)),
        group(by_pixel ? k.panel : ceil_div(p.outputs, groups)) {
    const int64_t columns = (p.out_width - 1) * p.stride + p.kernel_w;
    pitch =
        by_pixel ? columns * p.inputs : round_up(ceil_div(columns, column_phases), kPad) + k.panel;
    const int64_t row_bytes = 4 * pitch * (by_pixel ? 1 : column_phases * p.inputs);
    const int64_t most = few_outputs ? kDotBytes : kDirectBytes;
    const int64_t fits = (most / row_bytes - p.kernel_h) / p.stride + 1;
    down = std::clamp<int64_t>(fits, 1, p.out_height);
    strips = ceil_div(p.out_height, down);
    down = ceil_div(p.out_height, strips);
    stored = (down - 1) * p.stride + p.kernel_h;
  }

  static bool takes(const Problem& p) {
    return p.kernel_h * p.kernel_w > 1 && (p.inputs <= kFewIn || p.outputs <= kFewOut);
  }

  int64_t line() const { return p.kernel_w * p.inputs; }  // floats of a window's line
  int64_t plane() const { return stored * column_phases * pitch; }
  int64_t copy_floats() const { return by_pixel ? stored * pitch : p.inputs * plane() + k.panel; }
  // Where a tap of a channel lies from the first of its window.
  int64_t place_of(int64_t tap, int64_t channel) const {
    const int64_t y = tap / p.kernel_w, x = tap % p.kernel_w;
    if (by_pixel) return y * pitch + x * p.inputs + channel;
    return channel * plane() + (y * column_phases + x % column_phases) * pitch + x / column_phases;
  }

  // ---- rows of the picture

  void copy(float* to, int64_t image, int64_t first) const {
    for (int64_t r = 0; r < stored; ++r) {
      const int64_t y = first * p.stride - p.pad + r;
      const bool inside = y >= 0 && y < p.height;
      if (by_pixel)
        copy_pixels(to + r * pitch, image, y, inside);
      else
        copy_planes(to + r * column_phases * pitch, image, y, inside);
    }
  }

  void copy_pixels(float* to, int64_t image, int64_t y, bool inside) const {
    const int64_t left = std::min(p.pad * p.inputs, pitch), width = p.width * p.inputs;
    const int64_t some = inside ? std::min(width, pitch - left) : 0;
    std::fill_n(to, left, 0.0f);
    if (some && p.planes)
      k.turn(p.x + image * p.height * width + y * p.width, p.height * p.width, p.inputs,
             some / p.inputs, to + left, p.inputs);
    else if (some)
      std::copy_n(p.x + (image * p.height + y) * width, some, to + left);
    std::fill(to + left + some, to + pitch, 0.0f);
  }

  void copy_planes(float* to, int64_t image, int64_t y, bool inside) const {
    const int64_t s = p.stride;
    for (int64_t c = 0; c < p.inputs; ++c)
      for (int64_t phase = 0; phase < column_phases; ++phase) {
        // Column i of the phase is column i * stride + shift of the picture.
        const int64_t shift = phase - p.pad;
        const float* from = p.x + ((image * p.inputs + c) * p.height + y) * p.width + shift;
        float* line = to + c * plane() + phase * pitch;
        const int64_t end =
            inside && p.width > shift ? std::min(ceil_div(p.width - shift, s), pitch) : 0;
        const int64_t begin = std::min(end, ceil_div(std::max<int64_t>(0, -shift), s));
        std::fill_n(line, begin, 0.0f);
        if (s == 1)
          std::copy(from + begin, from + end, line + begin);
        else if (s == 2)  // said apart, so that the compiler takes whole vectors
          for (int64_t i = begin; i < end; ++i) line[i] = from[2 * i];
        else
          for (int64_t i = begin; i < end; ++i) line[i] = from[i * s];
        std::fill(line + end, line + pitch, 0.0f);
      }
  }

  // ---- weights, in the order [block][tap][channel of the block]

  int64_t weight_floats() const {
    if (few_outputs) return p.outputs * p.kernel_h * round_up(line(), k.lanes);
    return taps * p.inputs * (by_pixel ? groups * k.panel : p.outputs);
  }

  // Few outputs: [output][line of the window][column, channel].
  void pack_lines(float* to) const {
    const int64_t padded = round_up(line(), k.lanes), all = taps * p.inputs;
    for (int64_t i = 0; i < p.outputs * p.kernel_h; ++i, to += padded) {
      const float* w = p.w.rows(i / p.kernel_h * all, 0, 1, all).at + i % p.kernel_h * p.kernel_w;
      for (int64_t c = 0; c < p.kernel_w; ++c)
        for (int64_t channel = 0; channel < p.inputs; ++channel)
          to[c * p.inputs + channel] = w[channel * taps + c];
      std::fill(to + line(), to + padded, 0.0f);
    }
  }

  int64_t packed_floats() const { return 0; }  // few weights, whose order depends on the layout
  void pack(float*) const {}

  void pack_own(float* to) {
    weights = to;
    if (few_outputs) return pack_lines(to);
    const int64_t all = taps * p.inputs;
    for (int64_t o = 0; o < p.outputs; ++o) {
      const float* w = p.w.rows(o * all, 0, 1, all).at;
      for (int64_t b = 0; b < blocks.count; ++b) {
        const int64_t first = blocks.first(b), width = blocks.width(b);
        for (int64_t t = 0; t < taps; ++t)
          for (int64_t c = 0; c < width; ++c)
            to[place_of_weight(o, taps * first + t * width + c)] = w[(first + c) * taps + t];
      }
    }
    if (by_pixel)  // channels that the last panel has too many
      for (int64_t o = p.outputs; o < groups * k.panel; ++o)
        for (int64_t t = 0; t < all; ++t) to[place_of_weight(o, t)] = 0.0f;
  }
  int64_t place_of_weight(int64_t output, int64_t at) const {
    const int64_t all = taps * p.inputs;
    if (!by_pixel) return output * all + at;
    return (output / k.panel * all + at) * k.panel + output % k.panel;
  }

  std::vector<ConvStep> steps_of(int64_t channels) const {
    std::vector<ConvStep> steps;
    for (int64_t at = 0; at < taps * channels; ++at) {
      const int64_t next = std::min(at + 1, taps * channels - 1);
      const int64_t far =
          4 * (place_of(next / channels, next % channels) - place_of(at / channels, at % channels));
      if (by_pixel)
        steps.push_back({far, 4 * int64_t(k.panel)});
      else
        steps.push_back({4, far});
    }
    return steps;
  }

  // ---- results

  // The last block may add `more` and store to the result at once.
  void sums(const float* pixels, int64_t at, int rows, float* c, float* last, int64_t ldc,
            const float* more, int64_t ldm) const {
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t first = blocks.first(b), done = taps * first;
      const auto& list = blocks.width(b) == blocks.size ? steps : last_steps;
      const bool direct = last && blocks.count == 1;
      float* to = direct ? last : c;
      const int64_t apart = direct ? ldc : k.panel;
      const float* add = direct ? more : b ? c : nullptr;
      const int64_t add_apart = direct ? ldm : k.panel;
      if (by_pixel)
        k.micro_steps(rows, pixels + first, p.stride * p.inputs,
                      weights + (at * taps * p.inputs + done) * k.panel, to, apart, list.data(),
                      int64_t(list.size()), add, add_apart);
      else
        k.micro_steps(rows, weights + at * group * taps * p.inputs + done, taps * p.inputs,
                      pixels + first * plane(), to, apart, list.data(), int64_t(list.size()), add,
                      add_apart);
    }
  }

  // Whether results take as long to write as to sum.
  bool few_terms() const { return taps * p.inputs <= kFewTerms; }

  // Whole panels with nothing but a bias to add need not be written twice.
  bool plain() const { return !p.residual && p.slope == 1.0f && blocks.count == 1; }
  int64_t place_in_result(int64_t image, int64_t y, int64_t x, int64_t channel) const {
    if (p.planes) return ((image * p.outputs + channel) * p.out_height + y) * p.out_width + x;
    return ((image * p.out_height + y) * p.out_width + x) * p.outputs + channel;
  }
  const float* bias_of(int64_t image, int64_t channel) const {
    return p.bias ? p.bias + image * p.bias_step + channel : nullptr;
  }

  void run_pixels(const float* rows, int64_t image, int64_t y, int64_t row, float* c) const {
    const int64_t calls = ceil_div(p.out_width, k.rows);
    for (int64_t i = 0, x = 0; i < calls; ++i) {
      const int64_t n = (p.out_width - x + calls - i - 1) / (calls - i);
      const float* pixels = rows + row * p.stride * pitch + x * p.stride * p.inputs;
      for (int64_t at = 0; at < groups; ++at) {
        const int64_t channel = at * group, offset = place_in_result(image, y, x, channel);
        const int outs = int(std::min(group, p.outputs - channel));
        const bool direct = plain() && outs == k.panel;
        if (few_terms())
          expect(p.y + offset + n * p.outputs, n, p.outputs, outs);  // the next call's
        sums(pixels, at, int(n), c, direct ? p.y + offset : nullptr, p.outputs,
             bias_of(image, channel), 0);
        if (!direct)
          k.rows_out(c, n, outs, p.y + offset, p.residual ? p.residual + offset : nullptr,
                     p.outputs, bias_of(image, channel), p.slope);
      }
      x += n;
    }
  }

  void run_planes(const float* rows, int64_t image, int64_t y, int64_t row, int64_t at, float* c,
                  const float* biases) const {
    const int64_t size = p.out_height * p.out_width, channel = at * group;
    const int outs = int(std::min(group, p.outputs - channel));
    for (int64_t x = 0; x < p.out_width; x += k.panel) {
      const int64_t wide = std::min<int64_t>(k.panel, p.out_width - x);
      const int64_t offset = place_in_result(image, y, x, channel);
      const bool direct = plain() && wide == k.panel;
      if (few_terms()) expect(p.y + offset + k.panel, outs, size, k.panel);  // the next call's
      sums(rows + row * p.stride * column_phases * pitch + x, at, outs, c,
           direct ? p.y + offset : nullptr, size, p.bias ? biases : nullptr, k.panel);
      if (!direct)
        k.columns_out(c, outs, int(wide), p.y + offset, p.residual ? p.residual + offset : nullptr,
                      size, bias_of(image, channel), p.slope);
    }
  }

  void run_dots(const float* rows, int64_t image, int64_t y, int64_t row, float* c) const {
    const int outs = int(p.outputs);
    for (int64_t x = 0; x < p.out_width; x += k.panel) {
      const int64_t wide = std::min<int64_t>(k.panel, p.out_width - x);
      const int64_t offset = place_in_result(image, y, x, 0);
      const float* residual = p.residual ? p.residual + offset : nullptr;
      k.dots(rows + row * p.stride * pitch + x * p.stride * p.inputs, pitch, p.stride * p.inputs,
             wide, p.kernel_h, line(), weights, outs, c, p.planes ? 1 : k.panel,
             p.planes ? k.panel : 1);
      if (p.planes)
        k.columns_out(c, outs, int(wide), p.y + offset, residual, p.out_height * p.out_width,
                      bias_of(image, 0), p.slope);
      else
        k.rows_out(c, wide, outs, p.y + offset, residual, p.outputs, bias_of(image, 0), p.slope);
    }
  }

  void run_strip(int64_t image, int64_t first, float* own) const {
    float *c = own, *biases = c + k.panel * k.panel, *rows = biases + k.rows * k.panel;
    copy(rows, image, first);
    const int64_t until = std::min(down, p.out_height - first);
    if (by_pixel) {
      for (int64_t r = 0; r < until; ++r)
        few_outputs ? run_dots(rows, image, first + r, r, c)
                    : run_pixels(rows, image, first + r, r, c);
      return;
    }
    for (int64_t at = 0; at < groups; ++at) {
      const int64_t outs = std::min(group, p.outputs - at * group);
      for (int64_t o = 0; p.bias && o < outs; ++o)
        std::fill_n(biases + o * k.panel, k.panel, bias_of(image, at * group)[o]);
      for (int64_t r = 0; r < until; ++r) run_planes(rows, image, first + r, r, at, c, biases);
    }
  }

  void run() {
    pack_own(packed_scratch.get(weight_floats()));
    if (!few_outputs) {
      steps = steps_of(blocks.size);
      last_steps = steps_of(blocks.width(blocks.count - 1));
    }
    const int64_t floats = k.panel * k.panel + k.rows * k.panel + copy_floats();
#pragma omp parallel for num_threads(p.threads) schedule(static) if (p.threads > 1)
    for (int64_t i = 0; i < p.count * strips; ++i)
      run_strip(i / strips, i % strips * down, own_scratch.get(floats));
  }
};
