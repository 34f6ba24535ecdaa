// Any kernel and stride on tile registers: pixels and weights are cut into bfloat16 parts once, and
// each tap of the kernel is a product of the cut pixels, read from another place, with its weights.
// Included once, by conv2d.cpp inside an unnamed namespace.
//
// Pixels are kept in rows that are `across` long, row after row and image after image, so that the
// pixels a tap needs for consecutive results lie side by side even where a row ends. Results beyond
// a row's end are summed like others and not written. With a stride the pixels are sorted by the
// remainders of their coordinates ("phases") first: within one, a tap again reads side by side.

constexpr int64_t kShortSum = 128;        // products; so few need three parts to be as exact
constexpr int64_t kChainSteps = 72;       // tiles of weights that pass over the pixels together
constexpr int64_t kCutBytes = 768 << 10;  // cut pixels that are worked on together, about

struct Split {
  const ConvKernels& k;
  const TileKernels& t;
  const Problem& p;
  int64_t taps;
  int64_t chunks, steps;  // tiles of a cut pixel's channels; tiles of weights of a panel
  Parts parts;
  int64_t phase_rows, phase_columns, phases;
  int64_t down, across;  // rows of an image, pixels of a row
  int64_t reach;         // the farthest a tap reads beyond its first pixel
  int64_t length, items, together, panels;
  int64_t groups;  // of channels, whose products are summed one group after the other
  const char* kept = nullptr;

  Split(const ConvKernels& k, const TileKernels& t, const Problem& p)
      : k(k), t(t), p(p), taps(int64_t(p.kernel_h) * p.kernel_w) {
    chunks = ceil_div(p.inputs, kTileDepth);
    steps = chunks * taps;
    const bool cut_already = p.w.halves && p.w.kind == Half::kBfloat16;
    parts = taps * p.inputs <= kShortSum ? Parts{3, 3} : Parts{2, cut_already ? 1 : 2};
    phase_rows = std::min(p.stride, p.kernel_h);
    phase_columns = std::min(p.stride, p.kernel_w);
    phases = phase_rows * phase_columns;
    // With stride 1 the zeros right of a row are those left of the next.
    const bool shared = p.stride == 1 && p.pad < p.kernel_w && p.pad < p.kernel_h;
    down = shared ? p.height + p.pad : p.out_height + (p.kernel_h - 1) / p.stride;
    across = shared ? p.width + p.pad : p.out_width + (p.kernel_w - 1) / p.stride;
    reach = 0;
    for (int64_t tap = 0; tap < taps; ++tap) reach = std::max(reach, place_of(tap));
    length = (p.count - 1) * down * across + (p.out_height - 1) * across + p.out_width;
    items = ceil_div(length, kTilePixels);
    panels = ceil_div(p.outputs, kTileWide);
    const int64_t pixel_bytes = phases * chunks * parts.pixel * kPartBytes;
    const int64_t fits = kCutBytes / (pixel_bytes * kTilePixels);
    together = std::min(items, std::clamp<int64_t>(fits, taps > 1 ? 20 : 8, 64));
    together = ceil_div(items, ceil_div(items, together));
    groups = std::max<int64_t>(1, ceil_div(steps, kChainSteps));
    groups = std::min(groups, chunks);
  }

  // Where a tap's pixels begin within their phase.
  int64_t place_of(int64_t tap) const {
    return tap / p.kernel_w / p.stride * across + tap % p.kernel_w / p.stride;
  }
  int64_t phase_of(int64_t tap) const {
    return tap / p.kernel_w % p.stride * phase_columns + tap % p.kernel_w % p.stride;
  }
  int64_t stored(int64_t n) const { return n * kTilePixels + reach; }  // pixels of a phase
  CutSteps apart(int64_t n) const {
    const int64_t part = phases * stored(n) * kPartBytes;
    return {parts.pixel * part, part};
  }
  int64_t weight_step() const { return parts.weight * kWeightBytes; }
  int64_t first_chunk(int64_t group) const { return chunks * group / groups; }
  int64_t group_steps() const { return ceil_div(chunks, groups) * taps; }

  // ---- pixels

  // A share of the n * kTilePixels results' pixels.
  void cut(char* to, int64_t first, int64_t n, int64_t share) const {
    const int64_t all = phases * stored(n), until = all * (share + 1) / n;
    for (int64_t at = all * share / n; at < until;) {
      const int64_t flat = first * kTilePixels + at % stored(n);
      const Place row = place(flat, down, across);
      int64_t run = std::min(until - at, stored(n) - at % stored(n));
      run = std::min(run, across - row.x);
      cut_row(row, at / stored(n), run, to + at * kPartBytes, apart(n));
      at += run;
    }
  }

  void clear(char* to, int64_t pixels, CutSteps apart) const {
    for (int64_t part = 0; pixels > 0 && part < chunks * parts.pixel; ++part)
      std::memset(to + part * apart.part, 0, pixels * kPartBytes);
  }

  // `run` pixels of one phase from `row` on.
  void cut_row(Place row, int64_t phase, int64_t run, char* to, CutSteps apart) const {
    const int64_t s = p.stride, y = row.y * s + phase / phase_columns - p.pad;
    const int64_t shift = phase % phase_columns - p.pad;  // x = column * s + shift
    const bool inside = row.image < p.count && y >= 0 && y < p.height;
    int64_t begin = std::max<int64_t>(0, ceil_div(std::max<int64_t>(0, -shift), s) - row.x);
    int64_t end = shift < p.width ? ceil_div(p.width - shift, s) - row.x : 0;
    begin = inside ? std::min(begin, run) : run;
    end = std::max(begin, std::min(end, run));
    clear(to, begin, apart);
    clear(to + end * kPartBytes, run - end, apart);
    if (begin == end) return;
    const PlainSum at{p};
    const float* from = p.x + at.offset(row.image, y, (row.x + begin) * s + shift);
    char* put = to + begin * kPartBytes;
    if (!p.planes) {
      for (int64_t i = begin; i < end; ++i, put += kPartBytes, from += s * p.inputs)
        t.cut_pixel(from, p.inputs, parts.pixel, put, apart);
      return;
    }
    const float* rows[kTileDepth];
    for (int64_t c = 0; c < p.inputs; c += kTileDepth, put += apart.chunk) {
      const int64_t some = std::min(kTileDepth, p.inputs - c);
      for (int64_t j = 0; j < some; ++j) rows[j] = from + (c + j) * at.step();
      for (int64_t i = 0; i < end - begin; i += 16) {
        expect<0>(rows[0] + 2 * 16, some, at.step(), 16);
        t.cut_pixels(rows, some, int(std::min<int64_t>(16, end - begin - i)), parts.pixel,
                     put + i * kPartBytes, apart);
        for (int64_t j = 0; j < some; ++j) rows[j] += 16;
      }
    }
  }

  // ---- weights

  void cut_weights(char* to, float* values, int64_t panel, int64_t first, int64_t last) const {
    const int outs = int(std::min<int64_t>(kTileWide, p.outputs - panel * kTileWide));
    const int64_t apart = p.inputs * taps;
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t from = chunk * kTileDepth, some = std::min(kTileDepth, p.inputs - from);
      const int64_t at = panel * kTileWide * apart + from * taps;
      if (parts.pixel == 2 && some == kTileDepth && (taps == 1 || taps == 9)) {
        if (p.w.floats)
          t.cut_filters(p.w.floats + at, apart, outs, int(taps), to);
        else
          t.cut_half_filters(p.w.halves + at, p.w.kind, apart, outs, int(taps), to);
        to += taps * weight_step();
        continue;
      }
      const Rows w = p.w.rows(at, apart, outs, some * taps);
      k.pack(w.at, w.step, outs, some, int(taps), values, kTileDepth);
      for (int64_t tap = 0; tap < taps; ++tap, to += weight_step())
        t.cut_weights(values + tap * kTileDepth * kTileWide, some, parts, to);
    }
  }

  int64_t value_floats() const { return taps * kTileDepth * kTileWide; }
  int64_t offset_floats() const { return round_up(2 * group_steps(), kPad); }

  // ---- results

  // Sums of a stretch: all of them where groups of channels are added to them one after the other,
  // otherwise only what is summed and what is written meanwhile.
  int64_t sum_floats(int64_t n) const {
    return (groups > 1 ? n : std::min<int64_t>(n, 2)) * kTilePixels * kTileWide;
  }
  int64_t place_of_sums(int64_t i) const {
    return (groups > 1 ? i : i % 2) * kTilePixels * kTileWide;
  }

  void run_panel(const char* cut, char* own, int64_t first, int64_t n, int64_t panel) const {
    const int64_t pixels = std::min(n * kTilePixels, length - first * kTilePixels);
    float* sums = reinterpret_cast<float*>(own);
    float* values = sums + sum_floats(n);
    int64_t* offsets = reinterpret_cast<int64_t*>(values + value_floats());
    char* weights = reinterpret_cast<char*>(offsets + offset_floats() / 2);
    const int outs = int(std::min<int64_t>(kTileWide, p.outputs - panel * kTileWide));
    const auto some = [&](int64_t i) { return std::min(kTilePixels, pixels - i * kTilePixels); };
    const auto written = [&](int64_t i) {
      write(sums + place_of_sums(i), (first + i) * kTilePixels, some(i), panel, outs);
    };
    t.begin();
    for (int64_t group = 0; group < groups; ++group) {
      const TileSum of = sum_of(group, panel, n, offsets, weights, values);
      const bool last = group + 1 == groups;
      for (int64_t i = 0; i < n; ++i) {
        TileSum one = of;
        const int64_t share = round_up(ceil_div(of.ahead_bytes, n), kPartBytes);
        one.ahead += i * share;
        one.ahead_bytes = std::clamp<int64_t>(of.ahead_bytes - i * share, 0, share);
        if (last) expect_results((first + i) * kTilePixels, some(i), panel, outs);
        t.sum(one, cut + i * kTilePixels * kPartBytes, some(i), sums + place_of_sums(i));
        // While the tiles are at work the vectors write what those had done before.
        if (last && i) written(i - 1);
      }
    }
    t.end();
    written(n - 1);
  }

  // What a group's products need to know.
  TileSum sum_of(int64_t group, int64_t panel, int64_t n, int64_t* offsets, char* weights,
                 float* values) const {
    const int64_t begin = first_chunk(group), end = first_chunk(group + 1);
    int64_t count = 0;
    for (int64_t chunk = begin; chunk < end; ++chunk)
      for (int64_t tap = 0; tap < taps; ++tap)
        offsets[count++] =
            chunk * apart(n).chunk + (phase_of(tap) * stored(n) + place_of(tap)) * kPartBytes;
    const char* b = weights;
    int64_t ahead = 0;
    if (kept) {
      b = kept + (panel * steps + begin * taps) * weight_step();
      if (group + 1 < groups)
        ahead = (first_chunk(group + 2) - end) * taps;
      else if (panel + 1 < panels)
        ahead = first_chunk(1) * taps;
    } else {
      cut_weights(weights, values, panel, begin, end);
    }
    const bool half = end == chunks && fits_half(p.inputs - (chunks - 1) * kTileDepth, parts.pixel);
    const int64_t outs = std::min<int64_t>(kTileWide, p.outputs - panel * kTileWide);
    return {apart(n).part, offsets,   count,     half ? taps : 0,           b,
            parts,         int(outs), group > 0, b + count * weight_step(), ahead * weight_step()};
  }

  // Fetches where the results of some sums go, about: rows may end between them.
  void expect_results(int64_t first, int64_t some, int64_t panel, int outs) const {
    const Place at = place(first, down, across);
    const int64_t size = p.out_height * p.out_width, channel = panel * kTileWide;
    const int64_t pixel = at.y * p.out_width + at.x;
    if (p.planes)
      expect(p.y + (at.image * p.outputs + channel) * size + pixel, outs, size, some);
    else
      expect(p.y + (at.image * size + pixel) * p.outputs + channel, some, p.outputs, outs);
  }

  // Sums of `some` pixels.
  void write(const float* sums, int64_t first, int64_t some, int64_t panel, int outs) const {
    const int64_t apart = p.planes ? p.out_height * p.out_width : 1;
    // Whole vectors are read from the middle of the last row.
    alignas(kAlign) float turned[kTileWide * kTilePixels + kPad];
    const bool finite = t.finite(sums, some, outs);
    if (p.planes) k.turn(sums, kTileWide, some, outs, turned, kTilePixels);
    for (int64_t j = 0; j < some;) {
      const Place at = place(first + j, down, across);
      const int64_t run =
          std::min(some - j, at.x < p.out_width ? p.out_width - at.x : across - at.x);
      if (at.x < p.out_width && at.y < p.out_height) {
        const int64_t image = at.image * p.out_height * p.out_width * p.outputs;
        const int64_t pixel = at.y * p.out_width + at.x, channel = panel * kTileWide;
        const int64_t offset =
            image + (p.planes ? channel * apart + pixel : pixel * p.outputs + channel);
        const float* bias = p.bias ? p.bias + at.image * p.bias_step + channel : nullptr;
        const float* residual = p.residual ? p.residual + offset : nullptr;
        if (p.planes)
          k.columns_out(turned + j, outs, int(run), p.y + offset, residual, apart, bias, p.slope);
        else
          k.rows_out(sums + j * kTileWide, run, outs, p.y + offset, residual, p.outputs, bias,
                     p.slope);
        for (int64_t m = 0; m < run && !finite; ++m) {
          const int64_t step = m * (p.planes ? 1 : p.outputs);
          PlainSum{p}.repair({at.image, at.y, at.x + m}, p.y + offset + step,
                             residual ? residual + step : nullptr, apart, channel, outs);
        }
      }
      j += run;
    }
  }

  // ---- weights cut ahead

  int64_t packed_floats() const { return panels * steps * weight_step() / 4; }
  void pack(float* to) const {
#pragma omp parallel for num_threads(p.threads) schedule(static) if (p.threads > 1)
    for (int64_t panel = 0; panel < panels; ++panel)
      cut_weights(reinterpret_cast<char*>(to) + panel * steps * weight_step(),
                  own_scratch.get(value_floats()), panel, 0, chunks);
  }

  void run() {
    kept = reinterpret_cast<const char*>(packed_for(p, *this, items > together));
    run_blocks(
        p, items, together, panels, chunks * apart(together).chunk / 4,
        sum_floats(together) + value_floats() + offset_floats() +
            (kept ? 0 : group_steps() * weight_step() / 4),
        [&](float* to, float*, int64_t first, int64_t n, int64_t share) {
          cut(reinterpret_cast<char*>(to), first, n, share);
        },
        [&](const float* cut, float* own, int64_t first, int64_t n, int64_t panel) {
          run_panel(reinterpret_cast<const char*>(cut), reinterpret_cast<char*>(own), first, n,
                    panel);
        });
  }
};
