// Pictures of -1..1 to bytes, pixels side by side.
#include <vector>

#include "binding.h"

namespace accel {
namespace {

// Rounds halves to even, as torch does; NaN becomes 0.
inline uint8_t to_byte(float x) {
  float v = x * 127.5f + 127.5f;
  v = v > 0 ? v : 0;
  v = v < 255 ? v : 255;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: beyond it there are no fractions
  return uint8_t(int32_t(v + kMagic - kMagic));
}

void to_bytes(const float* __restrict x, int64_t count, uint8_t* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_byte(x[i]);
}

// x: [N, C, H, W] float32 of any strides; out: [N, H, W, C] uint8, side by side.
void to_uint8_cpu(ConstArray x, Array out, int threads) {
  if (x.ndim() != 4 || out.ndim() != 4 || x.dtype() != nb::dtype<float>() ||
      out.dtype() != nb::dtype<uint8_t>() || x.shape(0) != out.shape(0) ||
      x.shape(1) != out.shape(3) || x.shape(2) != out.shape(1) || x.shape(3) != out.shape(2))
    throw std::invalid_argument("to_uint8: x must be float32 [N, C, H, W], out uint8 [N, H, W, C]");
  const float* from = static_cast<const float*>(x.data());
  uint8_t* to = static_cast<uint8_t*>(out.data());
  const int64_t channels = x.shape(1), height = x.shape(2), width = x.shape(3);
  const int64_t rows = int64_t(x.shape(0)) * height;
  const int64_t image = x.stride(0), plane = x.stride(1), line = x.stride(2), step = x.stride(3);
  const int team = rows * width * channels < (1 << 16) ? 1 : threads;
  nb::gil_scoped_release unlocked;
#pragma omp parallel for num_threads(team) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const float* start = from + row / height * image + row % height * line;
    uint8_t* into = to + row * width * channels;
    if (plane == 1 && step == channels) {
      to_bytes(start, width * channels, into);
    } else if (step == 1) {
      std::vector<uint8_t> bytes(width * channels);
      for (int64_t c = 0; c < channels; ++c)
        to_bytes(start + c * plane, width, bytes.data() + c * width);
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < width; ++i) into[i * channels + c] = bytes[c * width + i];
    } else {
      for (int64_t i = 0; i < width; ++i)
        for (int64_t c = 0; c < channels; ++c)
          into[i * channels + c] = to_byte(start[i * step + c * plane]);
    }
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(to_uint8) { m.def("to_uint8", &accel::to_uint8_cpu, "x"_a, "out"_a, "threads"_a); }
