// A picture in few colours on the CPU: median cut, and the nearest of what it found.
//
// All arithmetic is in whole numbers, so the result depends on no compiler, CPU or thread.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "binding.h"
#include "clones.h"

namespace accel {
namespace {

using Picture = Given<const uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Output = Given<uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

constexpr int kBits = 6;  // a channel's part of a cell's number
constexpr int kSide = 1 << kBits, kCells = 1 << (3 * kBits);
constexpr int kMost = 256;  // colours; a cell's is kept in a byte

inline int cell_of(const uint8_t* p) {
  return (p[0] >> 2) << (2 * kBits) | (p[1] >> 2) << kBits | p[2] >> 2;
}
inline int along(int cell, int axis) { return cell >> (kBits * (2 - axis)) & (kSide - 1); }

// counts[cell] += pixels. Neighbours are alike: a run is counted in a register.
void count_cells(const uint8_t* p, int64_t n, uint32_t* counts) {
  int last = n ? cell_of(p) : 0;
  uint32_t run = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int cell = cell_of(p + 3 * i);
    if (cell != last) {
      counts[last] += run;
      last = cell, run = 0;
    }
    ++run;
  }
  counts[last] += run;
}

// Cells begin..end of a list, their pixels, and their first and last place along each axis.
struct Box {
  int begin, end;
  int64_t pixels = 0;
  int low[3] = {kSide, kSide, kSide}, high[3] = {-1, -1, -1};

  Box(const std::vector<int>& cells, const std::vector<uint32_t>& counts, int from, int to)
      : begin(from), end(to) {
    for (int i = begin; i < end; ++i) {
      pixels += counts[cells[i]];
      for (int axis = 0; axis < 3; ++axis) {
        const int at = along(cells[i], axis);
        low[axis] = std::min(low[axis], at), high[axis] = std::max(high[axis], at);
      }
    }
  }
  int longest() const {
    int axis = 0;
    for (int other = 1; other < 3; ++other)
      if (high[other] - low[other] > high[axis] - low[axis]) axis = other;
    return axis;
  }
  int64_t worth() const { return pixels * (high[longest()] - low[longest()]); }
};

// The last place along an axis that goes with the lower half.
int middle(const Box& box, int axis, const std::vector<int>& cells,
           const std::vector<uint32_t>& counts) {
  int64_t at[kSide] = {}, below = 0;
  for (int i = box.begin; i < box.end; ++i) at[along(cells[i], axis)] += counts[cells[i]];
  for (int place = box.low[axis]; place < box.high[axis] - 1; ++place)
    if (2 * (below += at[place]) >= box.pixels) return place;
  return box.high[axis] - 1;
}

std::vector<Box> median_cut(std::vector<int>& cells, const std::vector<uint32_t>& counts,
                            int most) {
  std::vector<Box> boxes{Box(cells, counts, 0, int(cells.size()))};
  while (int(boxes.size()) < most) {
    const auto largest =
        std::max_element(boxes.begin(), boxes.end(),
                         [](const Box& a, const Box& b) { return a.worth() < b.worth(); });
    if (largest->worth() == 0) break;
    const Box box = *largest;
    const int axis = box.longest(), last = middle(box, axis, cells, counts);
    const auto split = std::partition(cells.begin() + box.begin, cells.begin() + box.end,
                                      [axis, last](int cell) { return along(cell, axis) <= last; });
    const int at = int(split - cells.begin());
    *largest = Box(cells, counts, box.begin, at);
    boxes.push_back(Box(cells, counts, at, box.end));
  }
  return boxes;
}

// Twice the middle of a cell's colours in 0..255.
inline int twice_middle(int place) { return 8 * place + 3; }

struct Palette {
  int count = 0;
  int value[3][kMost] = {};
};

Palette means(const std::vector<Box>& boxes, const std::vector<int>& cells,
              const std::vector<uint32_t>& counts) {
  Palette palette;
  for (const Box& box : boxes) {
    for (int axis = 0; axis < 3; ++axis) {
      int64_t sum = 0;
      for (int i = box.begin; i < box.end; ++i)
        sum += int64_t(counts[cells[i]]) * twice_middle(along(cells[i], axis));
      palette.value[axis][palette.count] = int((sum + box.pixels) / (2 * box.pixels));
    }
    ++palette.count;
  }
  return palette;
}

ACCEL_CLONES
uint8_t nearest(const Palette& palette, int cell) {
  int32_t apart[kMost];
  const int a = twice_middle(along(cell, 0)), b = twice_middle(along(cell, 1)),
            c = twice_middle(along(cell, 2));
  for (int i = 0; i < palette.count; ++i) {
    const int x = a - 2 * palette.value[0][i], y = b - 2 * palette.value[1][i],
              z = c - 2 * palette.value[2][i];
    apart[i] = (x * x + y * y + z * z) << 8 | i;  // below 2^28; the first of equals wins
  }
  int32_t least = INT32_MAX;
  for (int i = 0; i < palette.count; ++i) least = apart[i] < least ? apart[i] : least;
  return uint8_t(least & 255);
}

void few_colors(Picture picture, Output out, int colors, int share, int threads) {
  const int64_t height = picture.shape(0), row = 3 * int64_t(picture.shape(1));
  if (picture.shape(2) != 3 || out.shape(2) != 3 || out.shape(0) != picture.shape(0) ||
      out.shape(1) != picture.shape(1) || int64_t(height) * row / 3 > INT32_MAX)
    throw std::invalid_argument("few_colors: picture and out must be [H, W, 3] of one size");
  if (colors < 1 || colors > kMost || share < 0 || share > 100)
    throw std::invalid_argument("few_colors: colors must lie in 1..256, share in 0..100");
  const uint8_t* from = picture.data();
  uint8_t* to = out.data();
  nb::gil_scoped_release unlocked;
  if (height * row == 0) return;
  std::vector<uint32_t> counts(kCells);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<uint32_t> own(kCells);
#pragma omp for schedule(static) nowait
    for (int64_t y = 0; y < height; ++y) count_cells(from + y * row, row / 3, own.data());
#pragma omp critical
    for (int i = 0; i < kCells; ++i) counts[i] += own[i];
  }
  std::vector<int> cells;
  for (int i = 0; i < kCells; ++i)
    if (counts[i]) cells.push_back(i);
  const std::vector<Box> boxes = median_cut(cells, counts, colors);
  const Palette palette = means(boxes, cells, counts);
  std::vector<uint8_t> of_cell(kCells);
  int kept[256], added[kMost][3];
  for (int v = 0; v < 256; ++v) kept[v] = v * (100 - share) + 50;
  for (int i = 0; i < palette.count; ++i)
    for (int c = 0; c < 3; ++c) added[i][c] = palette.value[c][i] * share;
  const int64_t used = int64_t(cells.size());
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < used; ++i) of_cell[cells[i]] = nearest(palette, cells[i]);
#pragma omp for schedule(static)
    for (int64_t y = 0; y < height; ++y) {
      const uint8_t* p = from + y * row;
      uint8_t* q = to + y * row;
      for (int64_t x = 0; x < row; x += 3) {
        const int* color = added[of_cell[cell_of(p + x)]];
        for (int c = 0; c < 3; ++c) q[x + c] = uint8_t(uint32_t(kept[p[x + c]] + color[c]) / 100);
      }
    }
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(few_colors) {
  m.def("few_colors", &accel::few_colors, "picture"_a, "out"_a, "colors"_a, "share"_a, "threads"_a);
}
