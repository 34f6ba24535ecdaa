// Where a warped picture's pixel comes from, and the weights it is read with.
#pragma once

#include "both.h"

namespace accel {

struct WarpPlace {
  float x, y;
};

// NaN becomes 0, so that no index is made of it.
ACCEL_BOTH float clamp_float(float v, float top) { return v > 0 ? (v < top ? v : top) : 0.0f; }

ACCEL_BOTH int clamp_int(int v, int size) { return v < 0 ? 0 : v >= size ? size - 1 : v; }

ACCEL_BOTH int floor_int(float v) {
  const int i = int(v);
  return i - (float(i) > v);
}

// grid: x then y of side × side corners, in pixels of the picture. matrix: from the output's pixel
// to the warped picture's, beyond whose border it goes on as at the border.
ACCEL_BOTH WarpPlace warp_place(const float* grid, int side, const float* matrix, float x, float y,
                                int width, int height) {
  const float u = clamp_float(matrix[0] * x + matrix[1] * y + matrix[2], float(width - 1));
  const float v = clamp_float(matrix[3] * x + matrix[4] * y + matrix[5], float(height - 1));
  const float gx = u * (float(side - 1) / float(width));
  const float gy = v * (float(side - 1) / float(height));
  const int i = int(gx) < side - 2 ? int(gx) : side - 2;
  const int j = int(gy) < side - 2 ? int(gy) : side - 2;
  const float fx = gx - float(i), fy = gy - float(j);
  const float* a = grid + j * side + i;
  const float* b = a + side * side;
  WarpPlace at;
  at.x = (a[0] * (1 - fx) + a[1] * fx) * (1 - fy) + (a[side] * (1 - fx) + a[side + 1] * fx) * fy;
  at.y = (b[0] * (1 - fx) + b[1] * fx) * (1 - fy) + (b[side] * (1 - fx) + b[side + 1] * fx) * fy;
  // Far outside all is border; int() of a huge number is not defined.
  at.x = clamp_float(at.x + float(width), 3.0f * float(width)) - float(width);
  at.y = clamp_float(at.y + float(height), 3.0f * float(height)) - float(height);
  return at;
}

// Keys' cubic with a = -0.75, as OpenCV has it.
ACCEL_BOTH void cubic_weights(float f, float* w) {
  const float a = -0.75f, g = f + 1, h = 1 - f;
  w[0] = ((a * g - 5 * a) * g + 8 * a) * g - 4 * a;
  w[1] = ((a + 2) * f - (a + 3)) * f * f + 1;
  w[2] = ((a + 2) * h - (a + 3)) * h * h + 1;
  w[3] = 1 - w[0] - w[1] - w[2];
}

}  // namespace accel
