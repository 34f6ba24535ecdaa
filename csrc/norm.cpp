// group_norm_silu, layer_norm and geglu on the CPU: one pass to measure, one to apply; memory is
// their limit.
#include <algorithm>
#include <cmath>
#include <vector>

#define ACCEL_VECTOR_CODE "norm_rows.h"
#include "binding.h"
#include "simd.h"

namespace accel {
namespace {

constexpr int64_t kWorthThreads = 1 << 15;  // values; below, starting threads costs more
constexpr int64_t kNear = 1 << 17;          // values that stay near beside others
constexpr int64_t kFar = 1 << 20;           // values of a result that no near cache would keep
constexpr int64_t kPixels = 64;             // a block of channels-last statistics

struct Group {
  const float *x, *weight, *bias;
  float* y;
  int64_t images, channels, pixels, groups;
  double eps;
  bool silu;
  int team;

  // Of `run` values that lie side by side, whether vectors of them may be written past the caches.
  bool past_caches(int64_t run) const {
    return images * channels * pixels >= kFar && run % 16 == 0 && uintptr_t(y) % 64 == 0;
  }
};

struct Moments {
  double sum = 0, squares = 0;  // of the values less a shift
};

void check(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("group_norm_silu: ") + what);
}

// y = (x - about) * scale + shift for every channel of one group, from the moments about `about`.
// The subtraction comes first because it is exact where values lie far from zero and close
// together.
void coefficients(const Group& g, int64_t group, const Moments& m, float* scale, float* shift) {
  const int64_t each = g.channels / g.groups;
  const double count = double(each) * g.pixels, off = m.sum / count;
  const double variance = m.squares / count - off * off;
  const double r = 1 / std::sqrt((variance < 0 ? 0 : variance) + g.eps);
  for (int64_t c = group * each; c < (group + 1) * each; ++c) {
    const double by = r * g.weight[c];
    *scale++ = float(by), *shift++ = float(g.bias[c] - off * by);
  }
}

// A group's values lie side by side: its statistics and its output need nobody else.
void planes_first(const Group& g) {
  const int64_t each = g.channels / g.groups, span = each * g.pixels, units = g.images * g.groups;
  const bool past_caches = g.past_caches(g.pixels);
#pragma omp parallel for num_threads(g.team) schedule(static)
  for (int64_t unit = 0; unit < units; ++unit) {
    const float* x = g.x + unit * span;
    const int64_t next = span <= kNear && unit + 1 < units ? span : 0;
    double found[2] = {};
    ACCEL_WIDEST(moments(x, span, x[0], found));
    std::vector<float> scale(each), shift(each);
    coefficients(g, unit % g.groups, {found[0], found[1]}, scale.data(), shift.data());
    for (int64_t c = 0; c < each; ++c)
      ACCEL_WIDEST(apply_run(x + c * g.pixels, g.y + unit * span + c * g.pixels, g.pixels, x[0],
                             scale[c], shift[c], g.silu, past_caches, x + c * g.pixels + next));
    if (past_caches) ACCEL_WIDEST(end_streams());
  }
}

// Blocks of pixels are summed apart and added in order, whoever summed them.
class ChannelsLast {
 public:
  explicit ChannelsLast(const Group& g)
      : g_(g),
        each_(g.channels / g.groups),
        blocks_((g.pixels + kPixels - 1) / kPixels),
        size_(g.pixels * g.channels),
        past_caches_(g.past_caches(g.channels)),
        about_(g.images * g.channels),
        sums_(g.images * blocks_ * g.groups * 2) {
    for (int64_t i = 0; i < g.images * g.groups; ++i)
      std::fill_n(about_.data() + i * each_, each_,
                  g.x[i / g.groups * size_ + i % g.groups * each_]);
  }

  // As many images at a time as stay near. A thread applies to the blocks it measured, and back
  // from where it ended: what was read last is still near.
  void run() {
    const int64_t together = std::max<int64_t>(1, kNear / size_), team = g_.team;
#pragma omp parallel num_threads(g_.team)
    {
      std::vector<float> s(g_.channels), q(g_.channels), scale(g_.channels), shift(g_.channels);
      for (int64_t image = 0; image < g_.images; image += together) {
        const int64_t first = image * blocks_;
        const int64_t count = std::min(together, g_.images - image) * blocks_;
#pragma omp for schedule(static)
        for (int64_t share = 0; share < team; ++share)
          for (int64_t i = count * share / team; i < count * (share + 1) / team; ++i)
            measure(first + i, s.data(), q.data());
#pragma omp for schedule(static) nowait
        for (int64_t share = 0; share < team; ++share)
          apply(first + count * share / team, first + count * (share + 1) / team, scale.data(),
                shift.data());
      }
    }
  }

 private:
  int64_t first_pixel(int64_t block) const { return block % blocks_ * kPixels; }
  int64_t place(int64_t block) const {
    return block / blocks_ * size_ + first_pixel(block) * g_.channels;
  }
  int64_t pixels(int64_t block) const { return std::min(kPixels, g_.pixels - first_pixel(block)); }

  const float* about(int64_t block) const { return about_.data() + block / blocks_ * g_.channels; }

  void measure(int64_t block, float* s, float* q) {
    ACCEL_WIDEST(
        pixel_moments(g_.x + place(block), pixels(block), g_.channels, about(block), s, q));
    double* into = sums_.data() + block * g_.groups * 2;
    for (int64_t group = 0; group < g_.groups; ++group, into += 2) {
      into[0] = into[1] = 0;
      for (int64_t c = group * each_; c < (group + 1) * each_; ++c)
        into[0] += s[c], into[1] += q[c];
    }
  }

  void settle(int64_t image, float* scale, float* shift) const {
    for (int64_t group = 0; group < g_.groups; ++group) {
      Moments m;
      for (int64_t block = image * blocks_; block < (image + 1) * blocks_; ++block) {
        const double* from = sums_.data() + (block * g_.groups + group) * 2;
        m.sum += from[0], m.squares += from[1];
      }
      coefficients(g_, group, m, scale + group * each_, shift + group * each_);
    }
  }

  void apply(int64_t first, int64_t end, float* scale, float* shift) const {
    for (int64_t i = end - 1; i >= first; --i) {
      if (i == end - 1 || i % blocks_ == blocks_ - 1) settle(i / blocks_, scale, shift);
      const float* x = g_.x + place(i);
      const float* ahead = i > first && first_pixel(i) ? x - kPixels * g_.channels : x;
      ACCEL_WIDEST(apply_pixels(x, g_.y + place(i), pixels(i), g_.channels, about(i), scale, shift,
                                g_.silu, past_caches_, ahead));
    }
    if (past_caches_) ACCEL_WIDEST(end_streams());
  }

  const Group& g_;
  const int64_t each_, blocks_, size_;
  const bool past_caches_;
  std::vector<float> about_;  // [image, channel] what is taken off values before they are summed
  std::vector<double> sums_;  // [image, block, group, 2]
};

// x and y: [N, C, ...] float32, side by side; with `last`, channels are the last in memory, as they
// are in name where there are three dimensions, [N, pixels, C].
void group_norm_cpu(ConstArray x, ConstArray weight, ConstArray bias, Array y, int64_t groups,
                    double eps, bool silu, bool last, int threads) {
  const auto real = nb::dtype<float>();
  check(x.ndim() >= 2 && y.ndim() == x.ndim() && x.dtype() == real && y.dtype() == real,
        "x and y must be float32 of two dimensions or more");
  for (size_t i = 0; i < x.ndim(); ++i) check(x.shape(i) == y.shape(i), "x and y differ in shape");
  const int64_t images = x.shape(0), channels = x.shape(last && x.ndim() == 3 ? 2 : 1);
  check(weight.dtype() == real && bias.dtype() == real && int64_t(weight.size()) == channels &&
            int64_t(bias.size()) == channels,
        "weight and bias must be float32 [C]");
  check(groups > 0 && channels % groups == 0, "groups must divide the channels");
  if (!x.size()) return;
  const int64_t pixels = int64_t(x.size()) / (images * channels);
  const Group g{static_cast<const float*>(x.data()),
                static_cast<const float*>(weight.data()),
                static_cast<const float*>(bias.data()),
                static_cast<float*>(y.data()),
                images,
                channels,
                pixels,
                groups,
                eps,
                silu,
                int64_t(x.size()) < kWorthThreads ? 1 : threads};
  nb::gil_scoped_release unlocked;
  last ? ChannelsLast(g).run() : planes_first(g);
}

// x: [..., 2 D] float32, y: [..., D], both side by side.
void geglu_cpu(ConstArray x, Array y, int threads) {
  const auto real = nb::dtype<float>();
  const size_t dims = y.ndim(), last = dims ? y.shape(dims - 1) : 0;
  if (!dims || x.ndim() != dims || x.dtype() != real || y.dtype() != real ||
      x.shape(dims - 1) != 2 * last || x.size() != 2 * y.size())
    throw std::invalid_argument("geglu: x must be float32 [..., 2 D] and y [..., D]");
  if (!y.size()) return;
  const int64_t width = last, rows = y.size() / last;
  const float* from = static_cast<const float*>(x.data());
  float* to = static_cast<float*>(y.data());
  const int team = rows * width < kWorthThreads ? 1 : threads;
  nb::gil_scoped_release unlocked;
  // Vectors must not straddle lines.
  const bool past_caches = rows * width >= kFar && width % 16 == 0 && uintptr_t(to) % 64 == 0;
#pragma omp parallel for num_threads(team) schedule(static)
  for (int64_t share = 0; share < team; ++share) {
    const int64_t first = rows * share / team, last = rows * (share + 1) / team;
    ACCEL_WIDEST(
        gate_rows(from + first * 2 * width, to + first * width, last - first, width, past_caches));
  }
}

// x and y: [..., D] float32 side by side; weight and bias: [D], or both without values.
void layer_norm_cpu(ConstArray x, ConstArray weight, ConstArray bias, Array y, double eps,
                    int threads) {
  const auto real = nb::dtype<float>();
  const size_t last = x.ndim() ? x.shape(x.ndim() - 1) : 0;
  if (!x.ndim() || x.dtype() != real || y.dtype() != real || weight.dtype() != real ||
      bias.dtype() != real || x.size() != y.size() || weight.size() != bias.size() ||
      (weight.size() && weight.size() != last))
    throw std::invalid_argument(
        "layer_norm: x and y must be float32 [..., D], weight and bias [D]");
  if (!x.size()) return;
  const int64_t width = last, rows = x.size() / last;
  const float* from = static_cast<const float*>(x.data());
  const float* by = weight.size() ? static_cast<const float*>(weight.data()) : nullptr;
  const float* on = weight.size() ? static_cast<const float*>(bias.data()) : nullptr;
  float* to = static_cast<float*>(y.data());
  const int team = rows * width < kWorthThreads ? 1 : threads;
  nb::gil_scoped_release unlocked;
#pragma omp parallel for num_threads(team) schedule(static)
  for (int64_t row = 0; row < rows; ++row)
    ACCEL_WIDEST(normalize_row(from + row * width, to + row * width, width, eps, by, on));
}

}  // namespace
}  // namespace accel

ACCEL_BIND(norm) {
  m.def("group_norm", &accel::group_norm_cpu, "x"_a, "weight"_a, "bias"_a, "y"_a, "groups"_a,
        "eps"_a, "silu"_a, "last"_a, "threads"_a);
  m.def("layer_norm", &accel::layer_norm_cpu, "x"_a, "weight"_a, "bias"_a, "y"_a, "eps"_a,
        "threads"_a);
  m.def("geglu", &accel::geglu_cpu, "x"_a, "y"_a, "threads"_a);
}
