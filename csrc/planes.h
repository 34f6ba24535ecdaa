// Reading a picture out of its planes: the arithmetic that every kernel on planes shares.
#pragma once

#include <cmath>
#include <cstdint>

#include "both.h"

namespace accel {

// One plane as it lies in memory. `row` and `step` are bytes from a sample to the one below and to
// the one on its right; `wide` says that samples have two bytes.
struct Plane {
  uint8_t* data;
  int64_t row;
  int32_t step;
  int32_t width, height;
  bool wide;
};

ACCEL_BOTH float code_at(const Plane& plane, int x, int y) {
  const uint8_t* at = plane.data + y * plane.row + int64_t(x) * plane.step;
  return plane.wide ? float(*reinterpret_cast<const uint16_t*>(at)) : float(*at);
}

// Written so that NaN becomes `low`: a clamped coordinate is always safe to turn into an index.
ACCEL_BOTH float clamp_to(float value, float low, float high) {
  return value > low ? (value < high ? value : high) : low;
}

ACCEL_BOTH float lerp(float a, float b, float t) { return a + t * (b - a); }

// Where a coordinate falls: between samples `index` and `next`, a share `t` of the way. Outside the
// plane the border sample repeats. `origin` is added to `at` as an integer, which keeps the
// fraction exact in float far from zero.
struct Between {
  int index, next;
  float t;
};

ACCEL_BOTH Between between(float at, int origin, int count) {
  const float inside = clamp_to(at, float(-origin), float(count - 1 - origin));
  const float below = count > 1 ? fminf(floorf(inside), float(count - 2 - origin)) : inside;
  const int index = int(below) + origin;
  return {index, count > 1 ? index + 1 : index, inside - below};
}

// The plane at (origin_x + u, origin_y + v), pixel centres at integers, bilinear.
ACCEL_BOTH float bilinear(const Plane& plane, float u, float v, int origin_x, int origin_y) {
  const Between x = between(u, origin_x, plane.width), y = between(v, origin_y, plane.height);
  const float top = lerp(code_at(plane, x.index, y.index), code_at(plane, x.next, y.index), x.t);
  const float low = lerp(code_at(plane, x.index, y.next), code_at(plane, x.next, y.next), x.t);
  return lerp(top, low, y.t);
}

// Row-major [3, 4]: RGB in 0..1 from three code values, or code values from RGB.
struct Color {
  float m[12];
};

ACCEL_BOTH float mix(const Color& color, int row, float a, float b, float c) {
  const float* m = color.m + 4 * row;
  return m[0] * a + m[1] * b + m[2] * c + m[3];
}

}  // namespace accel
