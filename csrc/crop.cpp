// crop on the CPU. Each row of a crop is sampled plane by plane, coloured, then written out.
#include "crop.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <vector>

#include "crop_rows.h"
#include "plane_array.h"

namespace accel {
namespace {

// How much work makes a second thread worth waking.
constexpr int64_t kWorthThreads = 1 << 15;

void crop_cpu(ConstArray c0, ConstArray c1, ConstArray c2,
              Given<float, nb::ro, nb::ndim<3>, nb::c_contig, nb::device::cpu> matrices, Array out,
              const std::vector<double>& color, const std::vector<double>& gain,
              const std::vector<double>& bias, int per_x, int per_y, double site_x, double site_y,
              bool channels_last, bool zero_border, bool simd) {
  const ConstArray* arrays[3] = {&c0, &c1, &c2};
  CropJob job;
  for (int i = 0; i < 3; ++i) {
    job.planes[i] = plane_of(*arrays[i], "crop");
    if (job.planes[i].width < 1 || job.planes[i].height < 1)
      throw std::invalid_argument("crop: planes must have pixels");
  }
  // Chroma shares one set of coordinates and taps.
  if (job.planes[1].width != job.planes[2].width || job.planes[1].height != job.planes[2].height)
    throw std::invalid_argument("crop: c1 and c2 must have one size");
  const bool half = out.dtype() != nb::dtype<float>();
  if (half &&
      !(out.dtype().code == uint8_t(nb::dlpack::dtype_code::Float) && out.dtype().bits == 16))
    throw std::invalid_argument("crop: out must be float32 or float16");
  if (gain.size() != 3 || bias.size() != 3 || matrices.shape(1) != 2 || matrices.shape(2) != 3 ||
      out.ndim() != 4 || out.shape(0) != matrices.shape(0) || out.shape(channels_last ? 3 : 1) != 3)
    throw std::invalid_argument("crop: sizes of gain, bias, matrices or out");
  job.color = color_of(color, "crop");
  for (int i = 0; i < 3; ++i) job.gain[i] = float(gain[i]), job.bias[i] = float(bias[i]);
  job.height = int(out.shape(channels_last ? 1 : 2));
  job.width = int(out.shape(channels_last ? 2 : 3));
  job.zero_border = zero_border;
  job.simd = simd && has_row_simd();
  const int64_t n = matrices.shape(0), pixels = int64_t(job.height) * job.width;
  const float* m = matrices.data();
  uint8_t* result = static_cast<uint8_t*>(out.data());
  const int64_t size = half ? 2 : 4;

  nb::gil_scoped_release unlocked;
  for (int64_t i = 0; i < n; ++i) {
    job.luma = sampling_of(m + 6 * i, job.planes[0], job.height, job.width, 1, 1, 0, 0);
    job.chroma =
        sampling_of(m + 6 * i, job.planes[1], job.height, job.width, per_x, per_y, site_x, site_y);
    const CropRows rows(job);
    uint8_t* image = result + i * pixels * 3 * size;
    const int64_t samples = pixels * job.luma.kx * job.luma.ky;
#pragma omp parallel if (samples > kWorthThreads)
    {
      std::vector<float> scratch(rows.scratch_size());
#pragma omp for schedule(static)
      for (int y = 0; y < job.height; ++y) {
        const RowOut to = {image, size, pixels, y, half, channels_last};
        rows.run(to, scratch.data());
      }
    }
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(crop) {
  m.def("crop", &accel::crop_cpu, "c0"_a, "c1"_a, "c2"_a, "matrices"_a, "out"_a, "color"_a,
        "gain"_a, "bias"_a, "per_x"_a, "per_y"_a, "site_x"_a, "site_y"_a, "channels_last"_a,
        "zero_border"_a, "simd"_a = true);
}
