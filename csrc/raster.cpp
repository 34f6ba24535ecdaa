// Textured triangles into a crop, z-buffered. Bands of rows are independent, so the result does not
// depend on the number of threads. A band is drawn in two passes: triangles leave depth, texture
// place and weight in a scratch that stays in cache, then each row looks its colours up once.
#include "raster.h"

#include <limits>
#include <vector>

#include "binding.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define ACCEL_RASTER_AVX2 1
#endif

namespace accel::raster {
namespace {

constexpr int kBandRows = 16;
constexpr float kFar = std::numeric_limits<float>::infinity();

struct Scratch {  // one band; a row has room for a whole vector past its end
  int stride;
  std::vector<float> z, u, v, weight;
  explicit Scratch(int width)
      : stride((width + 15) / 8 * 8),
        z(size_t(stride) * kBandRows),
        u(z.size()),
        v(z.size()),
        weight(z.size()) {}
};

struct Texture {
  const float* rgb;  // three planes
  int height, width;
};

struct Start {  // a plane on one row
  float at, dx, low, high;
  Start(const Plane& p, float down)
      : at(p.origin + down * p.dy), dx(p.dx), low(p.low), high(p.high) {}
  float operator()(float right) const { return keep(at + right * dx, low, high); }
};

void fill_span(const Triangle& t, int y, int begin, int end, Scratch& s, size_t row) {
  const float down = float(y) - t.y0;
  const Start z(t.z, down), u(t.u, down), v(t.v, down), weight(t.weight, down);
  for (int x = begin; x < end; ++x) {
    const float right = float(x) - t.x0, depth = z(right);
    if (depth < s.z[row + x]) {
      s.z[row + x] = depth;
      s.u[row + x] = u(right);
      s.v[row + x] = v(right);
      s.weight[row + x] = weight(right);
    }
  }
}

void shade_row(const Texture& texture, const Scratch& s, size_t row, int begin, int end, float* out,
               int64_t plane_size) {
  const int64_t texels = int64_t(texture.height) * texture.width;
  for (int x = begin; x < end; ++x) {
    if (!(s.z[row + x] < kFar)) {
      for (int c = 0; c < 4; ++c) out[c * plane_size + x] = 0;
      continue;
    }
    const float u = keep(s.u[row + x], 0, float(texture.width - 1));
    const float v = keep(s.v[row + x], 0, float(texture.height - 1));
    const int x0 = int(u), y0 = int(v);
    const float fx = u - float(x0), fy = v - float(y0);
    const int64_t right = x0 + 1 < texture.width,
                  down = y0 + 1 < texture.height ? texture.width : 0;
    for (int c = 0; c < 3; ++c) {
      const float* at = texture.rgb + c * texels + int64_t(y0) * texture.width + x0;
      const float top = at[0] + (at[right] - at[0]) * fx;
      const float bottom = at[down] + (at[down + right] - at[down]) * fx;
      out[c * plane_size + x] = top + (bottom - top) * fy;
    }
    out[3 * plane_size + x] = s.weight[row + x];
  }
}

#ifdef ACCEL_RASTER_AVX2
#define AVX2 __attribute__((target("avx2")))

struct Start8 {
  __m256 at, dx, low, high;
  AVX2 explicit Start8(const Start& s)
      : at(_mm256_set1_ps(s.at)),
        dx(_mm256_set1_ps(s.dx)),
        low(_mm256_set1_ps(s.low)),
        high(_mm256_set1_ps(s.high)) {}
  AVX2 __m256 operator()(__m256 right) const {
    const __m256 value = _mm256_add_ps(at, _mm256_mul_ps(right, dx));
    return _mm256_min_ps(_mm256_max_ps(value, low), high);  // max(NaN, low) is low, as in keep()
  }
};

AVX2 inline void replace(float* where, __m256 value, __m256 mask) {
  _mm256_storeu_ps(where, _mm256_blendv_ps(_mm256_loadu_ps(where), value, mask));
}

// Writes old values back past `end`; the scratch is this thread's own and has the room.
AVX2 void fill_span_avx2(const Triangle& t, int y, int begin, int end, Scratch& s, size_t row) {
  const float down = float(y) - t.y0;
  const Start8 z(Start(t.z, down)), u(Start(t.u, down)), v(Start(t.v, down)),
      weight(Start(t.weight, down));
  const __m256 lane = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), x0 = _mm256_set1_ps(t.x0);
  for (int x = begin; x < end; x += 8) {
    const __m256 at = _mm256_add_ps(_mm256_set1_ps(float(x)), lane);
    const __m256 inside = _mm256_cmp_ps(at, _mm256_set1_ps(float(end)), _CMP_LT_OQ);
    const __m256 right = _mm256_sub_ps(at, x0), depth = z(right);
    const __m256 nearer = _mm256_cmp_ps(depth, _mm256_loadu_ps(&s.z[row + x]), _CMP_LT_OQ);
    const __m256 mask = _mm256_and_ps(inside, nearer);
    replace(&s.z[row + x], depth, mask);
    replace(&s.u[row + x], u(right), mask);
    replace(&s.v[row + x], v(right), mask);
    replace(&s.weight[row + x], weight(right), mask);
  }
}

AVX2 inline __m256 mix(__m256 a, __m256 b, __m256 share) {
  return _mm256_add_ps(a, _mm256_mul_ps(_mm256_sub_ps(b, a), share));
}

AVX2 void shade_row_avx2(const Texture& texture, const Scratch& s, size_t row, int width,
                         float* out, int64_t plane_size) {
  const int64_t texels = int64_t(texture.height) * texture.width;
  const __m256 zero = _mm256_setzero_ps(), far = _mm256_set1_ps(kFar);
  const __m256 last_u = _mm256_set1_ps(float(texture.width - 1));
  const __m256 last_v = _mm256_set1_ps(float(texture.height - 1));
  const __m256i last_x = _mm256_set1_epi32(texture.width - 1), one = _mm256_set1_epi32(1);
  const __m256i last_y = _mm256_set1_epi32(texture.height - 1);
  const __m256i stride = _mm256_set1_epi32(texture.width);
  int x = 0;
  for (; x + 8 <= width; x += 8) {
    const __m256 covered = _mm256_cmp_ps(_mm256_loadu_ps(&s.z[row + x]), far, _CMP_LT_OQ);
    if (_mm256_testz_ps(covered, covered)) {
      for (int c = 0; c < 4; ++c) _mm256_storeu_ps(out + c * plane_size + x, zero);
      continue;
    }
    // What lies in an uncovered lane is left over from before; the mask and max make it a zero.
    const __m256 u = _mm256_min_ps(
        _mm256_max_ps(_mm256_and_ps(covered, _mm256_loadu_ps(&s.u[row + x])), zero), last_u);
    const __m256 v = _mm256_min_ps(
        _mm256_max_ps(_mm256_and_ps(covered, _mm256_loadu_ps(&s.v[row + x])), zero), last_v);
    const __m256i x0 = _mm256_cvttps_epi32(u), y0 = _mm256_cvttps_epi32(v);
    const __m256 fx = _mm256_sub_ps(u, _mm256_cvtepi32_ps(x0));
    const __m256 fy = _mm256_sub_ps(v, _mm256_cvtepi32_ps(y0));
    const __m256i x1 = _mm256_min_epi32(_mm256_add_epi32(x0, one), last_x);
    const __m256i y1 = _mm256_min_epi32(_mm256_add_epi32(y0, one), last_y);
    const __m256i row0 = _mm256_mullo_epi32(y0, stride), row1 = _mm256_mullo_epi32(y1, stride);
    const __m256i a = _mm256_add_epi32(row0, x0), b = _mm256_add_epi32(row0, x1);
    const __m256i c = _mm256_add_epi32(row1, x0), d = _mm256_add_epi32(row1, x1);
    for (int channel = 0; channel < 3; ++channel) {
      const float* from = texture.rgb + channel * texels;
      const __m256 top = mix(_mm256_i32gather_ps(from, a, 4), _mm256_i32gather_ps(from, b, 4), fx);
      const __m256 bottom =
          mix(_mm256_i32gather_ps(from, c, 4), _mm256_i32gather_ps(from, d, 4), fx);
      _mm256_storeu_ps(out + channel * plane_size + x,
                       _mm256_and_ps(covered, mix(top, bottom, fy)));
    }
    _mm256_storeu_ps(out + 3 * plane_size + x,
                     _mm256_and_ps(covered, _mm256_loadu_ps(&s.weight[row + x])));
  }
  shade_row(texture, s, row, x, width, out, plane_size);
}
#endif

bool use_avx2() {
#ifdef ACCEL_RASTER_AVX2
  return __builtin_cpu_supports("avx2");
#else
  return false;
#endif
}

struct Band {
  int first, last;  // rows first..last-1
};

void draw_band(const std::vector<Triangle>& triangles, const Texture& texture, Band band, int width,
               float* out, int64_t plane_size, Scratch& s) {
  const bool avx2 = use_avx2();
  std::fill(s.z.begin(), s.z.begin() + size_t(s.stride) * (band.last - band.first), kFar);
  for (const Triangle& t : triangles) {
    if (!(t.y[2] > band.first && t.y[0] <= band.last - 1)) continue;
    const int first = std::max(band.first, first_at(t.y[0], band.last));
    const int last = first_at(t.y[2], band.last);
    for (int y = first; y < last; ++y) {
      int begin, end;
      span(t, y, width, begin, end);
      if (begin >= end) continue;
      const size_t row = size_t(y - band.first) * s.stride;
#ifdef ACCEL_RASTER_AVX2
      if (avx2) {
        fill_span_avx2(t, y, begin, end, s, row);
        continue;
      }
#endif
      fill_span(t, y, begin, end, s, row);
    }
  }
  for (int y = band.first; y < band.last; ++y) {
    const size_t row = size_t(y - band.first) * s.stride;
    float* to = out + int64_t(y) * width;
#ifdef ACCEL_RASTER_AVX2
    if (avx2) {
      shade_row_avx2(texture, s, row, width, to, plane_size);
      continue;
    }
#endif
    shade_row(texture, s, row, 0, width, to, plane_size);
  }
}

template <typename T, int N>
using In = Given<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Out = Given<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

void draw(In<float, 4> textures, In<float, 3> texture_points, In<float, 3> points,
          In<float, 2> weights, In<int32_t, 2> triangles, In<int32_t, 1> which, Out out) {
  const int64_t faces = points.shape(0), vertices = points.shape(1), count = triangles.shape(0);
  const int height = int(out.shape(2)), width = int(out.shape(3));
  const int64_t plane_size = int64_t(height) * width, pictures = textures.shape(0);
  const int64_t texels = int64_t(textures.shape(2)) * int64_t(textures.shape(3));
  const auto is = [&](auto& array, std::initializer_list<int64_t> shape) {
    int i = 0;
    for (int64_t n : shape)
      if (int64_t(array.shape(i++)) != n) return false;
    return true;
  };
  if (!is(points, {faces, vertices, 3}) || !is(texture_points, {faces, vertices, 2}) ||
      !is(weights, {faces, vertices}) || !is(triangles, {count, 3}) || !is(which, {faces}) ||
      int64_t(out.shape(0)) != faces || out.shape(1) != 4 || textures.shape(1) != 3 ||
      texels > INT32_MAX || out.shape(2) > INT32_MAX / 2 || out.shape(3) > (1 << 24))
    throw std::invalid_argument("raster: the arrays' shapes do not fit together");
  const float *pp = points.data(), *ps = texture_points.data(), *pw = weights.data();
  const float* pt = textures.data();
  const int32_t *pi = triangles.data(), *pk = which.data();
  float* po = out.data();
  nb::gil_scoped_release unlocked;
  const int bands = (height + kBandRows - 1) / kBandRows;
  std::vector<Triangle> ready;
  for (int64_t n = 0; n < faces; ++n) {
    ready.clear();
    const bool has_texture = pk[n] >= 0 && pk[n] < pictures && texels > 0;
    for (int64_t f = 0; has_texture && f < count; ++f) {
      const int32_t* corner = pi + 3 * f;
      const bool exist =
          std::all_of(corner, corner + 3, [&](int32_t i) { return i >= 0 && i < vertices; });
      Triangle t;
      if (exist &&
          prepare(pp + n * vertices * 3, ps + n * vertices * 2, pw + n * vertices, corner, t))
        ready.push_back(t);
    }
    const Texture texture{has_texture ? pt + pk[n] * 3 * texels : nullptr, int(textures.shape(2)),
                          int(textures.shape(3))};
#pragma omp parallel if (bands > 1)
    {
      Scratch scratch(width);
#pragma omp for schedule(dynamic)
      for (int b = 0; b < bands; ++b) {
        const Band band{b * kBandRows, std::min(height, (b + 1) * kBandRows)};
        draw_band(ready, texture, band, width, po + n * 4 * plane_size, plane_size, scratch);
      }
    }
  }
}

}  // namespace
}  // namespace accel::raster

ACCEL_BIND(raster) {
  m.def("raster", &accel::raster::draw, "textures"_a, "texture_points"_a, "points"_a, "weights"_a,
        "triangles"_a, "which"_a, "out"_a);
}
