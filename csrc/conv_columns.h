// 3x3 with stride 1 and few input or few output channels by Winograd's F(4, 3) down the columns:
// half of the multiplications. Included once, by conv2d.cpp inside an unnamed namespace.
//
// Four rows of results need six rows of the picture. Those are transformed one number at a time, as
// they lie, whatever lies side by side in them, and six lines of the window, as long as it is wide,
// pass over the six. The six sums of four results meet on the way out. Few inputs, channels-last:
// vectors hold output channels, pixels are the rows of a product. Few inputs in planes: vectors
// hold pixels, output channels are the rows. Few outputs: vectors run along the channels; in
// planes, which need not be turned for it, along pixels, and the lanes of the other layout are sums
// of their own, one after the other. Points are those of conv_winograd.h.

constexpr int64_t kSix = 6, kFour = 4, kWindow = 3;
constexpr int64_t kSixBytes = 192 << 10;  // transformed rows that are worked on together

struct Columns {
  const ConvKernels& k;
  const Problem& p;
  bool few_outputs, by_pixel;  // a row has its channels side by side
  int64_t terms, chains;       // of a line of the window; apart from one another until the end
  int64_t down, columns;       // rows of tiles of an image; columns with padding
  int64_t pitch, line_step;    // floats of a transformed row, of those of all channels
  int64_t groups, group;       // calls, output channels of one
  int64_t sums_step;           // few outputs: from one of six rows of sums to the next
  std::vector<ConvLineStep> steps;
  std::vector<ConvStep> chain_steps;
  std::vector<float> zero;
  const float* weights = nullptr;

  Columns(const ConvKernels& k, const Problem& p)
      : k(k),
        p(p),
        few_outputs(p.inputs > kFewIn),
        by_pixel(!p.planes),
        terms(kWindow * p.inputs),
        chains(few_outputs ? k.lanes : 1),
        down(ceil_div(p.out_height, kFour)),
        columns(p.out_width + kWindow - 1),
        pitch(by_pixel ? round_up(columns * p.inputs, kPad) + kPad
                       : round_up(columns, kPad) + k.panel),
        line_step(by_pixel ? pitch : (p.inputs + (few_outputs ? 1 : 0)) * pitch),
        groups(ceil_div(p.outputs, by_pixel ? k.panel : k.rows)),
        group(by_pixel ? k.panel : ceil_div(p.outputs, groups)),
        sums_step(round_up(p.out_width * p.outputs, kPad) + kPad),
        zero(by_pixel ? p.width * p.inputs : p.width) {}
  Columns(const Columns& other) : Columns(other.k, other.p) {}

  static bool takes(const Problem& p) {
    return p.kernel_h == kWindow && p.kernel_w == kWindow && p.stride == 1 &&
           p.out_height >= kFour && (p.inputs <= kFewIn || p.outputs <= kFewOut);
  }

  // ---- rows of the picture, transformed

  struct Own {  // a thread's memory
    float *v, *sums, *chains;
  };

  void transform(float* v, int64_t image, int64_t tile) const {
    const int64_t channels = by_pixel ? 1 : p.inputs, cell = by_pixel ? p.inputs : 1;
    const int64_t left = p.pad * cell, some = p.width * cell;
    for (int64_t c = 0; c < channels; ++c, v += pitch) {
      const float* rows[kSix];
      for (int64_t r = 0; r < kSix; ++r) {
        const int64_t y = kFour * tile + r - p.pad;
        rows[r] = y < 0 || y >= p.height ? zero.data()
                                         : p.x + ((image * channels + c) * p.height + y) * some;
      }
      for (int64_t j = 0; j < kSix; ++j) {
        std::fill_n(v + j * line_step, left, 0.0f);
        std::fill(v + j * line_step + left + some, v + j * line_step + pitch, 0.0f);
      }
      k.lines_in(rows, some, v + left, line_step);
    }
    // What the terms read that some of several chains have too many.
    for (int64_t j = 0; few_outputs && !by_pixel && j < kSix; ++j)
      std::fill_n(v + j * line_step, pitch, 0.0f);
  }

  // Some results of four rows: `wide` from column x on, `outs` channels from `channel` on.
  struct Part {
    int64_t image, tile, x, wide, channel, outs;
  };

  // ---- weights, in the order [six][column of the window][channel]

  int64_t packed_floats() const { return 0; }  // few weights, whose order depends on the layout
  void pack(float*) const {}

  int64_t run_floats() const { return round_up(terms, k.lanes); }
  int64_t weight_floats() const {
    if (few_outputs) return kSix * p.outputs * run_floats();
    return kSix * terms * (by_pixel ? groups * k.panel : p.outputs);
  }
  // The chains of a line lie behind one another where each is a sum of its own.
  int64_t place_of_weight(int64_t output, int64_t six, int64_t term) const {
    if (few_outputs && by_pixel) return (six * p.outputs + output) * run_floats() + term;
    if (few_outputs)
      return (output * kSix + six) * run_floats() + term % chains * (run_floats() / chains) +
             term / chains;
    const int64_t at = six * terms + term;
    if (!by_pixel) return output * kSix * terms + at;
    return (output / k.panel * kSix * terms + at) * k.panel + output % k.panel;
  }

  void pack_own(float* to) {
    weights = to;
    std::fill_n(to, weight_floats(), 0.0f);
    const int64_t six_step = place_of_weight(0, 1, 0);
    std::vector<int64_t> places(terms);
    for (int64_t term = 0; term < terms; ++term) places[term] = place_of_weight(0, 0, term);
    for (int64_t o = 0; o < p.outputs; ++o) {
      const float* w = p.w.rows(o * kWindow * terms, 0, 1, kWindow * terms).at;
      float* of_output = to + place_of_weight(o, 0, 0);
      for (int64_t column = 0; column < kWindow; ++column)
        for (int64_t c = 0; c < p.inputs; ++c) {
          const float* g = w + c * 9 + column;
          const float u[kSix] = {g[0],
                                 g[0] + 0.5f * g[6] + kNear * g[3],
                                 g[0] + 0.5f * g[6] - kNear * g[3],
                                 g[0] + 2.0f * g[6] + kFar * g[3],
                                 g[0] + 2.0f * g[6] - kFar * g[3],
                                 g[6]};
          float* at = of_output + places[column * p.inputs + c];
          for (int64_t j = 0; j < kSix; ++j) at[j * six_step] = u[j];
        }
    }
  }

  // Where a term lies from the first of the first line.
  int64_t place_of(int64_t six, int64_t term) const {
    if (by_pixel) return six * line_step + term;
    if (term >= terms) return six * line_step + p.inputs * pitch;  // zeros
    return six * line_step + term % p.inputs * pitch + term / p.inputs;
  }

  void find_steps() {
    if (few_outputs && by_pixel) return;
    const int64_t count = run_floats() / chains;
    for (int64_t chain = 0; few_outputs && chain < chains; ++chain)
      for (int64_t i = 0; i < count; ++i) {
        const int64_t term = chain + i * chains, next = i + 1 < count ? term + chains : term;
        chain_steps.push_back({4, 4 * (place_of(0, next) - place_of(0, term))});
      }
    for (int64_t at = 0, all = few_outputs ? 0 : kSix * terms; at < all; ++at) {
      const int64_t next = std::min(at + 1, all - 1);
      const int64_t far =
          4 * (place_of(next / terms, next % terms) - place_of(at / terms, at % terms));
      if (by_pixel)
        steps.push_back({far, 4 * int64_t(k.panel), {}});
      else
        steps.push_back({4, far, {}});
    }
    expect_results();
  }

  // The lines of a call's results are shared among its steps, so that none waits for the others.
  void expect_results() {
    const int64_t rows = by_pixel ? std::min<int64_t>(k.rows, p.out_width) : group;
    const int64_t row = p.planes ? p.out_height * p.out_width : p.outputs;
    int64_t number = 0;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < std::min(kFour, p.out_height); ++i)
        for (int64_t at = 0; at < k.panel; at += kPad, ++number)
          if (number < int64_t(2 * steps.size()))
            steps[number % steps.size()].ahead[number / steps.size()] =
                4 * (r * row + i * p.out_width * (p.planes ? 1 : p.outputs) + at);
  }

  // ---- results

  int64_t place_in_result(int64_t image, int64_t y, int64_t x, int64_t channel) const {
    if (p.planes) return ((image * p.outputs + channel) * p.out_height + y) * p.out_width + x;
    return ((image * p.out_height + y) * p.out_width + x) * p.outputs + channel;
  }
  const float* bias_of(int64_t image, int64_t channel) const {
    return p.bias ? p.bias + image * p.bias_step + channel : nullptr;
  }

  // Where the results go that come after a part: of the next channels, else columns, else tile.
  const float* after(Part part, int64_t channel, int64_t x, int64_t end) const {
    if (channel < p.outputs)
      part.channel = channel;
    else if (part.channel = by_pixel ? 0 : part.channel, x < p.out_width)
      part.x = x;
    else if (part.tile + 1 < end)
      part.x = 0, ++part.tile;
    return p.y + place_in_result(part.image, kFour * part.tile, part.x, part.channel);
  }

  void write(const float* m, int64_t m_step, int64_t m_row, const Part& part) const {
    const int64_t rows = p.planes ? part.outs : part.wide, n = p.planes ? part.wide : part.outs;
    ConvLines lines = {m,
                       m_step,
                       m_row,
                       rows,
                       n,
                       {},
                       {},
                       p.planes ? p.out_height * p.out_width : p.outputs,
                       bias_of(part.image, part.channel),
                       p.planes,
                       p.slope};
    for (int64_t i = 0; i < kFour && kFour * part.tile + i < p.out_height; ++i) {
      const int64_t at = place_in_result(part.image, kFour * part.tile + i, part.x, part.channel);
      lines.y[i] = p.y + at;
      lines.residual[i] = p.residual ? p.residual + at : nullptr;
    }
    if (!k.lines_out(lines)) repair(part);
  }

  // The transform spreads what is not finite over its rows.
  void repair(const Part& part) const {
    for (int64_t i = 0; i < kFour && kFour * part.tile + i < p.out_height; ++i)
      for (int64_t x = part.x; x < part.x + part.wide; ++x) {
        const int64_t y = kFour * part.tile + i,
                      at = place_in_result(part.image, y, x, part.channel);
        PlainSum{p}.repair({part.image, y, x}, p.y + at, p.residual ? p.residual + at : nullptr,
                           p.planes ? p.out_height * p.out_width : 1, part.channel, int(part.outs));
      }
  }

  void run_pixels(const Own& own, int64_t image, int64_t tile) const {
    const int64_t calls = ceil_div(p.out_width, k.rows);
    for (int64_t i = 0, x = 0; i < calls; ++i) {
      const int64_t n = (p.out_width - x + calls - i - 1) / (calls - i);
      for (int64_t at = 0; at < groups; ++at) {
        const Part part = {image, tile, x, n, at * group, std::min(group, p.outputs - at * group)};
        k.micro_lines(int(n), own.v + x * p.inputs, p.inputs, weights + at * kSix * terms * k.panel,
                      own.sums, steps.data(), terms, kSix,
                      after(part, (at + 1) * group, x + n, down));
        write(own.sums, n * k.panel, k.panel, part);
      }
      x += n;
    }
  }

  // Tiles below one another, so that results go on where those before them ended.
  void run_planes(const Own& own, int64_t image, int64_t tile, int64_t tiles) const {
    for (int64_t at = 0; at < groups; ++at) {
      const int64_t outs = std::min(group, p.outputs - at * group);
      for (int64_t t = 0; t < tiles; ++t)
        for (int64_t x = 0; x < p.out_width; x += k.panel) {
          const Part part = {image,      tile + t, x, std::min<int64_t>(k.panel, p.out_width - x),
                             at * group, outs};
          const float* v = own.v + t * kSix * line_step + x;
          if (few_outputs)
            sum_chains(v, own);
          else
            k.micro_lines(int(outs), weights + at * group * kSix * terms, kSix * terms, v, own.sums,
                          steps.data(), terms, kSix,
                          after(part, p.outputs, x + k.panel, tile + tiles));
          write(own.sums, outs * k.panel, k.panel, part);
        }
    }
  }

  void sum_chains(const float* v, const Own& own) const {
    const int64_t count = run_floats() / chains, floats = p.outputs * k.panel;
    for (int64_t j = 0; j < kSix; ++j) {
      for (int64_t chain = 0; chain < chains; ++chain)
        k.micro_steps(int(p.outputs), weights + j * run_floats() + chain * count,
                      kSix * run_floats(), v + place_of(j, chain), own.chains + chain * floats,
                      k.panel, chain_steps.data() + chain * count, count, nullptr, 0);
      k.fold(own.chains, floats, floats, own.sums + j * floats);
    }
  }

  void run_dots(const Own& own, int64_t image, int64_t tile) const {
    for (int64_t j = 0; j < kSix; ++j)
      k.dots(own.v + j * line_step, 0, p.inputs, p.out_width, 1, terms,
             weights + j * p.outputs * run_floats(), int(p.outputs), own.sums + j * sums_step,
             p.outputs, 1);
    write(own.sums, sums_step, p.outputs, {image, tile, 0, p.out_width, 0, p.outputs});
  }

  void run_strip(const Own& own, int64_t image, int64_t tile, int64_t tiles) const {
    if (!by_pixel) {
      for (int64_t t = 0; t < tiles; ++t) transform(own.v + t * kSix * line_step, image, tile + t);
      return run_planes(own, image, tile, tiles);
    }
    for (const int64_t end = tile + tiles; tile < end; ++tile) {
      transform(own.v, image, tile);
      few_outputs ? run_dots(own, image, tile) : run_pixels(own, image, tile);
    }
  }

  void run() {
    pack_own(packed_scratch.get(weight_floats()));
    find_steps();
    const int64_t most = std::max<int64_t>(1, kSixBytes / (4 * kSix * line_step));
    const int64_t strip = by_pixel ? 1 : std::min(most, ceil_div(down, p.threads));
    const int64_t strips = ceil_div(down, strip), v = strip * kSix * line_step + k.panel;
    const int64_t lines = few_outputs && by_pixel ? sums_step : k.rows * k.panel;
    const int64_t sums = kSix * lines + k.panel;
#pragma omp parallel num_threads(p.threads) if (p.threads > 1)
    {
      float* memory = own_scratch.get(v + sums + chains * kFewOut * k.panel);
      const Own own = {memory, memory + v, memory + v + sums};
#pragma omp for schedule(static)
      for (int64_t i = 0; i < p.count * strips; ++i) {
        const int64_t first = i % strips * strip;
        run_strip(own, i / strips, first, std::min(strip, down - first));
      }
    }
  }

  static constexpr float kNear = 0.70710678118654752f, kFar = 1.4142135623730951f;
};
