// group_norm_silu and geglu on the CPU: one pass to measure, one to apply; memory is their limit.
#include <cmath>
#include <vector>

#define ACCEL_VECTOR_CODE "norm_rows.h"
#include "binding.h"
#include "simd.h"

namespace accel {
namespace {

constexpr int64_t kWorthThreads = 1 << 15;  // values; below, starting threads costs more
constexpr int64_t kPixels = 64;             // a block of channels-last statistics

struct Group {
  const float *x, *weight, *bias;
  float* y;
  int64_t images, channels, pixels, groups;
  double eps;
  bool silu;
  int team;
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
  const int64_t each = g.channels / g.groups, span = each * g.pixels;
#pragma omp parallel for num_threads(g.team) schedule(static)
  for (int64_t unit = 0; unit < g.images * g.groups; ++unit) {
    const float* x = g.x + unit * span;
    double found[2] = {};
    ACCEL_WIDEST(moments(x, span, x[0], found));
    std::vector<float> scale(each), shift(each);
    coefficients(g, unit % g.groups, {found[0], found[1]}, scale.data(), shift.data());
    for (int64_t c = 0; c < each; ++c)
      ACCEL_WIDEST(apply_run(x + c * g.pixels, g.y + unit * span + c * g.pixels, g.pixels, x[0],
                             scale[c], shift[c], g.silu));
  }
}

// Blocks of pixels are summed apart and added in order, whoever summed them.
void channels_last(const Group& g) {
  const int64_t each = g.channels / g.groups, blocks = (g.pixels + kPixels - 1) / kPixels;
  std::vector<double> sums(g.images * blocks * g.groups * 2);
  std::vector<float> scale(g.images * g.channels), shift(scale), about(scale);
  for (int64_t i = 0; i < g.images * g.channels; ++i)
    about[i] = g.x[i / g.channels * g.pixels * g.channels + i % g.channels / each * each];
#pragma omp parallel for num_threads(g.team) schedule(static)
  for (int64_t unit = 0; unit < g.images * blocks; ++unit) {
    const int64_t image = unit / blocks, first = unit % blocks * kPixels;
    const int64_t count = first + kPixels < g.pixels ? kPixels : g.pixels - first;
    const float* picture = g.x + image * g.pixels * g.channels;
    std::vector<float> s(g.channels), q(g.channels);
    ACCEL_WIDEST(pixel_moments(picture + first * g.channels, count, g.channels,
                               about.data() + image * g.channels, s.data(), q.data()));
    double* into = sums.data() + unit * g.groups * 2;
    for (int64_t c = 0; c < g.channels; ++c)
      into[c / each * 2] += s[c], into[c / each * 2 + 1] += q[c];
  }
  for (int64_t image = 0; image < g.images; ++image)
    for (int64_t group = 0; group < g.groups; ++group) {
      Moments m;
      for (int64_t b = 0; b < blocks; ++b) {
        const double* from = sums.data() + ((image * blocks + b) * g.groups + group) * 2;
        m.sum += from[0], m.squares += from[1];
      }
      const int64_t at = image * g.channels + group * each;
      coefficients(g, group, m, scale.data() + at, shift.data() + at);
    }
#pragma omp parallel for num_threads(g.team) schedule(static)
  for (int64_t unit = 0; unit < g.images * blocks; ++unit) {
    const int64_t image = unit / blocks, first = unit % blocks * kPixels;
    const int64_t count = first + kPixels < g.pixels ? kPixels : g.pixels - first;
    const int64_t at = (image * g.pixels + first) * g.channels;
    const int64_t c = image * g.channels;
    ACCEL_WIDEST(apply_pixels(g.x + at, g.y + at, count, g.channels, about.data() + c,
                              scale.data() + c, shift.data() + c, g.silu));
  }
}

// x and y: [N, C, pixels] float32, side by side; or [N, pixels, C] when `last`.
void group_norm_cpu(ConstArray x, ConstArray weight, ConstArray bias, Array y, int64_t groups,
                    double eps, bool silu, bool last, int threads) {
  const auto real = nb::dtype<float>();
  check(x.ndim() == 3 && y.ndim() == 3 && x.dtype() == real && y.dtype() == real,
        "x and y must be float32 of three dimensions");
  const int64_t images = x.shape(0), channels = x.shape(last ? 2 : 1);
  const int64_t pixels = x.shape(last ? 1 : 2);
  for (int i = 0; i < 3; ++i) check(x.shape(i) == y.shape(i), "x and y must have one shape");
  check(weight.dtype() == real && bias.dtype() == real && int64_t(weight.size()) == channels &&
            int64_t(bias.size()) == channels,
        "weight and bias must be float32 [C]");
  check(groups > 0 && channels % groups == 0, "groups must divide the channels");
  if (!x.size()) return;
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
  last ? channels_last(g) : planes_first(g);
}

// x: [rows, 2 D] float32, y: [rows, D], both side by side.
void geglu_cpu(ConstArray x, Array y, int threads) {
  const auto real = nb::dtype<float>();
  if (x.ndim() != 2 || y.ndim() != 2 || x.dtype() != real || y.dtype() != real ||
      x.shape(0) != y.shape(0) || x.shape(1) != 2 * y.shape(1))
    throw std::invalid_argument("geglu: x must be float32 [rows, 2 D] and y [rows, D]");
  const int64_t rows = x.shape(0), width = y.shape(1);
  const float* from = static_cast<const float*>(x.data());
  float* to = static_cast<float*>(y.data());
  const int team = rows * width < kWorthThreads ? 1 : threads;
  nb::gil_scoped_release unlocked;
#pragma omp parallel for num_threads(team) schedule(static)
  for (int64_t row = 0; row < rows; ++row)
    ACCEL_WIDEST(
        gate_row(from + row * 2 * width, from + row * 2 * width + width, to + row * width, width));
}

}  // namespace
}  // namespace accel

ACCEL_BIND(norm) {
  m.def("group_norm", &accel::group_norm_cpu, "x"_a, "weight"_a, "bias"_a, "y"_a, "groups"_a,
        "eps"_a, "silu"_a, "last"_a, "threads"_a);
  m.def("geglu", &accel::geglu_cpu, "x"_a, "y"_a, "threads"_a);
}
