// Lab statistics, light on a grid, and relighting, for float32 crops on the CPU.
//
// Sums are kept in a fixed number of lanes and rows are merged in order, so that the result depends
// neither on the CPU's vector width nor on the number of threads.
#include "color.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "binding.h"
#include "clones.h"
#include "moments.h"

namespace accel {
namespace {

using Floats = Given<const float, nb::c_contig, nb::device::cpu>;
using Output = Given<float, nb::c_contig, nb::device::cpu>;

constexpr int kLanes = 16;

// Four rows of numbers: Lab and the weight, which is zero where the pixel does not count.
struct LabRow {
  std::vector<float> l, a, b, w;
  explicit LabRow(int64_t width) : l(width), a(width), b(width), w(width) {}
};

ACCEL_CLONES
void lab_row(const float* __restrict__ red, const float* __restrict__ green,
             const float* __restrict__ blue, const float* __restrict__ mask, int64_t width,
             float* __restrict__ l, float* __restrict__ a, float* __restrict__ b,
             float* __restrict__ w) {
#pragma omp simd
  for (int64_t x = 0; x < width; ++x) {
    const Lab lab = rgb_to_lab(red[x], green[x], blue[x]);
    const bool counts = mask[x] > 0.0f;
    l[x] = counts ? lab.l : 0.0f;
    a[x] = counts ? lab.a : 0.0f;
    b[x] = counts ? lab.b : 0.0f;
    w[x] = counts ? mask[x] : 0.0f;
  }
}

bool any_weight(const float* mask, int64_t width) {
  return std::any_of(mask, mask + width, [](float w) { return w > 0.0f; });
}

inline float total(const float* lanes) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

ACCEL_CLONES
Moments row_moments(const float* __restrict__ l, const float* __restrict__ a,
                    const float* __restrict__ b, const float* __restrict__ w, int64_t width) {
  float first[4][kLanes] = {}, second[3][kLanes] = {};
  for (int64_t at = 0; at < width; at += kLanes) {
    const int64_t n = std::min<int64_t>(kLanes, width - at);
    for (int64_t i = 0; i < n; ++i) {
      const float weight = w[at + i];
      first[0][i] += weight * l[at + i];
      first[1][i] += weight * a[at + i];
      first[2][i] += weight * b[at + i];
      first[3][i] += weight;
    }
  }
  Moments row;
  const float weight = total(first[3]);
  if (!(weight > 0.0f)) return row;
  float mean[3];
  for (int c = 0; c < 3; ++c) mean[c] = total(first[c]) / weight;
  for (int64_t at = 0; at < width; at += kLanes) {
    const int64_t n = std::min<int64_t>(kLanes, width - at);
    for (int64_t i = 0; i < n; ++i) {
      const float dl = l[at + i] - mean[0], da = a[at + i] - mean[1], db = b[at + i] - mean[2];
      second[0][i] += w[at + i] * dl * dl;
      second[1][i] += w[at + i] * da * da;
      second[2][i] += w[at + i] * db * db;
    }
  }
  row.weight = weight;
  for (int c = 0; c < 3; ++c) {
    row.mean[c] = mean[c];
    row.squares[c] = total(second[c]);
  }
  return row;
}

// Comes before any size is read: shape(3) of a smaller array is not there.
void check_crops(const char* who, const Floats& crops) {
  if (crops.ndim() != 4 || crops.shape(1) != 3)
    throw std::invalid_argument(std::string(who) + ": crops must be [N, 3, H, W]");
}

void check_masks(const char* who, const Floats& crops, const Floats& masks) {
  check_crops(who, crops);
  if (masks.ndim() != 3 || masks.shape(0) != crops.shape(0) || masks.shape(1) != crops.shape(2) ||
      masks.shape(2) != crops.shape(3))
    throw std::invalid_argument(std::string(who) + ": masks must be [N, H, W] like the crops");
}

void color_stats(Floats crops, Floats masks, Output out, int threads) {
  check_masks("color_stats", crops, masks);
  const int64_t count = crops.shape(0), height = crops.shape(2), width = crops.shape(3);
  if (int64_t(out.size()) != count * 6)
    throw std::invalid_argument("color_stats: out must be [N, 2, 3]");
  const float *rgb = crops.data(), *mask = masks.data();
  float* result = out.data();
  nb::gil_scoped_release unlocked;
  const int64_t size = height * width;
  std::vector<Moments> rows(count * height);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    LabRow row(width);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < count * height; ++i) {
      const int64_t item = i / height, y = i % height;
      const float *red = rgb + item * 3 * size + y * width, *weight = mask + i * width;
      if (!any_weight(weight, width)) continue;
      lab_row(red, red + size, red + 2 * size, weight, width, row.l.data(), row.a.data(),
              row.b.data(), row.w.data());
      rows[i] = row_moments(row.l.data(), row.a.data(), row.b.data(), row.w.data(), width);
    }
  }
  for (int64_t item = 0; item < count; ++item) {
    Moments all;
    for (int64_t y = 0; y < height; ++y) all.merge(rows[item * height + y]);
    for (int c = 0; c < 3; ++c) {
      result[item * 6 + c] = float(all.mean[c]);
      result[item * 6 + 3 + c] = float(all.deviation(c));
    }
  }
}

// Sums of weighted Lab and of weight over one row of cells; `edge` has grid + 1 column limits.
ACCEL_CLONES
void add_cells(const float* __restrict__ l, const float* __restrict__ a,
               const float* __restrict__ b, const float* __restrict__ w, const int64_t* edge,
               int64_t grid, float* sums, int64_t cells) {
  for (int64_t cell = 0; cell < grid; ++cell) {
    float lanes[4][kLanes] = {};
    for (int64_t at = edge[cell]; at < edge[cell + 1]; at += kLanes) {
      const int64_t n = std::min<int64_t>(kLanes, edge[cell + 1] - at);
      for (int64_t i = 0; i < n; ++i) {
        const float weight = w[at + i];
        lanes[0][i] += weight * l[at + i];
        lanes[1][i] += weight * a[at + i];
        lanes[2][i] += weight * b[at + i];
        lanes[3][i] += weight;
      }
    }
    for (int c = 0; c < 4; ++c) sums[c * cells + cell] += total(lanes[c]);
  }
}

// out = low · in · low for a symmetric low-pass.
void smooth(const float* low, const float* in, float* out, int64_t grid) {
  std::vector<float> across(grid * grid);
  for (int64_t y = 0; y < grid; ++y)
    for (int64_t k = 0; k < grid; ++k)
      for (int64_t x = 0; x < grid; ++x)
        across[y * grid + x] += in[y * grid + k] * low[k * grid + x];
  std::fill(out, out + grid * grid, 0.0f);
  for (int64_t y = 0; y < grid; ++y)
    for (int64_t k = 0; k < grid; ++k)
      for (int64_t x = 0; x < grid; ++x)
        out[y * grid + x] += low[y * grid + k] * across[k * grid + x];
}

// The first index whose index·grid // size is each cell, and the end.
std::vector<int64_t> limits(int64_t size, int64_t grid) {
  std::vector<int64_t> edge(grid + 1);
  for (int64_t i = 0; i <= grid; ++i) edge[i] = (i * size + grid - 1) / grid;
  return edge;
}

void illumination(Floats crops, Floats masks, Floats low_pass, Output out, int threads) {
  check_masks("illumination", crops, masks);
  const int64_t count = crops.shape(0), height = crops.shape(2), width = crops.shape(3);
  if (out.ndim() != 4 || out.shape(0) != size_t(count) || out.shape(1) != 4 ||
      out.shape(2) != out.shape(3) || low_pass.size() != out.shape(2) * out.shape(2))
    throw std::invalid_argument("illumination: out must be [N, 4, G, G], low_pass [G, G]");
  const int64_t grid = out.shape(2), cells = grid * grid, size = height * width;
  const float *rgb = crops.data(), *mask = masks.data(), *low = low_pass.data();
  float* result = out.data();
  nb::gil_scoped_release unlocked;
  const std::vector<int64_t> column = limits(width, grid), line = limits(height, grid);
  std::vector<float> all(count * 4 * cells);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    LabRow row(width);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < count * grid; ++i) {  // one row of cells
      const int64_t item = i / grid, cell = i % grid;
      float* sums = all.data() + item * 4 * cells + cell * grid;
      for (int64_t y = line[cell]; y < line[cell + 1]; ++y) {
        const float *red = rgb + item * 3 * size + y * width,
                    *weight = mask + item * size + y * width;
        if (!any_weight(weight, width)) continue;
        lab_row(red, red + size, red + 2 * size, weight, width, row.l.data(), row.a.data(),
                row.b.data(), row.w.data());
        add_cells(row.l.data(), row.a.data(), row.b.data(), row.w.data(), column.data(), grid, sums,
                  cells);
      }
    }
  }
  std::vector<float> wide(4 * cells);
  for (int64_t item = 0; item < count; ++item) {
    const float* sums = all.data() + item * 4 * cells;
    float* to = result + item * 4 * cells;
    for (int c = 0; c < 4; ++c) smooth(low, sums + c * cells, wide.data() + c * cells, grid);
    for (int64_t i = 0; i < cells; ++i) {
      const float weight = wide[3 * cells + i];
      const int64_t pixels =
          (line[i / grid + 1] - line[i / grid]) * (column[i % grid + 1] - column[i % grid]);
      for (int c = 0; c < 3; ++c) to[c * cells + i] = weight > 0 ? wide[c * cells + i] / weight : 0;
      to[3 * cells + i] = sums[3 * cells + i] / float(std::max<int64_t>(pixels, 1));
    }
  }
}

struct Between {
  int64_t low, high;
  float t;
};

// Half-pixel centres; beyond the outer centres the border cell repeats.
Between between(int64_t at, int64_t size, int64_t cells) {
  const float place = (float(at) + 0.5f) * (float(cells) / float(size)) - 0.5f;
  const float inside = std::max(place, 0.0f);
  const int64_t low = std::min(int64_t(inside), cells - 1);
  return {low, std::min(low + 1, cells - 1), inside - float(low)};
}

// Light across one row: the grid already stretched to the crop's width, two of its rows mixed.
struct Light {
  const float *top[3], *low[3];
  float t, gain[3], bias[3];
};

ACCEL_CLONES
void relight_row(const float* __restrict__ red, const float* __restrict__ green,
                 const float* __restrict__ blue, const Light& light, int64_t width,
                 float* __restrict__ red_out, float* __restrict__ green_out,
                 float* __restrict__ blue_out) {
  const float *t0 = light.top[0], *t1 = light.top[1], *t2 = light.top[2];
  const float *b0 = light.low[0], *b1 = light.low[1], *b2 = light.low[2];
  const float t = light.t, g0 = light.gain[0], g1 = light.gain[1], g2 = light.gain[2];
  const float o0 = light.bias[0], o1 = light.bias[1], o2 = light.bias[2];
#pragma omp simd
  for (int64_t x = 0; x < width; ++x) {
    const Lab lab = rgb_to_lab(red[x], green[x], blue[x]);
    const float l = lab.l * g0 + o0 + (t0[x] + t * (b0[x] - t0[x]));
    const float a = lab.a * g1 + o1 + (t1[x] + t * (b1[x] - t1[x]));
    const float b = lab.b * g2 + o2 + (t2[x] + t * (b2[x] - t2[x]));
    const Rgb rgb = lab_to_rgb(l, a, b);
    red_out[x] = rgb.r;
    green_out[x] = rgb.g;
    blue_out[x] = rgb.b;
  }
}

void relight(Floats crops, Floats gain, Floats bias, Floats added, Output out, int threads) {
  check_crops("relight", crops);
  const int64_t count = crops.shape(0), height = crops.shape(2), width = crops.shape(3);
  if (out.size() != crops.size() || int64_t(gain.size()) != count * 3 ||
      int64_t(bias.size()) != count * 3 || added.ndim() != 4 || int64_t(added.shape(0)) != count ||
      added.shape(1) != 3)
    throw std::invalid_argument("relight: out must be like crops, added [N, 3, G, G]");
  const int64_t grid_rows = added.shape(2), grid_columns = added.shape(3), size = height * width;
  const float *rgb = crops.data(), *gains = gain.data(), *biases = bias.data(),
              *from = added.data();
  float* to = out.data();
  nb::gil_scoped_release unlocked;
  std::vector<float> stretched(count * 3 * grid_rows * width);
  for (int64_t x = 0; x < width; ++x) {
    const Between at = between(x, width, grid_columns);
    for (int64_t i = 0; i < count * 3 * grid_rows; ++i) {
      const float* row = from + i * grid_columns;
      stretched[i * width + x] = row[at.low] + at.t * (row[at.high] - row[at.low]);
    }
  }
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < count * height; ++i) {
    const int64_t item = i / height, y = i % height;
    const Between at = between(y, height, grid_rows);
    Light light;
    light.t = at.t;
    for (int c = 0; c < 3; ++c) {
      const float* channel = stretched.data() + (item * 3 + c) * grid_rows * width;
      light.top[c] = channel + at.low * width;
      light.low[c] = channel + at.high * width;
      light.gain[c] = gains[item * 3 + c];
      light.bias[c] = biases[item * 3 + c];
    }
    const int64_t start = item * 3 * size + y * width;
    relight_row(rgb + start, rgb + start + size, rgb + start + 2 * size, light, width, to + start,
                to + start + size, to + start + 2 * size);
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(color) {
  m.def("color_stats", &accel::color_stats, "crops"_a, "masks"_a, "out"_a, "threads"_a);
  m.def("illumination", &accel::illumination, "crops"_a, "masks"_a, "low_pass"_a, "out"_a,
        "threads"_a);
  m.def("relight", &accel::relight, "crops"_a, "gain"_a, "bias"_a, "added"_a, "out"_a, "threads"_a);
}
