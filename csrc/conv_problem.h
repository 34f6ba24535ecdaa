// What every form of the convolution works with: the problem, blocks of input channels, memory, the
// sharing of work among threads. Included once, by conv2d.cpp inside an unnamed namespace.

constexpr int64_t kAlign = 64, kPad = 16;   // bytes; floats between streams, see Winograd::v_step
constexpr int64_t kPackedBytes = 64 << 20;  // weights that a call packs for itself, at most

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Memory that grows and is kept by its thread: new pages cost more than many a convolution.
struct Scratch {
  float* data = nullptr;
  int64_t size = 0;
  ~Scratch() { release(); }
  void release() {
    if (data) unmap_pages(data);
    data = nullptr;
  }
  float* get(int64_t floats) {
    if (floats > size) {
      release();
      size = 0;
      // 36 streams lie in as many small pages, more than the lookups of stores hold.
      const bool large = size_t(floats) * 4 >= kPage / 8;
      const int64_t whole = large ? round_up(floats, int64_t(kPage / 4)) : floats;
      data = static_cast<float*>(map_pages(whole * 4, large ? kPage : kAlign));
      size = whole;
    }
    return data;
  }
};
// Used by the thread that calls / by every thread of the team.
thread_local Scratch shared_scratch, packed_scratch, turned_in, turned_out, turned_residual,
    own_scratch, wide_scratch;

// Input channels in equal blocks; the last may be shorter. Follows from the weights alone.
struct Blocks {
  int64_t channels, size, count, padded;
  Blocks(int64_t channels, int64_t most, int64_t unit) : channels(channels) {
    size = std::max(
        unit, round_up(ceil_div(channels, std::max<int64_t>(1, ceil_div(channels, most))), unit));
    count = ceil_div(channels, size);
    padded = round_up(channels, unit);
  }
  int64_t first(int64_t block) const { return block * size; }
  int64_t width(int64_t block) const { return std::min(size, channels - first(block)); }
  int64_t padded_width(int64_t block) const { return std::min(size, padded - first(block)); }
};

// Rows of numbers, each a step from the one before.
struct Rows {
  const float* at;
  int64_t step;
};

// Weights as they are kept: float32, or 16 bits, a part of which is widened where it is used, in
// cache, so that memory is read for half as many bytes.
struct Weights {
  const float* floats;     // or null
  const uint16_t* halves;  // then
  Half kind;
  const ConvKernels* k;

  // `count` numbers each from `first` on. The thread's next call overwrites what was widened.
  Rows rows(int64_t first, int64_t step, int64_t rows, int64_t count) const {
    if (floats) return {floats + first, step};
    float* wide = wide_scratch.get(rows * count);
    k->widen(halves + first, kind, step, rows, count, wide);
    return {wide, count};
  }
  float operator[](int64_t at) const { return rows(at, 0, 1, 1).at[0]; }
};

struct Problem {
  const float *x, *bias, *residual;  // x [N, H, W, C], residual like y
  Weights w;                         // [O, C, kh, kw]
  const float* packed;               // w in the order that its form packs it to, or null
  float* y;                          // [N, out_h, out_w, O]
  int64_t count, height, width, inputs, outputs, out_height, out_width;
  int kernel_h, kernel_w, stride, pad;
  int64_t bias_step;  // 0: one bias; O: one for each image
  float slope;
  int threads;
  bool planes;  // x, residual and y are [N, C, H, W] instead; only some forms take that
};

// Weights packed for all of a call: ahead of it, or now if they are used `often` and not too many.
template <typename Form>
const float* packed_for(const Problem& p, const Form& form, bool often) {
  if (p.packed || !often || form.packed_floats() * 4 > kPackedBytes) return p.packed;
  float* to = packed_scratch.get(form.packed_floats());
  form.pack(to);
  return to;
}

// Lines of `rows` short pieces, a step apart: too short for the CPU to foresee by itself. Fetched
// before the sums that go there are begun, they have come when those are done. kNear: 3 the first
// cache, 2 the second.
template <int kToWrite = 1, int kNear = 3>
void expect(const float* at, int64_t rows, int64_t step, int64_t floats) {
#if defined(__GNUC__)
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < floats; i += kPad)
      __builtin_prefetch(at + r * step + i, kToWrite, kNear);
#endif
}

// f(first, how many) for the rows of each call of `micro`. Remainders are spread: 13 rows are 7 and
// 6, for a short call hides no latency.
template <typename F>
void each_call(const ConvKernels& k, int64_t rows, const F& f) {
  const int64_t calls = ceil_div(rows, k.rows);
  for (int64_t i = 0, at = 0; i < calls; ++i) {
    const int64_t n = (rows - at + calls - i - 1) / (calls - i);
    f(at, n);
    at += n;
  }
}

constexpr int64_t kNoJump = 0;

void multiply(const ConvKernels& k, const float* a, int64_t lda, const float* b, float* c,
              int64_t rows, int64_t depth, bool accumulate) {
  each_call(k, rows, [&](int64_t at, int64_t n) {
    float* to = c + at * k.panel;
    k.micro(int(n), a + at * lda, lda, b,
            {depth / 4, 1, &kNoJump, to, k.panel, accumulate ? to : nullptr, k.panel,
             a + (at + n) * lda});  // the rows of the next call, in most cases
  });
}

// One shape of work for several forms: blocks of rows are prepared, then each panel of output
// channels is run over them. With few panels or small blocks a thread takes whole blocks, otherwise
// all threads share each block.
template <typename Prepare, typename Panel>
void run_blocks(const Problem& p, int64_t items, int64_t together, int64_t panels,
                int64_t shared_floats, int64_t own_floats, const Prepare& prepare,
                const Panel& panel, bool small = false) {
  const int64_t blocks = ceil_div(items, together);
  const int threads = p.threads;
  const bool apart = threads > 1 && (small || panels < 2 * threads) && blocks >= threads;
  float* shared = apart ? nullptr : shared_scratch.get(shared_floats);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    if (apart) {
      float* rows = shared_scratch.get(shared_floats);
      float* own = own_scratch.get(own_floats);
#pragma omp for schedule(dynamic)
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * together, n = std::min(together, items - first);
        for (int64_t i = 0; i < n; ++i) prepare(rows, own, first, n, i);
        for (int64_t i = 0; i < panels; ++i) panel(rows, own, first, n, i);
      }
    } else {
      float* own = own_scratch.get(own_floats);
      for (int64_t first = 0; first < items; first += together) {
        const int64_t n = std::min(together, items - first);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; ++i) prepare(shared, own, first, n, i);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < panels; ++i) panel(shared, own, first, n, i);
      }
    }
  }
}

struct Place {
  int64_t image, y, x;
};
Place place(int64_t item, int64_t down, int64_t across) {
  return {item / (down * across), item / across % down, item % across};
}

// Results of a fast form that are not finite are summed again, plainly: its inner values are not
// finite, or overflow, in more places than those of the plain sum.
struct PlainSum {
  const Problem& p;

  int64_t offset(int64_t image, int64_t y, int64_t x) const {
    const int64_t pixel = image * p.height * p.width * p.inputs;
    return pixel + (y * p.width + x) * (p.planes ? 1 : p.inputs);
  }
  int64_t step() const { return p.planes ? p.height * p.width : 1; }

  // f(first channel of the pixel, tap) for all that lie in the picture.
  template <typename F>
  void window(Place at, const F& f) const {
    const int64_t y = at.y * p.stride - p.pad, x = at.x * p.stride - p.pad;
    for (int64_t r = std::max<int64_t>(0, -y); r < p.kernel_h && y + r < p.height; ++r)
      for (int64_t c = std::max<int64_t>(0, -x); c < p.kernel_w && x + c < p.width; ++c)
        f(p.x + offset(at.image, y + r, x + c), p.kernel_w * r + c);
  }

  bool has_nan(Place at) const {
    bool found = false;
    window(at, [&](const float* pixel, int64_t) {
      for (int64_t i = 0; i < p.inputs && !found; ++i)
        found = pixel[i * step()] != pixel[i * step()];
    });
    return found;
  }

  float at(Place at, int64_t output) const {
    float sum = 0;
    const int64_t taps = int64_t(p.kernel_h) * p.kernel_w, all = taps * p.inputs;
    const float* weights = p.w.rows(output * all, 0, 1, all).at;
    window(at, [&](const float* pixel, int64_t tap) {
      const float* w = weights + tap;
      for (int64_t i = 0; i < p.inputs; ++i) sum += pixel[i * step()] * w[i * taps];
    });
    return sum;
  }

  // y and residual: what belongs to `place` and channel `first`, their channels `apart`.
  void repair(Place place, float* y, const float* residual, int64_t apart, int64_t first,
              int outs) const {
    const float* bias = p.bias ? p.bias + place.image * p.bias_step + first : nullptr;
    const bool nan = has_nan(place);
    for (int o = 0; o < outs; ++o) {
      float& result = y[o * apart];
      if (std::isfinite(result)) continue;
      float sum = nan ? NAN : at(place, first + o);
      if (bias) sum += bias[o];
      if (residual) sum += residual[o * apart];
      result = sum < 0 ? (p.slope == 0 ? 0 : p.slope == 1 ? sum : sum * p.slope) : sum;
    }
  }
};
