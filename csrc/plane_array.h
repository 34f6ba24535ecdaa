// From arrays that Python hands over to planes that kernels read.
#pragma once

#include <array>
#include <vector>

#include "binding.h"
#include "planes.h"

namespace accel {

// Refuses what the kernels' 32-bit offsets could not address.
template <typename AnyArray>
Plane plane_of(const AnyArray& array, const char* who) {
  const bool wide = array.dtype() == nb::dtype<uint16_t>();
  if (array.ndim() != 2 || !(wide || array.dtype() == nb::dtype<uint8_t>()))
    throw std::invalid_argument(std::string(who) + ": a plane must be [H, W] of uint8 or uint16");
  const int64_t height = array.shape(0), width = array.shape(1), size = wide ? 2 : 1;
  const int64_t row = array.stride(0) * size, step = array.stride(1) * size;
  if (row < 0 || step < 0 || step > 16 || row * height >= (int64_t(1) << 31) ||
      width * step >= (int64_t(1) << 31) || height >= (1 << 20) || width >= (1 << 20))
    throw std::invalid_argument(std::string(who) + ": a plane must lie forward in under 2 GiB");
  void* data = const_cast<void*>(static_cast<const void*>(array.data()));
  return {static_cast<uint8_t*>(data), row, int32_t(step), int32_t(width), int32_t(height), wide};
}

inline Color color_of(const std::vector<double>& numbers, const char* who) {
  if (numbers.size() != 12)
    throw std::invalid_argument(std::string(who) + ": a colour matrix has twelve numbers");
  Color color;
  for (int i = 0; i < 12; ++i) color.m[i] = float(numbers[i]);
  return color;
}

}  // namespace accel
