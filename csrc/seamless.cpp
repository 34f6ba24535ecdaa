// Poisson cloning on the CPU: what the matrix products of accel/kernels/seamless.py are fed with,
// the tridiagonal systems between them, and what is made of their result.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "binding.h"
#include "clones.h"

namespace accel {
namespace {

using Floats = Given<const float, nb::c_contig, nb::device::cpu>;
using Output = Given<float, nb::c_contig, nb::device::cpu>;
using Bytes = Given<const uint8_t, nb::c_contig, nb::device::cpu>;

// One if every mask pixel within `margin` along the row is set; what lies outside is not.
ACCEL_CLONES
void narrow_row(const uint8_t* __restrict__ mask, int64_t width, int margin,
                uint8_t* __restrict__ out) {
  std::fill(out, out + width, uint8_t(0));
  if (width <= 2 * margin) return;
  for (int64_t x = margin; x < width - margin; ++x) out[x] = 1;
  for (int d = -margin; d <= margin; ++d)
    for (int64_t x = margin; x < width - margin; ++x) out[x] &= mask[x + d];
}

std::vector<float> drawn_in(const uint8_t* mask, int64_t height, int64_t width, int margin) {
  std::vector<uint8_t> narrow(height * width);
  std::vector<float> out(height * width, 0.0f);
  for (int64_t y = 0; y < height; ++y)
    narrow_row(mask + y * width, width, margin, narrow.data() + y * width);
  std::vector<uint8_t> all(width);
  for (int64_t y = margin; y < height - margin; ++y) {
    std::fill(all.begin(), all.end(), uint8_t(1));
    for (int64_t d = -margin; d <= margin; ++d)
      for (int64_t x = 0; x < width; ++x) all[x] &= narrow[(y + d) * width + x];
    for (int64_t x = 0; x < width; ++x) out[y * width + x] = float(all[x]);
  }
  return out;
}

// A row of div(mask · ∇(source - target)); `above` is the row before in each array.
ACCEL_CLONES
void divergence(const float* __restrict__ s, const float* __restrict__ t,
                const float* __restrict__ m, int64_t width, float* __restrict__ out) {
  const float *sa = s - width, *sb = s + width, *ta = t - width, *tb = t + width, *ma = m - width;
#pragma omp simd
  for (int64_t x = 1; x < width - 1; ++x) {
    const float here = s[x] - t[x];
    const float right = m[x] * (s[x + 1] - t[x + 1] - here);
    const float left = m[x - 1] * (here - (s[x - 1] - t[x - 1]));
    const float down = m[x] * (sb[x] - tb[x] - here);
    const float up = ma[x] * (here - (sa[x] - ta[x]));
    out[x - 1] = (right - left) + (down - up);
  }
}

void seamless_fold(Floats source, Floats target, Bytes mask, Output sums, Output differences,
                   int margin, int threads) {
  if (source.ndim() != 4 || mask.ndim() != 3 || target.size() != source.size())
    throw std::invalid_argument("seamless_fold: pictures must be [N, C, H, W], masks [N, H, W]");
  const int64_t count = source.shape(0), channels = source.shape(1), height = source.shape(2),
                width = source.shape(3), columns = width - 2, half = (columns + 1) / 2;
  const int64_t lines = count * channels * (height - 2);
  if (height < 3 || width < 3 || int64_t(mask.size()) != count * height * width ||
      int64_t(sums.size()) != lines * half || margin < 0 ||
      int64_t(differences.size()) != lines * (columns - half))
    throw std::invalid_argument("seamless_fold: sizes do not fit");
  const float *s = source.data(), *t = target.data();
  const uint8_t* m = mask.data();
  float *even = sums.data(), *odd = differences.data();
  nb::gil_scoped_release unlocked;
  std::vector<std::vector<float>> inside;
  for (int64_t i = 0; i < count; ++i)
    inside.push_back(drawn_in(m + i * height * width, height, width, margin));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<float> row(columns);
#pragma omp for
    for (int64_t line = 0; line < lines; ++line) {
      const int64_t picture = line / (height - 2), y = line % (height - 2) + 1;
      const int64_t at = (picture * height + y) * width;
      divergence(s + at, t + at, inside[picture / channels].data() + y * width, width, row.data());
      float *e = even + line * half, *o = odd + line * (columns - half);
      for (int64_t x = 0; x < columns - half; ++x) {
        e[x] = row[x] + row[columns - 1 - x];
        o[x] = row[x] - row[columns - 1 - x];
      }
      if (columns % 2) e[half - 1] = row[half - 1];
    }
  }
}

// In each column u[i-1] + (step - 2) u[i] + u[i+1] = spectrum[i], zero beyond both ends.
ACCEL_CLONES
void solve_block(float* __restrict__ u, const float* __restrict__ back, int64_t rows,
                 int64_t stride, int64_t wide, float scale) {
  for (int64_t x = 0; x < wide; ++x) u[x] *= back[x] * scale;
  for (int64_t i = 1; i < rows; ++i) {
    float* __restrict__ row = u + i * stride;
    const float* before = row - stride;
    const float* b = back + i * wide;
#pragma omp simd
    for (int64_t x = 0; x < wide; ++x) row[x] = (row[x] * scale - before[x]) * b[x];
  }
  for (int64_t i = rows - 2; i >= 0; --i) {
    float* __restrict__ row = u + i * stride;
    const float* after = row + stride;
    const float* b = back + i * wide;
#pragma omp simd
    for (int64_t x = 0; x < wide; ++x) row[x] -= b[x] * after[x];
  }
}

void seamless_solve(Output spectrum, Floats steps, int64_t rows, float scale, int threads) {
  if (spectrum.ndim() != 2 || spectrum.shape(1) != steps.size() || rows < 1 ||
      spectrum.shape(0) % rows)
    throw std::invalid_argument("seamless_solve: spectrum must be [pictures · rows, steps]");
  const int64_t columns = spectrum.shape(1), pictures = spectrum.shape(0) / rows;
  float* u = spectrum.data();
  const float* step = steps.data();
  nb::gil_scoped_release unlocked;
  constexpr int64_t kWide = 64;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<float> back(rows * kWide);
#pragma omp for schedule(dynamic)
    for (int64_t block = 0; block < (columns + kWide - 1) / kWide; ++block) {
      const int64_t first = block * kWide, wide = std::min(kWide, columns - first);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t x = 0; x < wide; ++x) {
          const float before = i ? back[(i - 1) * wide + x] : 0.0f;
          back[i * wide + x] = 1.0f / (step[first + x] - 2.0f - before);
        }
      for (int64_t p = 0; p < pictures; ++p)
        solve_block(u + p * rows * columns + first, back.data(), rows, columns, wide, scale);
    }
  }
}

inline float unit(float v) { return v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v; }

ACCEL_CLONES
void add_halves(const float* __restrict__ t, const float* __restrict__ e,
                const float* __restrict__ o, int64_t columns, float* __restrict__ out) {
  const int64_t half = (columns + 1) / 2, rest = columns - half;
  for (int64_t x = 0; x < rest; ++x) out[x] = unit(t[x] + e[x] + o[x]);
  if (columns % 2) out[rest] = unit(t[rest] + e[rest]);
  for (int64_t x = 0; x < rest; ++x) {
    const int64_t at = columns - 1 - x;
    out[at] = unit(t[at] + e[x] - o[x]);
  }
}

void seamless_unfold(Floats target, Floats sums, Floats differences, Output out, int threads) {
  if (target.ndim() != 4 || out.size() != target.size())
    throw std::invalid_argument("seamless_unfold: target and out must be [N, C, H, W]");
  const int64_t pictures = target.shape(0) * target.shape(1), height = target.shape(2),
                width = target.shape(3), columns = width - 2, half = (columns + 1) / 2;
  if (height < 3 || width < 3 || int64_t(sums.size()) != pictures * (height - 2) * half ||
      int64_t(differences.size()) != pictures * (height - 2) * (columns - half))
    throw std::invalid_argument("seamless_unfold: sizes do not fit");
  const float *t = target.data(), *e = sums.data(), *o = differences.data();
  float* to = out.data();
  nb::gil_scoped_release unlocked;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t line = 0; line < pictures * height; ++line) {
    const int64_t picture = line / height, y = line % height, at = line * width;
    if (y == 0 || y == height - 1) {
      for (int64_t x = 0; x < width; ++x) to[at + x] = unit(t[at + x]);
      continue;
    }
    const int64_t inner = picture * (height - 2) + y - 1;
    to[at] = unit(t[at]);
    to[at + width - 1] = unit(t[at + width - 1]);
    add_halves(t + at + 1, e + inner * half, o + inner * (columns - half), columns, to + at + 1);
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(seamless) {
  m.def("seamless_fold", &accel::seamless_fold, "source"_a, "target"_a, "mask"_a, "sums"_a,
        "differences"_a, "margin"_a, "threads"_a);
  m.def("seamless_solve", &accel::seamless_solve, "spectrum"_a, "steps"_a, "rows"_a, "scale"_a,
        "threads"_a);
  m.def("seamless_unfold", &accel::seamless_unfold, "target"_a, "sums"_a, "differences"_a, "out"_a,
        "threads"_a);
}
