// mark on the CPU: reads and writes a byte per sample, so memory is its limit. Beside it the
// visible label, which is drawn in the same frames.
#include "mark.h"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <vector>

#include "binding.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace accel {
namespace {

constexpr int64_t kWorthThreads = 1 << 18;  // samples; below, starting threads costs more
constexpr int64_t kWorthUnlocking = 1 << 19;

// Strides are in samples.
template <typename T>
struct Grid {
  T* data;
  int64_t row, step;
};

// A pattern that is repeated over a plane; `top` and `left` are where in it the plane begins.
struct Repeated {
  Grid<const int8_t> grid;
  int64_t height, width, top, left;
};

// Lets go of the interpreter's lock for work that takes longer than to get it back from others.
class Unlocked {
 public:
  explicit Unlocked(bool is_worth) {
    if (is_worth) unlocked_.emplace();
  }

 private:
  std::optional<nb::gil_scoped_release> unlocked_;
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

#if defined(__SSE2__)
__m128i loaded(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }

// An unsigned byte minus 128 is signed, and signed bytes add with saturation.
void mark_16(uint8_t* codes, __m128i add, const uint8_t* before) {
  const __m128i half = _mm_set1_epi8(-128), old = loaded(codes);
  if (before) add = _mm_andnot_si128(_mm_cmpeq_epi8(loaded(before), old), add);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes),
                   _mm_xor_si128(_mm_adds_epi8(_mm_xor_si128(old, half), add), half));
}
#endif

// 64 and 16 bytes at a time. Returns how many samples it did.
int64_t mark_bytes(uint8_t* codes, const int8_t* pattern, const uint8_t* before, int64_t width) {
  int64_t x = 0;
#if defined(__SSE2__)
  for (; x + 64 <= width; x += 64) {
    __m128i add[4], any = _mm_setzero_si128();
    for (int k = 0; k < 4; ++k) any = _mm_or_si128(any, add[k] = loaded(pattern + x + 16 * k));
    // Three quarters of a film's pattern are zero: what is not changed need not come from memory.
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) == 0xFFFF) continue;
    for (int k = 0; k < 4; ++k)
      mark_16(codes + x + 16 * k, add[k], before ? before + x + 16 * k : nullptr);
  }
  for (; x + 16 <= width; x += 16)
    mark_16(codes + x, loaded(pattern + x), before ? before + x : nullptr);
#endif
  return x;
}

template <typename T>
void mark_plane(Grid<T> plane, const Repeated& pattern, Grid<const T> before, int64_t height,
                int64_t width, int bits, int threads) {
  const int32_t unit = 1 << (bits - 8), max_code = (1 << bits) - 1;
  const bool side_by_side =
      plane.step == 1 && pattern.grid.step == 1 && (!before.data || before.step == 1);
  const int team = height * width < kWorthThreads ? 1 : threads;
#pragma omp parallel for num_threads(team) schedule(static)
  for (int64_t y = 0; y < height; ++y) {
    const int8_t* line = pattern.grid.data + (y + pattern.top) % pattern.height * pattern.grid.row;
    int64_t phase = pattern.left;
    for (int64_t x = 0, part; x < width; x += part, phase = 0) {
      part = std::min(pattern.width - phase, width - x);
      T* codes = plane.data + y * plane.row + x * plane.step;
      const int8_t* add = line + phase * pattern.grid.step;
      const T* was = before.data ? before.data + y * before.row + x * before.step : nullptr;
      int64_t done = 0;
      if constexpr (sizeof(T) == 1)
        if (side_by_side) done = mark_bytes(codes, add, was, part);
      if (side_by_side && !was)  // known strides let the compiler vectorise
        mark_row<T>(codes, 1, add, 1, nullptr, 1, done, part, unit, max_code);
      else
        mark_row(codes, plane.step, add, pattern.grid.step, was, before.step, done, part, unit,
                 max_code);
    }
  }
}

void check(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("mark: ") + what);
}

void mark_cpu(Array plane, ConstArray pattern, std::optional<ConstArray> before, int bits,
              int64_t top, int64_t left, int threads) {
  const bool wide = bits > 8;
  const nb::dlpack::dtype kind = wide ? nb::dtype<uint16_t>() : nb::dtype<uint8_t>();
  check(bits >= 8 && bits <= 16, "bits must lie in 8..16");
  check(plane.ndim() == 2 && plane.dtype() == kind, "plane must be [H, W] of its bits' type");
  check(pattern.ndim() == 2 && pattern.dtype() == nb::dtype<int8_t>(), "pattern must be int8");
  const int64_t height = plane.shape(0), width = plane.shape(1);
  const Repeated add{
      {static_cast<const int8_t*>(pattern.data()), pattern.stride(0), pattern.stride(1)},
      int64_t(pattern.shape(0)),
      int64_t(pattern.shape(1)),
      top,
      left};
  check(top >= 0 && top < add.height && left >= 0 && left < add.width,
        "top and left must lie in the pattern");
  const void* was = nullptr;
  int64_t was_row = 0, was_step = 0;
  if (before) {
    check(before->ndim() == 2 && before->dtype() == kind && int64_t(before->shape(0)) == height &&
              int64_t(before->shape(1)) == width,
          "before must be as the plane");
    was = before->data(), was_row = before->stride(0), was_step = before->stride(1);
  }
  void* codes = plane.data();
  const int64_t row = plane.stride(0), step = plane.stride(1);
  const Unlocked unlocked(height * width >= kWorthUnlocking);
  if (wide)
    mark_plane<uint16_t>({static_cast<uint16_t*>(codes), row, step}, add,
                         {static_cast<const uint16_t*>(was), was_row, was_step}, height, width,
                         bits, threads);
  else
    mark_plane<uint8_t>({static_cast<uint8_t*>(codes), row, step}, add,
                        {static_cast<const uint8_t*>(was), was_row, was_step}, height, width, bits,
                        threads);
}

// A label in a plane: code' = (code * keep + add) >> shift, which stays in range. Factors of 8-bit
// codes have 16 bits, and so has what is made of them.
template <typename T, typename Factor>
void shade_rows(Grid<T> plane, const Factor* keep, const Factor* add, int64_t height, int64_t width,
                int shift) {
  for (int64_t y = 0; y < height; ++y, keep += width, add += width) {
    T* __restrict codes = plane.data + y * plane.row;
    const Factor* __restrict share = keep;
    const Factor* __restrict more = add;
    if (plane.step == 1) {  // a known step lets the compiler vectorise
      for (int64_t x = 0; x < width; ++x)
        codes[x] = T(Factor(codes[x] * share[x] + more[x]) >> shift);
      continue;
    }
    for (int64_t x = 0; x < width; ++x)
      codes[x * plane.step] = T(Factor(codes[x * plane.step] * share[x] + more[x]) >> shift);
  }
}

// What a label does in one plane. Arrays are kept as long as this is.
struct Shade {
  int64_t top, left;
  ConstArray keep, add;
};

void shade(Array plane, const Shade& by, int shift) {
  const bool wide = plane.dtype() == nb::dtype<uint16_t>();
  const nb::dlpack::dtype factor = wide ? nb::dtype<int32_t>() : nb::dtype<int16_t>();
  auto holds = [&](const ConstArray& factors) {
    return factors.ndim() == 2 && factors.dtype() == factor && factors.stride(1) == 1 &&
           factors.stride(0) == int64_t(factors.shape(1)) && factors.shape(0) == by.keep.shape(0) &&
           factors.shape(1) == by.keep.shape(1);
  };
  if (plane.ndim() != 2 || !(wide || plane.dtype() == nb::dtype<uint8_t>()))
    throw std::invalid_argument("shade: plane must be [H, W] uint8 or uint16");
  if (!holds(by.keep) || !holds(by.add) || shift < 0 || shift > 15)
    throw std::invalid_argument("shade: factors must be of one size and of the codes' kind");
  const int64_t height = int64_t(by.keep.shape(0)), width = int64_t(by.keep.shape(1));
  if (by.top < 0 || by.left < 0 || by.top > int64_t(plane.shape(0)) - height ||
      by.left > int64_t(plane.shape(1)) - width)
    throw std::invalid_argument("shade: the label must lie in the plane");
  const int64_t row = plane.stride(0), step = plane.stride(1),
                first = by.top * row + by.left * step;
  if (wide)
    shade_rows<uint16_t>({static_cast<uint16_t*>(plane.data()) + first, row, step},
                         static_cast<const int32_t*>(by.keep.data()),
                         static_cast<const int32_t*>(by.add.data()), height, width, shift);
  else
    shade_rows<uint8_t>({static_cast<uint8_t*>(plane.data()) + first, row, step},
                        static_cast<const int16_t*>(by.keep.data()),
                        static_cast<const int16_t*>(by.add.data()), height, width, shift);
}

// Label and mark of all frames of one film: what Python does between several calls, in one thread
// among others, takes longer than their work.
class Stamp {
 public:
  Stamp(int bits, int shift, int marked, std::optional<ConstArray> pattern, int threads)
      : bits_(bits), shift_(shift), marked_(marked), threads_(threads), pattern_(pattern) {}

  void shade_next(int64_t top, int64_t left, ConstArray keep, ConstArray add) {
    shades_.push_back({top, left, keep, add});
  }

  void operator()(Array c0, Array c1, Array c2) const {
    const Array planes[3] = {c0, c1, c2};
    for (size_t i = 0; i < std::min<size_t>(shades_.size(), 3); ++i)
      shade(planes[i], shades_[i], shift_);
    for (int i = 0; pattern_ && i < std::min(marked_, 3); ++i)
      mark_cpu(planes[i], *pattern_, std::nullopt, bits_, 0, 0, threads_);
  }

 private:
  int bits_, shift_, marked_, threads_;
  std::optional<ConstArray> pattern_;
  std::vector<Shade> shades_;
};

}  // namespace
}  // namespace accel

ACCEL_BIND(mark) {
  m.def("mark", &accel::mark_cpu, "plane"_a, "pattern"_a, "before"_a.none(), "bits"_a, "top"_a,
        "left"_a, "threads"_a);
  m.def(
      "shade",
      [](accel::Array plane, int64_t top, int64_t left, accel::ConstArray keep,
         accel::ConstArray add, int shift) { accel::shade(plane, {top, left, keep, add}, shift); },
      "plane"_a, "top"_a, "left"_a, "keep"_a, "add"_a, "shift"_a);
  nb::class_<accel::Stamp>(m, "Stamp")
      .def(nb::init<int, int, int, std::optional<accel::ConstArray>, int>(), "bits"_a, "shift"_a,
           "marked"_a, "pattern"_a.none(), "threads"_a)
      .def("shade_next", &accel::Stamp::shade_next, "top"_a, "left"_a, "keep"_a, "add"_a)
      .def("__call__", &accel::Stamp::operator(), "c0"_a, "c1"_a, "c2"_a);
}
