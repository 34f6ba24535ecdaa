// Where a crop samples a plane, and one sample of it. accel/kernels/crop.py defines the filter.
#pragma once

#include "planes.h"

namespace accel {

constexpr int kMostSamples = 64;
constexpr double kAlmost = 1e-3, kSpread = 0.1;

// In a plane's own pixels, from the crop's centre.
struct Sampling {
  double a00, a01, a10, a11;  // plane pixels per crop pixel
  double rest_x, rest_y;      // the crop's centre lies at origin + rest
  int origin_x, origin_y;
  int kx, ky;     // samples along each axis of the crop
  double dx, dy;  // their distance, as a share of a crop pixel
};

ACCEL_BOTH double distance_apart(double length, int count) {
  if (count < 2) return 0.0;
  const double square = length * length - 1.0;
  return sqrt((square > 0.0 ? square : 0.0) / (double(count) * count - 1.0)) / length;
}

ACCEL_BOTH int samples_along(double length) {
  if (!(length > 1.0 + kAlmost)) return 1;
  const double count = ceil(length - kSpread);
  return int(count > 2.0 ? (count < kMostSamples ? count : double(kMostSamples)) : 2.0);
}

// The whole part of a coordinate, held inside the plane: offsets from there to any sample of the
// plane then fit 32 bits, whatever the matrix says.
ACCEL_BOTH int whole_of(double at, int count) {
  const double below = floor(at);
  return int(below > 0.0 ? (below < count - 1 ? below : double(count - 1)) : 0.0);
}

// m: [2, 3], frame to crop. The plane has 1 / per_x by 1 / per_y of the frame's samples, its first
// one at (site_x, site_y) of the frame.
ACCEL_BOTH Sampling sampling_of(const float* m, const Plane& plane, int height, int width,
                                double per_x, double per_y, double site_x, double site_y) {
  const double a = m[0], b = m[1], c = m[3], d = m[4], det = a * d - b * c;
  const double x = (width - 1) / 2.0 - m[2], y = (height - 1) / 2.0 - m[5];
  Sampling s;
  s.a00 = d / det / per_x, s.a01 = -b / det / per_x;
  s.a10 = -c / det / per_y, s.a11 = a / det / per_y;
  const double at_x = ((d * x - b * y) / det - site_x) / per_x;
  const double at_y = ((a * y - c * x) / det - site_y) / per_y;
  s.origin_x = whole_of(at_x, plane.width), s.origin_y = whole_of(at_y, plane.height);
  s.rest_x = at_x - s.origin_x, s.rest_y = at_y - s.origin_y;
  const double length_x = hypot(s.a00, s.a10), length_y = hypot(s.a01, s.a11);
  s.kx = samples_along(length_x), s.ky = samples_along(length_y);
  s.dx = distance_apart(length_x, s.kx), s.dy = distance_apart(length_y, s.ky);
  return s;
}

// The same in float, as the inner loops use it: sample (i, j) of the crop pixel at (x, y) from the
// centre lies at u = a00 x + row_u + i right_u + j down_u, and v likewise, from the origin.
struct Comb {
  float a00, a10, right_u, right_v, down_u, down_v;
  float first_u, first_v;  // from a crop pixel's centre to its sample (0, 0)
  float share;             // 1 / number of samples
  int kx, ky, origin_x, origin_y;
};

ACCEL_BOTH Comb comb_of(const Sampling& s) {
  Comb c;
  c.a00 = float(s.a00), c.a10 = float(s.a10);
  c.right_u = float(s.a00 * s.dx), c.right_v = float(s.a10 * s.dx);
  c.down_u = float(s.a01 * s.dy), c.down_v = float(s.a11 * s.dy);
  const double i = (s.kx - 1) / 2.0 * s.dx, j = (s.ky - 1) / 2.0 * s.dy;
  c.first_u = float(-(s.a00 * i + s.a01 * j)), c.first_v = float(-(s.a10 * i + s.a11 * j));
  c.share = 1.0f / float(s.kx * s.ky);
  c.kx = s.kx, c.ky = s.ky, c.origin_x = s.origin_x, c.origin_y = s.origin_y;
  return c;
}

// The mean of one crop pixel's samples; u, v is where its sample (0, 0) lies.
ACCEL_BOTH float average(const Plane& plane, const Comb& comb, float u, float v) {
  float total = 0.0f;
  for (int j = 0; j < comb.ky; ++j)
    for (int i = 0; i < comb.kx; ++i)
      total += bilinear(plane, u + (float(i) * comb.right_u + float(j) * comb.down_u),
                        v + (float(i) * comb.right_v + float(j) * comb.down_v), comb.origin_x,
                        comb.origin_y);
  return total * comb.share;
}

// How much of a sample at `at` lies inside 0..count-1 when what is outside is black.
ACCEL_BOTH float inside_share(float at, int origin, int count) {
  const float outside = fmaxf(float(-origin) - at, at - float(count - 1 - origin));
  return 1.0f - clamp_to(outside, 0.0f, 1.0f);
}

ACCEL_BOTH float coverage(int height, int width, const Comb& comb, float u, float v) {
  float total = 0.0f;
  for (int j = 0; j < comb.ky; ++j)
    for (int i = 0; i < comb.kx; ++i)
      total += inside_share(u + (float(i) * comb.right_u + float(j) * comb.down_u), comb.origin_x,
                            width) *
               inside_share(v + (float(i) * comb.right_v + float(j) * comb.down_v), comb.origin_y,
                            height);
  return total * comb.share;
}

}  // namespace accel
