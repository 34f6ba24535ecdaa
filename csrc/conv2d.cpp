// Two-dimensional convolution and matrix products of float32 on the CPU.
//
// 3x3 with stride 1 goes through Winograd's F(4x4), the rest through one packed matrix product over
// [taps, channels]. Weights stay as torch keeps them: a panel of output channels and a block of
// input channels is packed (and for Winograd expanded from 9 taps to 36) where it is used, in
// cache. That costs a few per cent of the arithmetic, needs no second copy of a network and no
// preparation, and on small maps reads a quarter of what expanded weights would.
//
// Every sum runs over blocks of input channels whose size follows from the shape of the weights
// alone, so the bytes of an image do not depend on the batch around it nor on the threads.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "binding.h"
#include "conv_kernels.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace accel {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

constexpr int64_t kAlign = 64, kPad = 16;    // bytes; floats between streams, see Winograd::step
constexpr int64_t kBlockWinograd = 128;      // input channels whose 36 planes are kept in cache
constexpr int64_t kBlockProduct = 320;       // length of a chain of multiply-adds elsewhere
constexpr int64_t kSub = 32;                 // input channels whose taps are packed at a time
constexpr int64_t kMaxT = 144;               // tiles that are worked on together, at most
constexpr int64_t kTileBytes = 8 << 20;      // transformed tiles that are worked on together
constexpr int64_t kMaxR = 1536;              // rows that are worked on together, at most
constexpr int64_t kRowBytes = 2 << 20;       // gathered rows that are worked on together
constexpr int64_t kExpandedBytes = 6 << 20;  // expanded weights small enough to keep for a call
constexpr int64_t kPixelBytes = 1 << 20;     // packed pixels that are worked on together

// Memory that grows and is kept by its thread: new pages cost more than many a convolution.
struct Scratch {
  float* data = nullptr;
  int64_t size = 0;
  ~Scratch() { release(); }
  void release() {
    ::operator delete[](data, std::align_val_t(kAlign));
    data = nullptr;
  }
  float* get(int64_t floats) {
    if (floats > size) {
      release();
      size = 0;
      data = static_cast<float*>(::operator new[](floats * 4, std::align_val_t(kAlign)));
      size = floats;
    }
    return data;
  }
};
// Used by the thread that calls / by every thread of the team.
thread_local Scratch shared_scratch, expanded_scratch, turned_in, turned_out, turned_residual,
    own_scratch;

const ConvKernels* choose() {
  const char* wanted = std::getenv("ACCEL_CONV_ISA");
  const auto takes = [&](const ConvKernels* k) {
    return k && (!wanted || !*wanted || std::string(wanted) == k->name);
  };
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (takes(conv_avx512()) && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw"))
    return conv_avx512();
  if (takes(conv_avx2()) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return conv_avx2();
#endif
  return conv_plain();
}

const ConvKernels& kernels() {
  static const ConvKernels* const chosen = choose();
  return *chosen;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

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

struct Problem {
  const float *x, *w, *bias, *residual;  // x [N, H, W, C], w [O, C, kh, kw], residual like y
  float* y;                              // [N, out_h, out_w, O]
  int64_t count, height, width, inputs, outputs, out_height, out_width;
  int kernel_h, kernel_w, stride, pad;
  int64_t bias_step;  // 0: one bias; O: one for each image
  float slope;
  int threads;
};

// Lines of `rows` short pieces, a step apart: too short for the CPU to foresee by itself. Fetched
// before the sums that go there are begun, they have come when those are done.
void expect(const float* at, int64_t rows, int64_t step, int64_t floats) {
#if defined(__GNUC__)
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < floats; i += kPad) __builtin_prefetch(at + r * step + i, 1);
#endif
}

void multiply(const ConvKernels& k, const float* a, int64_t lda, const float* b, float* c,
              int64_t rows, int64_t depth, bool accumulate) {
  // Remainders are spread: 13 rows are 7 and 6, for a short call hides no latency.
  const int64_t calls = ceil_div(rows, k.rows);
  for (int64_t i = 0, at = 0; i < calls; ++i) {
    const int64_t n = (rows - at + calls - i - 1) / (calls - i);
    k.micro(int(n), a + at * lda, lda, b, c + at * k.panel, k.panel, depth, accumulate);
    at += n;
  }
}

// One shape of work for both algorithms: blocks of rows are prepared, then each panel of output
// channels is run over them. With few panels a thread takes whole blocks, otherwise all threads
// share each block.
template <typename Prepare, typename Panel>
void run_blocks(const Problem& p, int64_t items, int64_t together, int64_t panels,
                int64_t shared_floats, int64_t own_floats, const Prepare& prepare,
                const Panel& panel) {
  const int64_t blocks = ceil_div(items, together);
  const int threads = p.threads;
  const bool apart = threads > 1 && panels < 2 * threads && blocks >= threads;
  float* shared = apart ? nullptr : shared_scratch.get(shared_floats);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    if (apart) {
      float* rows = shared_scratch.get(shared_floats);
      float* own = own_scratch.get(own_floats);
#pragma omp for schedule(dynamic)
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * together, n = std::min(together, items - first);
        for (int64_t i = 0; i < n; ++i) prepare(rows, first, n, i);
        for (int64_t i = 0; i < panels; ++i) panel(rows, own, first, n, i);
      }
    } else {
      float* own = own_scratch.get(own_floats);
      for (int64_t first = 0; first < items; first += together) {
        const int64_t n = std::min(together, items - first);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; ++i) prepare(shared, first, n, i);
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

// ---- Winograd F(4x4, 3x3) ----------------------------------------------------------------------

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
      repair(at, pixels, residuals, bias, panel, outs);
  }

  // The transform spreads what is not finite over its tile, and may overflow where the plain sum
  // does not: such results are summed again, plainly.
  void repair(Place at, float* const* pixels, const float* const* residuals, const float* bias,
              int64_t panel, int outs) const {
    for (int64_t i = 0; i < 16; ++i) {
      if (!pixels[i]) continue;
      const int64_t y = at.y * kTile + i / kTile - p.pad, x = at.x * kTile + i % kTile - p.pad;
      const bool nan = window_has_nan(at.image, y, x);
      for (int o = 0; o < outs; ++o) {
        if (std::isfinite(pixels[i][o])) continue;
        float sum = nan ? NAN : plain_sum(at.image, y, x, panel * k.panel + o);
        if (bias) sum += bias[o];
        if (p.residual) sum += residuals[i][o];
        pixels[i][o] = sum < 0 ? (p.slope == 0 ? 0 : p.slope == 1 ? sum : sum * p.slope) : sum;
      }
    }
  }

  template <typename F>
  void window(int64_t image, int64_t y, int64_t x, const F& f) const {
    for (int64_t r = std::max<int64_t>(0, -y); r < 3 && y + r < p.height; ++r)
      for (int64_t c = std::max<int64_t>(0, -x); c < 3 && x + c < p.width; ++c)
        f(p.x + ((image * p.height + y + r) * p.width + x + c) * p.inputs, 3 * r + c);
  }

  bool window_has_nan(int64_t image, int64_t y, int64_t x) const {
    bool found = false;
    window(image, y, x, [&](const float* pixel, int64_t) {
      for (int64_t i = 0; i < p.inputs; ++i) found |= pixel[i] != pixel[i];
    });
    return found;
  }

  float plain_sum(int64_t image, int64_t y, int64_t x, int64_t output) const {
    float sum = 0;
    window(image, y, x, [&](const float* pixel, int64_t tap) {
      const float* w = p.w + output * p.inputs * 9 + tap;
      for (int64_t i = 0; i < p.inputs; ++i) sum += pixel[i] * w[i * 9];
    });
    return sum;
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

// ---- everything else: rows of [taps, channels] times weights -----------------------------------

constexpr int64_t kGroup = 4;  // calls of `micro` whose sums are written together
struct Product {
  const ConvKernels& k;
  const Problem& p;
  int64_t taps;
  Blocks blocks;
  int64_t rows, together, panels;
  bool direct;  // the rows lie in x as they are needed

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

  void run_panel(const float* a, float* own, int64_t first, int64_t n, int64_t panel) const {
    float *c = own, *packed = own + kGroup * k.rows * k.panel;
    const int outs = int(std::min<int64_t>(k.panel, p.outputs - panel * k.panel));
    for (int64_t b = 0; b < blocks.count; ++b) {
      const float* w = p.w + (panel * k.panel * p.inputs + blocks.first(b)) * taps;
      k.pack(w, p.inputs * taps, outs, blocks.width(b), int(taps),
             packed + taps * blocks.first(b) * k.panel, blocks.padded_width(b));
    }
    // A few rows through all blocks, so that their sums are still near when they are written.
    for (int64_t i = 0; i < n; i += kGroup * k.rows) {
      const int64_t some = std::min<int64_t>(kGroup * k.rows, n - i);
      for (int64_t b = 0; b < blocks.count; ++b) {
        const float* rows = direct ? p.x + (first + i) * p.inputs + blocks.first(b)
                                   : a + a_start(n, b) + i * depth(b);
        multiply(k, rows, direct ? p.inputs : depth(b), packed + taps * blocks.first(b) * k.panel,
                 c, some, depth(b), b > 0);
      }
      write(c, first + i, some, panel, outs);
    }
  }

  void write(const float* c, int64_t first, int64_t n, int64_t panel, int outs) const {
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
    run_blocks(
        p, rows, together, panels, direct ? 0 : together * taps * blocks.padded,
        kGroup * k.rows * k.panel + taps * blocks.padded * k.panel,
        [&](float* a, int64_t first, int64_t n, int64_t i) { gather(a, first, n, i); },
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

  // Rows 2^n apart would fight for one set of the cache.
  int64_t row_step() const { return blocks.padded + kPad; }

  // A share of the channels of all n items, for the pixels of a channel lie side by side.
  void gather(float* to, int64_t first, int64_t n, int64_t share) const {
    for (int64_t c = blocks.padded * share / n; c < blocks.padded * (share + 1) / n; ++c)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t image = (first + i) / an_image, at = (first + i) % an_image * k.panel;
        if (c + 2 < p.inputs) expect(p.x + (image * p.inputs + c + 2) * size + at, 1, 0, k.panel);
        const int64_t some = c < p.inputs ? std::min<int64_t>(k.panel, size - at) : 0;
        float* row = to + i * step + c * k.panel;
        if (some == k.panel) {
          std::copy_n(p.x + (image * p.inputs + c) * size + at, k.panel, row);
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
      float* end = std::copy_n(p.w + (begin + i) * p.inputs, p.inputs, rows + i * row_step());
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
        [&](float* to, int64_t first, int64_t n, int64_t i) { gather(to, first, n, i); },
        [&](const float* pixels, float* own, int64_t first, int64_t n, int64_t at) {
          run_group(pixels, own, first, n, at);
        });
  }
};

// ---- layouts and the binding -------------------------------------------------------------------

// [N, rows, columns] -> [N, columns, rows]
void turn_all(const ConvKernels& k, const float* in, float* out, int64_t count, int64_t rows,
              int64_t columns, int threads) {
  const int64_t strip = 64, strips = ceil_div(columns, strip);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t i = 0; i < count * strips; ++i) {
    const int64_t image = i / strips, at = i % strips * strip;
    k.turn(in + image * rows * columns + at, columns, rows, std::min(strip, columns - at),
           out + (image * columns + at) * rows, rows);
  }
}

void run(Problem p, bool channels_last) {
  if (!p.count || !p.outputs || !p.out_height || !p.out_width) return;
  const ConvKernels& k = kernels();
  const int64_t in_size = p.height * p.width, out_size = p.out_height * p.out_width;
  float* const y = p.y;
  const bool point = p.kernel_h == 1 && p.kernel_w == 1 && p.stride == 1 && p.pad == 0;
  if (!channels_last && point && in_size > 1) return PlaneProduct(k, p).run();
  if (!channels_last && in_size > 1) {
    float* x = turned_in.get(p.count * in_size * p.inputs);
    turn_all(k, p.x, x, p.count, p.inputs, in_size, p.threads);
    p.x = x;
  }
  const bool turn_out = !channels_last && out_size > 1;
  if (turn_out) {
    p.y = turned_out.get(p.count * out_size * p.outputs);
    if (p.residual) {
      float* residual = turned_residual.get(p.count * out_size * p.outputs);
      turn_all(k, p.residual, residual, p.count, p.outputs, out_size, p.threads);
      p.residual = residual;
    }
  }
  if (p.kernel_h == 3 && p.kernel_w == 3 && p.stride == 1)
    Winograd(k, p).run();
  else
    Product(k, p).run();
  if (turn_out) turn_all(k, p.y, y, p.count, out_size, p.outputs, p.threads);
}

const float* optional(const char* name, const std::optional<Floats>& a, int64_t size) {
  if (!a) return nullptr;
  if (int64_t(a->size()) != size)
    throw std::invalid_argument(std::string("conv2d: ") + name + " is of a wrong size");
  return a->data();
}

void conv2d(Floats x, Floats w, std::optional<Floats> bias, std::optional<Floats> residual,
            Output out, int stride, int pad, float slope, bool channels_last, int threads) {
  if (x.ndim() != 4 || w.ndim() != 4 || out.ndim() != 4 || stride < 1 || pad < 0)
    throw std::invalid_argument("conv2d: x, w and out must have 4 dimensions, stride be 1 or more");
  const int h = channels_last ? 1 : 2, c = channels_last ? 3 : 1;
  Problem p = {};
  p.count = x.shape(0), p.height = x.shape(h), p.width = x.shape(h + 1), p.inputs = x.shape(c);
  p.out_height = out.shape(h), p.out_width = out.shape(h + 1), p.outputs = out.shape(c);
  p.kernel_h = int(w.shape(2)), p.kernel_w = int(w.shape(3));
  p.stride = stride, p.pad = pad, p.slope = slope, p.threads = std::max(1, threads);
  const auto length = [&](int64_t size, int64_t kernel) {
    return (size + 2 * pad - kernel) / stride + 1;
  };
  if (int64_t(out.shape(0)) != p.count || int64_t(w.shape(0)) != p.outputs ||
      int64_t(w.shape(1)) != p.inputs || !p.kernel_h || !p.kernel_w || !p.inputs ||
      p.height + 2 * pad < p.kernel_h || p.width + 2 * pad < p.kernel_w ||
      p.out_height != length(p.height, p.kernel_h) || p.out_width != length(p.width, p.kernel_w))
    throw std::invalid_argument("conv2d: shapes of x, w and out do not fit each other");
  const int64_t each = p.count * p.outputs;
  const bool every = bias && bias->ndim() == 2;  // a bias for each image
  p.bias = optional("bias", bias, every ? each : p.outputs);
  p.bias_step = every ? p.outputs : 0;
  p.residual = optional("residual", residual, int64_t(out.size()));
  p.x = x.data(), p.w = w.data(), p.y = out.data();
  nb::gil_scoped_release unlocked;
  run(p, channels_last);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(conv2d) {
  m.def("conv2d", &accel::conv2d, "x"_a, "w"_a, "bias"_a.none(), "residual"_a.none(), "out"_a,
        "stride"_a, "pad"_a, "slope"_a, "channels_last"_a, "threads"_a);
  m.def(
      "conv_isa", [] { return accel::kernels().name; },
      "Instruction set that the convolutions use here.");
}
