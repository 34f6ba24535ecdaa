// paste on the CPU. A face's crop is staged once, colour-corrected and turned into code values;
// then each sample of the planes that the mask can reach gathers its taps from there.
#include "paste.h"

#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>

#include "binding.h"

#if defined(__x86_64__)
#define ACCEL_PASTE_AVX2 1
#include "paste_avx2.h"
#endif

namespace accel::paste {
namespace {

float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | mantissa << 13;
  } else if (exponent == 0) {
    const float value = std::ldexp(float(mantissa), -24);
    return sign ? -value : value;
  } else {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
float load(const float* p) { return *p; }
float load(const uint16_t* p) { return half_to_float(*p); }

// Written so that NaN stays NaN.
float clamp_color(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }
// Written so that NaN becomes 0.
float clamp_mask(float x) { return x > 0 ? (x > 1 ? 1 : x) : 0; }

template <typename C>
void stage_pixel(const C* rgb, int64_t area, int64_t at, float mask, const Color& color,
                 float* out) {
  float value[3];
  for (int k = 0; k < 3; ++k)
    value[k] = clamp_color(load(rgb + k * area + at) * color.gain[k] + color.bias[k]);
  for (int k = 0; k < 3; ++k) {
    const float* w = color.to_codes + 4 * k;
    out[k] = w[0] * value[0] + w[1] * value[1] + w[2] * value[2] + w[3];
  }
  out[3] = clamp_mask(mask);
}

bool has_avx2() {
#ifdef ACCEL_PASTE_AVX2
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

// Find where the mask is above 0; false when it is nowhere.
bool bound_mask(const float* mask, int side, Staged& crop) {
  crop.first.assign(side, side);
  crop.last.assign(side, -1);
  crop.x0 = crop.y0 = side;
  crop.x1 = crop.y1 = -1;
  for (int y = 0; y < side; ++y) {
    const float* row = mask + int64_t(y) * side;
    int first = 0, last = side - 1;
    while (first < side && !(row[first] > 0)) ++first;
    if (first == side) continue;
    while (!(row[last] > 0)) --last;
    crop.first[y] = first;
    crop.last[y] = last;
    crop.x0 = std::min(crop.x0, first);
    crop.x1 = std::max(crop.x1, last);
    crop.y0 = std::min(crop.y0, y);
    crop.y1 = y;
  }
  return crop.x1 >= 0;
}

// Stage what samples that see the mask can see: the mask's bounds and a footprint around them.
template <typename C>
void stage(const C* rgb, const float* mask, int side, const Color& color, double margin_u,
           double margin_v, bool simd, int threads, Staged& crop) {
  const int64_t area = int64_t(side) * side;
  crop.left = std::max(-1, to_int(std::floor(crop.x0 - 2 - margin_u)));
  crop.top = std::max(-1, to_int(std::floor(crop.y0 - 2 - margin_v)));
  crop.width = std::min(side, to_int(std::ceil(crop.x1 + 2 + margin_u))) - crop.left + 1;
  crop.height = std::min(side, to_int(std::ceil(crop.y1 + 2 + margin_v))) - crop.top + 1;
  crop.memory.reset(new float[size_t(crop.width) * crop.height * 4]);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int j = 0; j < crop.height; ++j) {
    const int y = crop.top + j, inside_y = std::min(std::max(y, 0), side - 1);
    float* out = crop.memory.get() + size_t(j) * crop.width * 4;
    const int64_t row = int64_t(inside_y) * side;
    int i = crop.left < 0 ? 1 : 0;
    if (i) stage_pixel(rgb, area, row, 0.0f, color, out);
    const int end = std::min(side - crop.left, crop.width);  // the column of coordinate S, or none
#ifdef ACCEL_PASTE_AVX2
    if (simd)
      i += stage_row_avx2(rgb, area, row + crop.left + i, mask, end - i, color, out + 4 * i);
#endif
    for (; i < end; ++i)
      stage_pixel(rgb, area, row + crop.left + i, mask[row + crop.left + i], color, out + 4 * i);
    if (end < crop.width) stage_pixel(rgb, area, row + side - 1, 0.0f, color, out + 4 * end);
    if (y != inside_y)
      for (int k = 0; k < crop.width; ++k) out[4 * k + 3] = 0;
  }
  (void)simd;
}

// Average one sample's taps: three code values and alpha.
void average(const Staged& crop, const Taps& taps, float u0, float v0, float* out) {
  const float right = float(crop.width - 1), bottom = float(crop.height - 1);
  const float* base = crop.memory.get();
  const int64_t pitch = int64_t(crop.width) * 4;
  double total[4] = {0, 0, 0, 0};
  for (size_t t = 0; t < taps.du.size(); ++t) {
    float u = u0 + taps.du[t], v = v0 + taps.dv[t];
    u = u > 0 ? std::min(u, right) : 0;  // NaN, the difference of two infinities, becomes 0
    v = v > 0 ? std::min(v, bottom) : 0;
    const int iu = std::min(int(u), crop.width - 2), iv = std::min(int(v), crop.height - 2);
    const float fu = u - iu, fv = v - iv;
    const float* p = base + iv * pitch + iu * 4;
    for (int k = 0; k < 4; ++k) {
      const float left = p[k] + fv * (p[pitch + k] - p[k]);
      const float next = p[4 + k] + fv * (p[pitch + 4 + k] - p[4 + k]);
      total[k] += left + fu * (next - left);
    }
  }
  for (int k = 0; k < 4; ++k) out[k] = float(total[k] / double(taps.du.size()));
}

template <typename T>
void blend(T* sample, float color, float alpha, float max_code) {
  if (!(alpha > 0) || color != color) return;
  const float old = float(*sample);
  const float code = std::nearbyint(old + alpha * (color - old));
  *sample = T(std::min(std::max(code, 0.0f), max_code));
}

// Eight samples of one row, of which the first `count` are wanted.
template <typename T>
void block(const Job<T>& job, int j, int i, int count, double u, double v) {
  const double du = job.matrix.a * job.group.step_x, dv = job.matrix.c * job.group.step_x;
  for (int s = 0; s < count; ++s) {
    float mean[4];
    average(job.crop, job.taps, float(u + s * du), float(v + s * dv), mean);
    for (int k = 0; k < job.group.count; ++k) {
      const Plane<T>& plane = job.planes[job.group.channel + k];
      blend(plane.data + j * plane.row + (i + s) * plane.column, mean[job.group.channel + k],
            mean[3], job.max_code);
    }
  }
}

template <typename T>
void paste_row(const Job<T>& job, int j, bool simd) {
  const Matrix& m = job.matrix;
  const Group& g = job.group;
  const Range range = span(m, g, job.taps, job.crop, j);
  const double y = g.site_y + j * g.step_y;
  for (int i = range.begin; i < range.end; i += kLanes) {
    const int count = std::min(kLanes, range.end - i);
    const double x = g.site_x + i * g.step_x, width = (count - 1) * g.step_x;
    const double u = m.a * x + m.b * y + m.tx, v = m.c * x + m.d * y + m.ty;
    const double to_u = m.a * width, to_v = m.c * width;
    if (!touches(job.crop, u + std::min(to_u, 0.0) - job.taps.reach_u,
                 v + std::min(to_v, 0.0) - job.taps.reach_v,
                 u + std::max(to_u, 0.0) + job.taps.reach_u,
                 v + std::max(to_v, 0.0) + job.taps.reach_v))
      continue;
#ifdef ACCEL_PASTE_AVX2
    if (simd) {
      block_avx2(job, j, i, count, u - job.crop.left, v - job.crop.top);
      continue;
    }
#endif
    block(job, j, i, count, u - job.crop.left, v - job.crop.top);
  }
  (void)simd;
}

// Everything of one call but the types of its arrays.
struct Call {
  int faces, side, threads;
  bool simd;
  const float *masks, *matrices, *gain, *bias;
  float to_codes[12], max_code;
  Group groups[2];
  int group_count;
};

template <typename T, typename C>
void run(const Call& call, const Plane<T>* planes, const C* crops) {
  const int64_t area = int64_t(call.side) * call.side;
  Staged crop;
  for (int n = 0; n < call.faces; ++n) {
    const float* m = call.matrices + 6 * n;
    const Matrix matrix{m[0], m[1], m[2], m[3], m[4], m[5]};
    Color color;
    std::memcpy(color.gain, call.gain + 3 * n, sizeof color.gain);
    std::memcpy(color.bias, call.bias + 3 * n, sizeof color.bias);
    std::memcpy(color.to_codes, call.to_codes, sizeof color.to_codes);
    if (!bound_mask(call.masks + n * area, call.side, crop)) continue;
    bool staged = false;
    for (int k = 0; k < call.group_count; ++k) {
      const Group& group = call.groups[k];
      const Taps taps(matrix, group, call.side);
      const Range range = rows(matrix, group, taps, crop);
      if (range.begin >= range.end) continue;
      if (!staged) {
        // The last group has the widest footprint.
        const Group& wide = call.groups[call.group_count - 1];
        const Taps widest(matrix, wide, call.side);
        stage(crops + 3 * n * area, call.masks + n * area, call.side, color, 2 * widest.reach_u,
              2 * widest.reach_v, call.simd, call.threads, crop);
        staged = true;
      }
      const Job<T> job{matrix, group, crop, taps, {planes[0], planes[1], planes[2]}, call.max_code};
      const int threads = std::min(call.threads, (range.end - range.begin + 7) / 8);
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads) if (threads > 1)
      for (int j = range.begin; j < range.end; ++j) paste_row(job, j, call.simd);
    }
  }
}

void need(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("paste: ") + what);
}

bool is_float32(const ConstArray& a) { return a.dtype() == nb::dtype<float>(); }
bool is_half(const ConstArray& a) {
  return a.dtype().code == uint8_t(nb::dlpack::dtype_code::Float) && a.dtype().bits == 16;
}
bool is_packed(const ConstArray& a) {
  int64_t expected = 1;
  for (int k = int(a.ndim()) - 1; k >= 0; --k) {
    if (a.shape(k) != 1 && a.stride(k) != expected) return false;
    expected *= int64_t(a.shape(k));
  }
  return true;
}

template <typename T>
void run_planes(const Call& call, const Array* arrays, const ConstArray& crops) {
  Plane<T> planes[3];
  for (int k = 0; k < 3; ++k)
    planes[k] = {static_cast<T*>(arrays[k].data()), arrays[k].stride(0), arrays[k].stride(1)};
  const bool half = is_half(crops);
  const void* data = crops.data();
  nb::gil_scoped_release unlocked;
  if (half)
    run(call, planes, static_cast<const uint16_t*>(data));
  else
    run(call, planes, static_cast<const float*>(data));
}

void paste(Array c0, Array c1, Array c2, ConstArray crops, ConstArray masks, ConstArray matrices,
           ConstArray gain, ConstArray bias, const std::vector<float>& from_rgb, int shift_x,
           int shift_y, double site_x, double site_y, int max_code, int threads, bool simd) {
  const Array arrays[3] = {c0, c1, c2};
  const bool wide = c0.dtype() == nb::dtype<uint16_t>();
  for (const Array& plane : arrays) {
    need(plane.ndim() == 2, "planes must have two dimensions");
    need(plane.dtype() == (wide ? nb::dtype<uint16_t>() : nb::dtype<uint8_t>()),
         "planes must be uint8 or uint16");
  }
  need(c1.shape(0) == c2.shape(0) && c1.shape(1) == c2.shape(1), "c1 and c2 must have one shape");
  need(crops.ndim() == 4 && crops.shape(1) == 3 && crops.shape(2) == crops.shape(3) &&
           (is_float32(crops) || is_half(crops)) && is_packed(crops),
       "crops must be [N, 3, S, S] float32 or float16, contiguous");
  const size_t n = crops.shape(0), side = crops.shape(3);
  need(side >= 1 && side <= 16384, "the side of a crop must lie in 1..16384");
  need(
      masks.ndim() == 3 && masks.size() == n * side * side && is_float32(masks) && is_packed(masks),
      "masks must be [N, S, S] float32, contiguous");
  need(matrices.size() == 6 * n && is_float32(matrices) && is_packed(matrices) &&
           gain.size() == 3 * n && is_float32(gain) && is_packed(gain) && bias.size() == 3 * n &&
           is_float32(bias) && is_packed(bias),
       "matrices, gain and bias must be [N, 2, 3], [N, 3] and [N, 3] float32, contiguous");
  need(from_rgb.size() == 12, "from_rgb must have twelve numbers");
  need(shift_x >= 0 && shift_x <= 4 && shift_y >= 0 && shift_y <= 4, "shifts must lie in 0..4");

  Call call{};
  call.faces = int(n);
  call.side = int(side);
  call.threads = std::max(threads, 1);
  call.simd = simd && has_avx2();
  call.masks = static_cast<const float*>(masks.data());
  call.matrices = static_cast<const float*>(matrices.data());
  call.gain = static_cast<const float*>(gain.data());
  call.bias = static_cast<const float*>(bias.data());
  std::copy(from_rgb.begin(), from_rgb.end(), call.to_codes);
  call.max_code = float(max_code);
  const bool together = shift_x == 0 && shift_y == 0 && site_x == 0 && site_y == 0 &&
                        c0.shape(0) == c1.shape(0) && c0.shape(1) == c1.shape(1);
  call.group_count = together ? 1 : 2;
  call.groups[0] = {int(c0.shape(0)), int(c0.shape(1)), 0, together ? 3 : 1, 1, 1, 0, 0};
  call.groups[1] = {int(c1.shape(0)),     int(c1.shape(1)),     1,      2,
                    double(1 << shift_x), double(1 << shift_y), site_x, site_y};
  if (wide)
    run_planes<uint16_t>(call, arrays, crops);
  else
    run_planes<uint8_t>(call, arrays, crops);
}

}  // namespace
}  // namespace accel::paste

ACCEL_BIND(paste) {
  m.def("paste", &accel::paste::paste, "c0"_a, "c1"_a, "c2"_a, "crops"_a, "masks"_a, "matrices"_a,
        "gain"_a, "bias"_a, "from_rgb"_a, "shift_x"_a, "shift_y"_a, "site_x"_a, "site_y"_a,
        "max_code"_a, "threads"_a, "simd"_a = true);
}
