// Planes made smaller by whole squares of samples, then blurred; accel/kernels/shrink.py says how.
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "binding.h"

#define ACCEL_VECTOR_CODE "shrink_rows.h"
#include "simd.h"

namespace accel {
namespace {

constexpr int64_t kWorthThreads = 1 << 18;  // samples
constexpr int kAhead = 4;                   // rows that are asked for before they are needed

// Rows of a frame lie apart, and mostly in the cache of the core that decoded them. Always inlined:
// gcc takes a function that does no more than this for one without effect.
template <typename Sample>
__attribute__((always_inline)) inline void fetch(const Sample* from, int64_t row, int64_t y,
                                                 int64_t height, int64_t width) {
  if (y >= height) return;
  const char* at = reinterpret_cast<const char*>(from + y * row);
  for (int64_t i = 0; i < width * int64_t(sizeof(Sample)); i += 64) __builtin_prefetch(at + i);
}

template <typename Sample, typename Sum>
void shrink_plane(const Sample* from, int64_t row, int side, float share, int height, int width,
                  uint8_t* out) {
#pragma omp parallel if (int64_t(height) * width * side * side > kWorthThreads)
  {
    std::vector<Sum> sums(size_t(width) * side);
#pragma omp for schedule(static)
    for (int y = 0; y < height; ++y) {
      for (int i = 0; i < side; ++i)
        fetch(from, row, int64_t(y) * side + i + std::max(side, kAhead), int64_t(height) * side,
              int64_t(width) * side);
      ACCEL_WIDEST(shrink_row(from + int64_t(y) * side * row, row, side, width, share, sums.data(),
                              out + int64_t(y) * width));
    }
  }
}

void blur_plane(const uint8_t* from, int64_t row, int beside, int height, int width, uint8_t* out) {
#pragma omp parallel if (int64_t(height) * width > kWorthThreads)
  {
    std::vector<uint8_t> scratch(size_t(width) + 2);
#pragma omp for schedule(static)
    for (int y = 0; y < height; ++y) {
      fetch(from, row, y + kAhead, height, width);
      const uint8_t* at = from + y * row;
      ACCEL_WIDEST(blur_row(at - (y > 0 ? row : 0), at, at + (y + 1 < height ? row : 0), width,
                            beside, scratch.data(), out + int64_t(y) * width));
    }
  }
}

void shrink(ConstArray plane, Array out, int side, int beside, double share) {
  const bool wide = plane.dtype() == nb::dtype<uint16_t>();
  if (plane.ndim() != 2 || !(wide || plane.dtype() == nb::dtype<uint8_t>()) ||
      (plane.shape(1) > 1 && plane.stride(1) != 1))
    throw std::invalid_argument("shrink: plane must be [H, W] of uint8 or uint16, rows in one");
  if (side < 1 || side > 256 || beside < 0 || beside > 128 || out.ndim() != 2 ||
      out.dtype() != nb::dtype<uint8_t>() || out.shape(0) != plane.shape(0) / side ||
      out.shape(1) != plane.shape(1) / side || (out.shape(1) > 1 && out.stride(1) != 1) ||
      out.stride(0) != int64_t(out.shape(1)) || plane.shape(0) >= (1 << 20) ||
      plane.shape(1) >= (1 << 20))
    throw std::invalid_argument("shrink: sizes of plane or out, side or blur");
  const int height = int(out.shape(0)), width = int(out.shape(1));
  const int64_t row = plane.stride(0);
  uint8_t* to = static_cast<uint8_t*>(out.data());
  const uint8_t* bytes = static_cast<const uint8_t*>(plane.data());
  const bool as_is = side == 1 && !wide && share == 1, blurs = beside > 0;
  // A small plane takes less time than to get the interpreter's lock back from other threads.
  std::optional<nb::gil_scoped_release> unlocked;
  if (int64_t(height) * width * side * side > kWorthThreads) unlocked.emplace();
  const std::unique_ptr<uint8_t[]> kept(blurs && !as_is ? new uint8_t[size_t(height) * width]
                                                        : nullptr);
  uint8_t* small = blurs ? kept.get() : to;
  if (!(as_is && blurs)) {
    if (wide)
      shrink_plane<uint16_t, uint32_t>(reinterpret_cast<const uint16_t*>(bytes), row, side,
                                       float(share), height, width, small);
    else
      shrink_plane<uint8_t, uint16_t>(bytes, row, side, float(share), height, width, small);
  }
  if (blurs) blur_plane(as_is ? bytes : small, as_is ? row : width, beside, height, width, to);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(shrink) {
  m.def("shrink", &accel::shrink, "plane"_a, "out"_a, "side"_a, "beside"_a, "share"_a);
}
