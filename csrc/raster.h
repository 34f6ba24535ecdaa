// What a triangle needs before its pixels are drawn. The same operations in the same order as the
// reference in accel/kernels/raster.py, so that every implementation picks the same owner for
// every pixel.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "both.h"

namespace accel::raster {

// A value that is linear over the triangle: at(x, y) = (origin + (y - y0) dy) + (x - x0) dx, kept
// between its smallest and largest corner because a sliver's slopes are steep and inexact.
struct Plane {
  float origin, dx, dy, low, high;
};

struct Triangle {
  // Corners from top to bottom and x per row along the edges. In double: an edge that two triangles
  // share must cross a row at one and the same place, and near enough to the true one.
  double x[3], y[3];
  double top_bottom, top_middle, middle_bottom;
  float x0, y0;  // the first corner as given, where the planes have their origin
  Plane z, u, v, weight;
};

inline Plane plane(float q0, float q1, float q2, const double (&d)[4], double inverse_area) {
  const double a = double(q1) - double(q0), b = double(q2) - double(q0);
  return {q0, float((a * d[3] - b * d[1]) * inverse_area),
          float((b * d[0] - a * d[2]) * inverse_area), std::min({q0, q1, q2}),
          std::max({q0, q1, q2})};
}

inline double slope(double xa, double ya, double xb, double yb) {
  return yb == ya ? 0.0 : (xb - xa) / (yb - ya);
}

// False when the triangle has no area or a corner that is not finite.
inline bool prepare(const float* points, const float* texture_points, const float* weights,
                    const int32_t* corner, Triangle& t) {
  const float *p[3], *s[3];
  float w[3];
  for (int i = 0; i < 3; ++i) {
    p[i] = points + 3 * int64_t(corner[i]);
    s[i] = texture_points + 2 * int64_t(corner[i]);
    w[i] = weights[corner[i]];
    if (!std::isfinite(p[i][0]) || !std::isfinite(p[i][1]) || !std::isfinite(p[i][2]) ||
        !std::isfinite(s[i][0]) || !std::isfinite(s[i][1]) || !std::isfinite(w[i]))
      return false;
    t.x[i] = p[i][0];
    t.y[i] = p[i][1];
  }
  const double d[4] = {t.x[1] - t.x[0], t.y[1] - t.y[0], t.x[2] - t.x[0], t.y[2] - t.y[0]};
  const double area = d[0] * d[3] - d[2] * d[1];
  if (area == 0) return false;
  const double inverse_area = 1.0 / area;
  t.x0 = p[0][0];
  t.y0 = p[0][1];
  t.z = plane(p[0][2], p[1][2], p[2][2], d, inverse_area);
  t.u = plane(s[0][0], s[1][0], s[2][0], d, inverse_area);
  t.v = plane(s[0][1], s[1][1], s[2][1], d, inverse_area);
  t.weight = plane(w[0], w[1], w[2], d, inverse_area);
  const auto order = [&t](int i, int j) {
    if (t.y[j] < t.y[i]) std::swap(t.y[i], t.y[j]), std::swap(t.x[i], t.x[j]);
  };
  order(0, 1), order(1, 2), order(0, 1);
  t.top_bottom = slope(t.x[0], t.y[0], t.x[2], t.y[2]);
  t.top_middle = slope(t.x[0], t.y[0], t.x[1], t.y[1]);
  t.middle_bottom = slope(t.x[1], t.y[1], t.x[2], t.y[2]);
  return true;
}

// First integer at or above a, held in 0..limit.
inline int first_at(double a, int limit) {
  return int(std::ceil(std::min(std::max(a, 0.0), double(limit))));
}

// Pixels begin..end-1 of row y lie in the triangle, for y[0] <= y < y[2]. A left or top edge owns
// the centres that lie on it, a right or bottom edge does not.
inline void span(const Triangle& t, int y, int width, int& begin, int& end) {
  const double a = t.x[0] + (y - t.y[0]) * t.top_bottom;
  const double b =
      y < t.y[1] ? t.x[0] + (y - t.y[0]) * t.top_middle : t.x[1] + (y - t.y[1]) * t.middle_bottom;
  begin = first_at(std::min(a, b), width);
  end = first_at(std::max(a, b), width);
}

// Written so that NaN gives `low`.
inline float keep(float value, float low, float high) {
  value = value > low ? value : low;
  return value < high ? value : high;
}

}  // namespace accel::raster
