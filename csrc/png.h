// Rows of a PNG after inflation: their filters undone.
//
// Source: PNG specification (third edition), chapters 5, 9 and 10.
#pragma once

#include <cstdint>
#include <cstring>

namespace accel {

// A pixel of three or four bytes as numbers that a sum or a difference of three fits into.
typedef int16_t PngPixel __attribute__((vector_size(8)));
typedef uint8_t PngBytes __attribute__((vector_size(4)));

inline PngPixel png_pixel(const uint8_t* from) {  // reads four bytes
  PngBytes bytes;
  std::memcpy(&bytes, from, 4);
  return __builtin_convertvector(bytes, PngPixel);
}

template <int BYTES>
inline PngPixel png_put(PngPixel sum, uint8_t* to) {
  const PngBytes bytes = __builtin_convertvector(sum, PngBytes);
  std::memcpy(to, &bytes, BYTES);
  return sum & 255;
}

inline PngPixel png_abs(PngPixel v) { return v > -v ? v : -v; }

// What lies left, above and to the left of that: the one nearest to a + b - c.
inline PngPixel paeth(PngPixel a, PngPixel b, PngPixel c) {
  const PngPixel to_a = b - c, to_b = a - c;
  const PngPixel pa = png_abs(to_a), pb = png_abs(to_b), pc = png_abs(to_a + to_b);
  const PngPixel b_or_c = pb <= pc ? b : c;
  return ((pa <= pb) & (pa <= pc)) ? a : b_or_c;
}

// Undoes a row's filter in place. above: the row before, filters undone, or zeros. Up to two bytes
// behind either row are read. False where there is no such filter.
template <int BYTES>
inline bool png_unfilter(int filter, uint8_t* row, const uint8_t* above, int64_t width) {
  PngPixel left = {}, corner = {};
  switch (filter) {
    case 0:
      return true;
    case 1:
      for (int64_t x = 0; x < width; ++x, row += BYTES)
        left = png_put<BYTES>(left + png_pixel(row), row);
      return true;
    case 2:
      for (int64_t i = 0; i < width * BYTES; ++i) row[i] = uint8_t(row[i] + above[i]);
      return true;
    case 3:
      for (int64_t x = 0; x < width; ++x, row += BYTES, above += BYTES)
        left = png_put<BYTES>(((left + png_pixel(above)) >> 1) + png_pixel(row), row);
      return true;
    case 4:
      for (int64_t x = 0; x < width; ++x, row += BYTES, above += BYTES) {
        const PngPixel up = png_pixel(above);
        left = png_put<BYTES>(paeth(left, up, corner) + png_pixel(row), row);
        corner = up;
      }
      return true;
  }
  return false;
}

}  // namespace accel
