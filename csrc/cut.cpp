// Pictures cut out of eight-bit planes, on the CPU; accel/kernels/cut.py says what they are.
#include "cut.h"

#include <nanobind/stl/vector.h>

#include <vector>

#include "binding.h"
#include "jpeg.h"

#define ACCEL_VECTOR_CODE "jpeg_rows.h"
#include "simd.h"

namespace accel {
namespace {

constexpr int64_t kWorthThreads = 1 << 15;

CutPlane plane_at(const ConstArray& array, const std::vector<double>& back, double outside) {
  if (array.ndim() != 2 || array.dtype() != nb::dtype<uint8_t>() ||
      (array.shape(1) > 1 && array.stride(1) != 1))
    throw std::invalid_argument("cut: a plane must be [H, W] of uint8, its rows without gaps");
  const int64_t height = array.shape(0), width = array.shape(1), row = array.stride(0);
  if (height < 1 || width < 1 || row < 0 || row * height >= (int64_t(1) << 31) ||
      width >= (1 << 20) || height >= (1 << 20) || back.size() != 6)
    throw std::invalid_argument("cut: sizes of a plane or its matrix");
  CutPlane p;
  p.data = static_cast<const uint8_t*>(array.data());
  p.row = row, p.width = int(width), p.height = int(height);
  p.du = float(back[0]), p.su = float(back[1]), p.u0 = float(back[2]);
  p.dv = float(back[3]), p.sv = float(back[4]), p.v0 = float(back[5]);
  p.outside = float(outside);
  return p;
}

CutJob job_of(const ConstArray& c0, const ConstArray& c1, const ConstArray& c2,
              const std::vector<double>& luma, const std::vector<double>& chroma,
              const std::vector<double>& color, const std::vector<double>& outside, int size,
              int step) {
  if (color.size() != 12 || outside.size() != 3 || step < 1 || step > 2 || size < 1 ||
      size >= (1 << 15))
    throw std::invalid_argument("cut: sizes of color, outside or the picture");
  CutJob job;
  job.planes[0] = plane_at(c0, luma, outside[0]);
  job.planes[1] = plane_at(c1, chroma, outside[1]);
  job.planes[2] = plane_at(c2, chroma, outside[2]);
  for (int i = 0; i < 12; ++i) job.color[i] = float(color[i]);
  job.size = size, job.step = step;
  job.bytes = nullptr, job.floats = nullptr;
  return job;
}

void cut(ConstArray c0, ConstArray c1, ConstArray c2, const std::vector<double>& luma,
         const std::vector<double>& chroma, const std::vector<double>& color,
         const std::vector<double>& outside, int step, Array out) {
  if (out.ndim() != 3 || out.shape(0) != out.shape(1) || out.shape(2) != 3 ||
      out.shape(0) >= (1 << 15))
    throw std::invalid_argument("cut: sizes of out");
  const int size = int(out.shape(0));
  CutJob job = job_of(c0, c1, c2, luma, chroma, color, outside, size, step);
  const bool floats = out.dtype() == nb::dtype<float>();
  if (!floats && out.dtype() != nb::dtype<uint8_t>())
    throw std::invalid_argument("cut: out must be uint8 or float32");
  job.bytes = floats ? nullptr : static_cast<uint8_t*>(out.data());
  job.floats = floats ? static_cast<float*>(out.data()) : nullptr;
  nb::gil_scoped_release unlocked;
#pragma omp parallel if (int64_t(size) * size > kWorthThreads)
  {
    std::vector<float> scratch(size_t(size + 1) * 6);
#pragma omp for schedule(static)
    for (int y = 0; y < (size + step - 1) / step; ++y)
      ACCEL_WIDEST(cut_rows(job, y * step, scratch.data()));
  }
}

// The bytes of a JPEG, 16 rows after the other: no picture lies in memory in between.
void encode(const CutJob& job, int quality, std::vector<uint8_t>& kept, size_t& length) {
  const int size = job.size, groups = (size + kMcu - 1) / kMcu, wide = (groups + 1) / 2 * 2 * kMcu;
  const JpegScales scales(quality);
  static const JpegCodes codes[] = {JpegCodes(kLumaDc), JpegCodes(kLumaAc), JpegCodes(kChromaDc),
                                    JpegCodes(kChromaAc)};
  JpegWriter writer(kept);
  jpeg_header(writer, size, scales.steps);
  const int luma = wide / 8, chroma = wide / 16, blocks = 2 * (luma + chroma);
  const Floats scratch(int64_t(size + 1) * 6), picture(int64_t(wide) * 24);
  std::vector<int16_t> levels(size_t(blocks) * 64);
  std::vector<uint64_t> masks(blocks);
  float* rows = picture.data;
  const JpegStrip strip = {wide, {rows, rows + kMcu * wide, rows + (kMcu + 4) * wide}};
  int last[3] = {0, 0, 0};
  for (int y = 0; y < size; y += kMcu) {
    ACCEL_WIDEST(jpeg_cut(job, y, strip, scratch.data));
    ACCEL_WIDEST(jpeg_strip(strip, scales.inverse, levels.data(), masks.data()));
    for (int i = 0; i < groups; ++i) {
      writer.make_room();
      const int at[] = {
          2 * i, 2 * i + 1, luma + 2 * i, luma + 2 * i + 1, 2 * luma + i, 2 * luma + chroma + i};
      for (int k = 0; k < 6; ++k) {
        const int plane = k < 4 ? 0 : k - 3;
        writer.block(&levels[64 * at[k]], masks[at[k]], last[plane], codes[plane ? 2 : 0],
                     codes[plane ? 3 : 1]);
      }
    }
  }
  writer.finish();
  length = writer.size();
}

nb::bytes cut_jpeg(ConstArray c0, ConstArray c1, ConstArray c2, const std::vector<double>& luma,
                   const std::vector<double>& chroma, const std::vector<double>& color,
                   const std::vector<double>& outside, int size, int step, int quality) {
  if (quality < 1 || quality > 100) throw std::invalid_argument("cut_jpeg: quality");
  const CutJob job = job_of(c0, c1, c2, luma, chroma, color, outside, size, step);
  std::vector<uint8_t> kept;
  size_t length = 0;
  {
    nb::gil_scoped_release unlocked;
    kept.resize(size_t(size) * size / 4);
    encode(job, quality, kept, length);
  }
  return nb::bytes(kept.data(), length);
}

}  // namespace
}  // namespace accel

ACCEL_BIND(cut) {
  m.def("cut", &accel::cut, "c0"_a, "c1"_a, "c2"_a, "luma"_a, "chroma"_a, "color"_a, "outside"_a,
        "step"_a, "out"_a);
  m.def("cut_jpeg", &accel::cut_jpeg, "c0"_a, "c1"_a, "c2"_a, "luma"_a, "chroma"_a, "color"_a,
        "outside"_a, "size"_a, "step"_a, "quality"_a);
}
