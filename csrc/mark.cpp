// mark on the CPU: reads two bytes and writes one per sample, so memory is its limit.
#include "mark.h"

#include <nanobind/stl/optional.h>

#include <optional>
#include <stdexcept>

#include "binding.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace accel {
namespace {

constexpr int64_t kWorthThreads = 1 << 18;  // samples; below, starting threads costs more

// Strides are in samples.
template <typename T>
struct Grid {
  T* data;
  int64_t row, step;
};

template <typename T>
void mark_row(T* codes, int64_t step, const int8_t* pattern, int64_t pattern_step, const T* before,
              int64_t before_step, int64_t from, int64_t width, int32_t unit, int32_t max_code) {
  for (int64_t x = from; x < width; ++x) {
    T& code = codes[x * step];
    if (before && before[x * before_step] == code) continue;
    code = T(marked(code, pattern[x * pattern_step], unit, max_code));
  }
}

// 16 bytes at a time: an unsigned byte minus 128 is signed, and signed bytes add with saturation.
// Returns how many samples it did.
int64_t mark_bytes(uint8_t* codes, const int8_t* pattern, const uint8_t* before, int64_t width) {
  int64_t x = 0;
#if defined(__SSE2__)
  const __m128i half = _mm_set1_epi8(-128);
  for (; x + 16 <= width; x += 16) {
    __m128i* at = reinterpret_cast<__m128i*>(codes + x);
    const __m128i old = _mm_loadu_si128(at);
    __m128i add = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pattern + x));
    if (before) {
      const __m128i was = _mm_loadu_si128(reinterpret_cast<const __m128i*>(before + x));
      add = _mm_andnot_si128(_mm_cmpeq_epi8(was, old), add);
    }
    _mm_storeu_si128(at, _mm_xor_si128(_mm_adds_epi8(_mm_xor_si128(old, half), add), half));
  }
#endif
  return x;
}

template <typename T>
void mark_plane(Grid<T> plane, Grid<const int8_t> pattern, Grid<const T> before, int64_t height,
                int64_t width, int bits, int threads) {
  const int32_t unit = 1 << (bits - 8), max_code = (1 << bits) - 1;
  const bool side_by_side =
      plane.step == 1 && pattern.step == 1 && (!before.data || before.step == 1);
  const int team = height * width < kWorthThreads ? 1 : threads;
#pragma omp parallel for num_threads(team) schedule(static)
  for (int64_t y = 0; y < height; ++y) {
    T* codes = plane.data + y * plane.row;
    const int8_t* add = pattern.data + y * pattern.row;
    const T* was = before.data ? before.data + y * before.row : nullptr;
    int64_t done = 0;
    if constexpr (sizeof(T) == 1)
      if (side_by_side) done = mark_bytes(codes, add, was, width);
    if (side_by_side && !was)  // known strides let the compiler vectorise
      mark_row<T>(codes, 1, add, 1, nullptr, 1, done, width, unit, max_code);
    else
      mark_row(codes, plane.step, add, pattern.step, was, before.step, done, width, unit, max_code);
  }
}

void check(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("mark: ") + what);
}

void mark_cpu(Array plane, ConstArray pattern, std::optional<ConstArray> before, int bits,
              int threads) {
  const bool wide = bits > 8;
  const nb::dlpack::dtype kind = wide ? nb::dtype<uint16_t>() : nb::dtype<uint8_t>();
  check(bits >= 8 && bits <= 16, "bits must lie in 8..16");
  check(plane.ndim() == 2 && plane.dtype() == kind, "plane must be [H, W] of its bits' type");
  check(pattern.ndim() == 2 && pattern.dtype() == nb::dtype<int8_t>(), "pattern must be int8");
  const int64_t height = plane.shape(0), width = plane.shape(1);
  check(int64_t(pattern.shape(0)) == height && int64_t(pattern.shape(1)) == width,
        "plane and pattern must have one size");
  const void* was = nullptr;
  int64_t was_row = 0, was_step = 0;
  if (before) {
    check(before->ndim() == 2 && before->dtype() == kind && int64_t(before->shape(0)) == height &&
              int64_t(before->shape(1)) == width,
          "before must be as the plane");
    was = before->data(), was_row = before->stride(0), was_step = before->stride(1);
  }
  const Grid<const int8_t> add{static_cast<const int8_t*>(pattern.data()), pattern.stride(0),
                               pattern.stride(1)};
  void* codes = plane.data();
  const int64_t row = plane.stride(0), step = plane.stride(1);
  nb::gil_scoped_release unlocked;
  if (wide)
    mark_plane<uint16_t>({static_cast<uint16_t*>(codes), row, step}, add,
                         {static_cast<const uint16_t*>(was), was_row, was_step}, height, width,
                         bits, threads);
  else
    mark_plane<uint8_t>({static_cast<uint8_t*>(codes), row, step}, add,
                        {static_cast<const uint8_t*>(was), was_row, was_step}, height, width, bits,
                        threads);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(mark) {
  m.def("mark", &accel::mark_cpu, "plane"_a, "pattern"_a, "before"_a.none(), "bits"_a, "threads"_a);
}
