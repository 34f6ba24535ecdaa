// group_norm_silu, layer_norm and geglu on the CPU: one pass to measure, one to apply; memory is
// their limit.
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
      : g_(g), each_(g.channels / g.groups), blocks_((g.pixels + kPixels - 1) / kPixels) {}

  // Image by image, and back from where the statistics ended: what was read last is still near.
  void run() {
    std::vector<double> sums(blocks_ * g_.groups * 2);
    std::vector<float> about(g_.channels), scale(about), shift(about);
    const bool past_caches = g_.past_caches(g_.channels);
#pragma omp parallel num_threads(g_.team)
    {
      std::vector<float> s(g_.channels), q(g_.channels);
      for (int64_t image = 0; image < g_.images; ++image) {
        const float* picture = g_.x + image * g_.pixels * g_.channels;
#pragma omp single
        for (int64_t c = 0; c < g_.channels; ++c) about[c] = picture[c / each_ * each_];
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks_; ++block)
          measure(picture, block, about.data(), s.data(), q.data(), sums.data());
#pragma omp single
        settle(sums.data(), scale.data(), shift.data());
#pragma omp for schedule(static)
        for (int64_t i = 0; i < blocks_; ++i) {
          const int64_t first = (blocks_ - 1 - i) * kPixels;
          const int64_t at = first * g_.channels;
          const float* ahead = picture + (i + 1 < blocks_ ? at - kPixels * g_.channels : at);
          ACCEL_WIDEST(apply_pixels(picture + at, g_.y + (picture - g_.x) + at, count(first),
                                    g_.channels, about.data(), scale.data(), shift.data(), g_.silu,
                                    past_caches, ahead));
          if (past_caches) ACCEL_WIDEST(end_streams());
        }
      }
    }
  }

 private:
  int64_t count(int64_t first) const {
    return first + kPixels < g_.pixels ? kPixels : g_.pixels - first;
  }

  void measure(const float* picture, int64_t block, const float* about, float* s, float* q,
               double* sums) const {
    const int64_t first = block * kPixels;
    ACCEL_WIDEST(
        pixel_moments(picture + first * g_.channels, count(first), g_.channels, about, s, q));
    double* into = sums + block * g_.groups * 2;
    for (int64_t group = 0; group < g_.groups; ++group, into += 2) {
      into[0] = into[1] = 0;
      for (int64_t c = group * each_; c < (group + 1) * each_; ++c)
        into[0] += s[c], into[1] += q[c];
    }
  }

  void settle(const double* sums, float* scale, float* shift) const {
    for (int64_t group = 0; group < g_.groups; ++group) {
      Moments m;
      for (int64_t block = 0; block < blocks_; ++block) {
        const double* from = sums + (block * g_.groups + group) * 2;
        m.sum += from[0], m.squares += from[1];
      }
      coefficients(g_, group, m, scale + group * each_, shift + group * each_);
    }
  }

  const Group& g_;
  const int64_t each_, blocks_;
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
