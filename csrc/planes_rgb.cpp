// Whole pictures between planes and interleaved RGB, row by row. The loops are written for the
// compiler to vectorise, and compiled twice; with no fused multiply-add, both round alike.
#include "planes_rgb.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "clones.h"
#include "plane_array.h"

namespace accel {
namespace {

constexpr int64_t kWorthThreads = 1 << 16;

ACCEL_CLONES void lerp_rows8(const uint8_t* a, const uint8_t* b, float t, int n,
                             float* __restrict out) {
  for (int i = 0; i < n; ++i) out[i] = lerp(float(a[i]), float(b[i]), t);
}
ACCEL_CLONES void lerp_rows16(const uint16_t* a, const uint16_t* b, float t, int n, float* out) {
  for (int i = 0; i < n; ++i) out[i] = lerp(float(a[i]), float(b[i]), t);
}

// Rows y.index and y.next of a plane, a share y.t of the way from one to the other.
void lerp_rows(const Plane& plane, const Between& y, float* out) {
  const uint8_t *a = plane.data + y.index * plane.row, *b = plane.data + y.next * plane.row;
  if (!plane.wide && plane.step == 1)
    lerp_rows8(a, b, y.t, plane.width, out);
  else if (plane.wide && plane.step == 2)
    lerp_rows16(reinterpret_cast<const uint16_t*>(a), reinterpret_cast<const uint16_t*>(b), y.t,
                plane.width, out);
  else
    for (int i = 0; i < plane.width; ++i)
      out[i] = lerp(code_at(plane, i, y.index), code_at(plane, i, y.next), y.t);
}

// Chroma at every second pixel of a row lies at one phase between its neighbours: pixel 2 i + p
// lies a share t[p] after sample i + from[p]. `row` may be read one before its start and after its
// end.
ACCEL_CLONES void twice(const float* row, const int from[2], const float t[2], int pairs,
                        float* out) {
  const float *a = row + from[0], *b = row + from[1], ta = t[0], tb = t[1];
  for (int i = 0; i < pairs; ++i) {
    out[2 * i] = lerp(a[i], a[i + 1], ta);
    out[2 * i + 1] = lerp(b[i], b[i + 1], tb);
  }
}

// From a chroma row to one value a pixel. `row` has a copy of its border sample on either side.
void widen(float* row, int count, int shift, float site, int width, float* out) {
  row[-1] = row[0], row[count] = row[count + 1] = row[count - 1];
  if (shift == 1 && site >= 0 && site <= 1) {
    int from[2];
    float t[2];
    for (int p = 0; p < 2; ++p) {
      const float at = (float(p) - site) * 0.5f;
      from[p] = int(floorf(at)), t[p] = at - floorf(at);
    }
    twice(row, from, t, count, out);  // writes one past an odd width
    return;
  }
  for (int x = 0; x < width; ++x) {
    const Between at = chroma_between(x, shift, site, count);
    out[x] = lerp(row[at.index], row[at.next], at.t);
  }
}

ACCEL_CLONES void color_row(const float* m, const float* a, const float* b, const float* c,
                            float top, int n, float* out) {
  const float m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3];
  for (int i = 0; i < n; ++i) {
    const float value = m0 * a[i] + m1 * b[i] + m2 * c[i] + m3;
    const float low = value > 0.0f ? value : 0.0f;
    out[i] = (low < 1.0f ? low : 1.0f) * top;
  }
}

ACCEL_CLONES void round_row(const float* __restrict from, int n, uint8_t* __restrict out) {
  for (int i = 0; i < n; ++i) out[i] = uint8_t(int(from[i] + 0.5f));
}

#ifdef __x86_64__
// Sixteen pixels at a time: each of three stores takes its bytes from all three rows.
__attribute__((target("ssse3"))) int interleave16(const uint8_t* const rows[3], int n,
                                                  uint8_t* out) {
  alignas(16) int8_t from[3][3][16];  // [store][row][byte]; -1 leaves a zero
  for (int i = 0; i < 48; ++i)
    for (int row = 0; row < 3; ++row)
      from[i / 16][row][i % 16] = i % 3 == row ? int8_t(i / 3) : int8_t(-1);
  int x = 0;
  for (; x + 16 <= n; x += 16)
    for (int store = 0; store < 3; ++store) {
      __m128i bytes = _mm_setzero_si128();
      for (int row = 0; row < 3; ++row)
        bytes = _mm_or_si128(
            bytes,
            _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[row] + x)),
                             _mm_load_si128(reinterpret_cast<__m128i*>(from[store][row]))));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * x + 16 * store), bytes);
    }
  return x;
}
#endif

// `spare` has room for three rows of bytes.
void interleave(float* const rgb[3], int n, uint8_t* spare, uint8_t* out) {
  const uint8_t* rows[3] = {spare, spare + n, spare + 2 * n};
  for (int c = 0; c < 3; ++c) round_row(rgb[c], n, spare + c * n);
  int x = 0;
#ifdef __x86_64__
  if (__builtin_cpu_supports("ssse3")) x = interleave16(rows, n, out);
#endif
  for (; x < n; ++x)
    for (int c = 0; c < 3; ++c) out[3 * x + c] = rows[c][x];
}

template <typename T>
void interleave(float* const rgb[3], int n, T* out) {
  const float half = sizeof(T) < 4 ? 0.5f : 0.0f;
  for (int x = 0; x < n; ++x)
    for (int c = 0; c < 3; ++c) out[3 * x + c] = T(rgb[c][x] + half);
}

void planes_to_rgb(ConstArray c0, ConstArray c1, ConstArray c2, Array out,
                   const std::vector<double>& numbers, int shift_x, int shift_y, float site_x,
                   float site_y) {
  const Plane luma = plane_of(c0, "planes_to_rgb");
  const Plane chroma[2] = {plane_of(c1, "planes_to_rgb"), plane_of(c2, "planes_to_rgb")};
  const Color color = color_of(numbers, "planes_to_rgb");
  const int height = luma.height, width = luma.width;
  const int small_w = chroma[0].width, small_h = chroma[0].height;
  const bool bytes = out.dtype() == nb::dtype<uint8_t>();
  const bool words = out.dtype() == nb::dtype<uint16_t>();
  if (!(bytes || words || out.dtype() == nb::dtype<float>()) || out.ndim() != 3 ||
      int64_t(out.shape(0)) != height || int64_t(out.shape(1)) != width || out.shape(2) != 3)
    throw std::invalid_argument("planes_to_rgb: out must be [H, W, 3] uint8, uint16 or float32");
  if (height < 1 || width < 1 || shift_x < 0 || shift_x > 4 || shift_y < 0 || shift_y > 4 ||
      small_w != (width + (1 << shift_x) - 1) >> shift_x || chroma[1].width != small_w ||
      small_h != (height + (1 << shift_y) - 1) >> shift_y || chroma[1].height != small_h)
    throw std::invalid_argument("planes_to_rgb: chroma planes do not fit the luma plane");
  const float top = bytes ? 255.0f : words ? 65535.0f : 1.0f;
  void* result = out.data();

  nb::gil_scoped_release unlocked;
#pragma omp parallel if (int64_t(height) * width > kWorthThreads)
  {
    const size_t row = size_t(width) + 8;
    std::vector<float> scratch(row * 7);
    float* code[3] = {&scratch[0], &scratch[row], &scratch[2 * row]};
    float* rgb[3] = {&scratch[3 * row], &scratch[4 * row], &scratch[5 * row]};
    float* narrow = &scratch[6 * row + 1];
    std::vector<uint8_t> spare(size_t(width) * 3);
#pragma omp for schedule(static)
    for (int y = 0; y < height; ++y) {
      lerp_rows(luma, {y, y, 0.0f}, code[0]);
      const Between at = chroma_between(y, shift_y, site_y, small_h);
      for (int i = 0; i < 2; ++i) {
        if (shift_x == 0) {
          lerp_rows(chroma[i], at, code[1 + i]);
          continue;
        }
        lerp_rows(chroma[i], at, narrow);
        widen(narrow, small_w, shift_x, site_x, width, code[1 + i]);
      }
      for (int c = 0; c < 3; ++c)
        color_row(color.m + 4 * c, code[0], code[1], code[2], top, width, rgb[c]);
      const int64_t start = int64_t(y) * width * 3;
      if (bytes)
        interleave(rgb, width, spare.data(), static_cast<uint8_t*>(result) + start);
      else if (words)
        interleave(rgb, width, static_cast<uint16_t*>(result) + start);
      else
        interleave(rgb, width, static_cast<float*>(result) + start);
    }
  }
}

// Adds share times a row of interleaved RGB, brought to 0..1 and clipped, to three rows.
template <typename T>
inline __attribute__((always_inline)) void add_rgb_body(const T* from, float scale, float share,
                                                        int n, float* r, float* g, float* b) {
  for (int i = 0; i < n; ++i) {
    float value[3] = {float(from[3 * i]) * scale, float(from[3 * i + 1]) * scale,
                      float(from[3 * i + 2]) * scale};
    for (float& v : value) v = (sizeof(T) < 4 ? v : clamp_to(v, 0.0f, 1.0f)) * share;
    r[i] += value[0], g[i] += value[1], b[i] += value[2];
  }
}
ACCEL_CLONES void add_rgb(const uint8_t* from, float share, int n, float* r, float* g, float* b) {
  add_rgb_body(from, 1.0f / 255.0f, share, n, r, g, b);
}
ACCEL_CLONES void add_rgb(const uint16_t* from, float share, int n, float* r, float* g, float* b) {
  add_rgb_body(from, 1.0f / 65535.0f, share, n, r, g, b);
}
ACCEL_CLONES void add_rgb(const float* from, float share, int n, float* r, float* g, float* b) {
  add_rgb_body(from, 1.0f, share, n, r, g, b);
}

ACCEL_CLONES void add_second(const float* from, float share, int n, float* out) {
  for (int i = 0; i < n; ++i) out[i] += share * from[2 * i];
}

// out[i] += share * from[first + i side], where `from` repeats its ends.
void add_every(const float* from, int count, int first, int side, float share, int n, float* out) {
  int i = 0, inside = n;
  for (; i < n && first + i * side < 0; ++i) out[i] += share * from[0];
  while (inside > i && first + (inside - 1) * side > count - 1) --inside;
  if (side == 2)
    add_second(from + first + i * side, share, inside - i, out + i);
  else
    for (int x = i; x < inside; ++x) out[x] += share * from[first + x * side];
  for (i = std::max(i, inside); i < n; ++i) out[i] += share * from[count - 1];
}

ACCEL_CLONES void codes8(const float* m, const float* r, const float* g, const float* b,
                         float max_code, int n, uint8_t* __restrict out) {
  for (int i = 0; i < n; ++i)
    out[i] = uint8_t(code_of(m[0] * r[i] + m[1] * g[i] + m[2] * b[i] + m[3], max_code));
}
ACCEL_CLONES void codes16(const float* m, const float* r, const float* g, const float* b,
                          float max_code, int n, uint16_t* out) {
  for (int i = 0; i < n; ++i)
    out[i] = uint16_t(code_of(m[0] * r[i] + m[1] * g[i] + m[2] * b[i] + m[3], max_code));
}

void codes_row(const Plane& plane, int y, const float* m, const float* r, const float* g,
               const float* b, float max_code) {
  uint8_t* row = plane.data + y * plane.row;
  if (plane.wide)
    codes16(m, r, g, b, max_code, plane.width, reinterpret_cast<uint16_t*>(row));
  else
    codes8(m, r, g, b, max_code, plane.width, row);
}

template <typename T>
void convert(const T* rgb, const Plane planes[3], const Color& color, int first_x,
             const std::vector<float>& shares_x, int first_y, const std::vector<float>& shares_y,
             float max_code) {
  const int height = planes[0].height, width = planes[0].width;
  const int small_w = planes[1].width, small_h = planes[1].height;
  const int side_x = int(shares_x.size()) - 1, side_y = int(shares_y.size()) - 1;
#pragma omp parallel if (int64_t(height) * width > kWorthThreads)
  {
    std::vector<float> scratch(size_t(width) * 6);
    float* full[3] = {&scratch[0], &scratch[width], &scratch[2 * size_t(width)]};
    float* small[3] = {full[2] + width, full[2] + 2 * width, full[2] + 3 * width};
#pragma omp for schedule(static)
    for (int y = 0; y < height; ++y) {
      std::fill_n(full[0], size_t(width) * 3, 0.0f);
      add_rgb(rgb + int64_t(y) * width * 3, 1.0f, width, full[0], full[1], full[2]);
      codes_row(planes[0], y, color.m, full[0], full[1], full[2], max_code);
    }
#pragma omp for schedule(static)
    for (int y = 0; y < small_h; ++y) {
      std::fill_n(full[0], size_t(width) * 3, 0.0f);
      for (int j = 0; j <= side_y; ++j) {
        const int row = std::min(std::max(y * side_y + first_y + j, 0), height - 1);
        if (shares_y[j] > 0)
          add_rgb(rgb + int64_t(row) * width * 3, shares_y[j], width, full[0], full[1], full[2]);
      }
      for (int c = 0; c < 3; ++c) {
        std::fill_n(small[c], small_w, 0.0f);
        for (int i = 0; i <= side_x; ++i)
          if (shares_x[i] > 0)
            add_every(full[c], width, first_x + i, side_x, shares_x[i], small_w, small[c]);
      }
      for (int i = 1; i < 3; ++i)
        codes_row(planes[i], y, color.m + 4 * i, small[0], small[1], small[2], max_code);
    }
  }
}

void rgb_to_planes(ConstArray rgb, Array c0, Array c1, Array c2, const std::vector<double>& numbers,
                   int first_x, const std::vector<double>& weights_x, int first_y,
                   const std::vector<double>& weights_y, float max_code) {
  const Plane planes[3] = {plane_of(c0, "rgb_to_planes"), plane_of(c1, "rgb_to_planes"),
                           plane_of(c2, "rgb_to_planes")};
  const Color color = color_of(numbers, "rgb_to_planes");
  const std::vector<float> shares_x(weights_x.begin(), weights_x.end());
  const std::vector<float> shares_y(weights_y.begin(), weights_y.end());
  const int64_t height = planes[0].height, width = planes[0].width;
  if (rgb.ndim() != 3 || int64_t(rgb.shape(0)) != height || int64_t(rgb.shape(1)) != width ||
      rgb.shape(2) != 3 || rgb.stride(2) != 1 || rgb.stride(1) != 3 || rgb.stride(0) != 3 * width)
    throw std::invalid_argument("rgb_to_planes: rgb must be contiguous [H, W, 3], as c0 is");
  for (int i = 0; i < 3; ++i)
    if (planes[i].step != (planes[i].wide ? 2 : 1) || planes[i].width < 1 ||
        planes[i].width > width || planes[i].height < 1 ||
        (i == 2 && (planes[2].width != planes[1].width || planes[2].height != planes[1].height)))
      throw std::invalid_argument("rgb_to_planes: the planes' sizes or strides");
  if (shares_x.size() < 2 || shares_y.size() < 2 || shares_x.size() > 64 || shares_y.size() > 64)
    throw std::invalid_argument("rgb_to_planes: shares of 2 to 64 pixels");
  const void* data = rgb.data();
  const auto dtype = rgb.dtype();

  nb::gil_scoped_release unlocked;
  if (dtype == nb::dtype<uint8_t>())
    convert(static_cast<const uint8_t*>(data), planes, color, first_x, shares_x, first_y, shares_y,
            max_code);
  else if (dtype == nb::dtype<uint16_t>())
    convert(static_cast<const uint16_t*>(data), planes, color, first_x, shares_x, first_y, shares_y,
            max_code);
  else if (dtype == nb::dtype<float>())
    convert(static_cast<const float*>(data), planes, color, first_x, shares_x, first_y, shares_y,
            max_code);
  else
    throw std::invalid_argument("rgb_to_planes: rgb must be uint8, uint16 or float32");
}

}  // namespace
}  // namespace accel

ACCEL_BIND(planes_rgb) {
  m.def("planes_to_rgb", &accel::planes_to_rgb);
  m.def("rgb_to_planes", &accel::rgb_to_planes);
}
