// Pictures of -1..1 to bytes, pixels side by side.
#include <vector>

#define ACCEL_VECTOR_CODE "to_uint8_rows.h"
#include "binding.h"
#include "simd.h"

namespace accel {
namespace {

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
      ACCEL_WIDEST(to_bytes(start, width * channels, into));
    } else if (step == 1) {
      std::vector<uint8_t> bytes(width * channels);
      for (int64_t c = 0; c < channels; ++c)
        ACCEL_WIDEST(to_bytes(start + c * plane, width, bytes.data() + c * width));
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < width; ++i) into[i * channels + c] = bytes[c * width + i];
    } else {
      std::vector<float> values(width * channels);
      for (int64_t i = 0; i < width; ++i)
        for (int64_t c = 0; c < channels; ++c)
          values[i * channels + c] = start[i * step + c * plane];
      ACCEL_WIDEST(to_bytes(values.data(), width * channels, into));
    }
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(to_uint8) { m.def("to_uint8", &accel::to_uint8_cpu, "x"_a, "out"_a, "threads"_a); }
