// One plane that a picture is cut out of, and what of a row of the picture lies inside it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace accel {

// Eight bits a sample, samples of a row side by side. Pixel (x, y) of the picture, or square of
// `step` pixels, lies at (u0 + du x + su y, v0 + dv x + sv y) of the plane.
struct CutPlane {
  const uint8_t* data;
  int64_t row;
  int width, height;
  float u0, v0, du, dv, su, sv;
  float outside;  // the code of what lies beyond the plane
};

struct CutJob {
  CutPlane planes[3];
  float color[12];  // [3, 4], in the order the picture's channels have
  int size, step;   // step: pixels along an axis that share a sample of chroma
  uint8_t* bytes;   // [size, size, 3], or null
  float* floats;    // likewise
};

// Held to where an int can hold it; NaN becomes 0.
inline int cut_floor(float v) { return int(std::floor(v > -1e6f ? (v < 1e6f ? v : 1e6f) : -1e6f)); }

// Bilinear, the plane going on as `outside`.
inline float cut_sample(const CutPlane& p, float u, float v) {
  const int x = cut_floor(u), y = cut_floor(v);
  const float s = u - float(x), t = v - float(y);
  if (x < -1 || y < -1 || x >= p.width || y >= p.height || !(s >= 0) || !(t >= 0)) return p.outside;
  const auto code = [&](int i, int j) {
    return i < 0 || j < 0 || i >= p.width || j >= p.height ? p.outside
                                                           : float(p.data[j * p.row + i]);
  };
  const float a = code(x, y), b = code(x + 1, y), c = code(x, y + 1), d = code(x + 1, y + 1);
  const float upper = a + s * (b - a), lower = c + s * (d - c);
  return upper + t * (lower - upper);
}

// Where start + step x lies in 0..last, for x in 0..count-1, as far as float rounding lets tell.
inline void cut_range(float start, float step, int last, int count, double& low, double& high) {
  const double a = start, d = step;
  if (!(std::abs(d) > 1e-12)) {
    if (!(a >= 0 && a <= last)) low = count;
    return;
  }
  double from = -a / d, to = (last - a) / d;
  if (from > to) std::swap(from, to);
  low = std::max(low, from), high = std::min(high, to);
}

// What of a row of the picture meets the plane: beyond first..last-1 there is only its outside, the
// samples of low..high-1 lie inside, those between may lie across the border.
struct CutReach {
  int first, low, high, last;
};

inline CutReach cut_reach(const CutPlane& p, float u, float v, int count) {
  const auto safe = [&](int x) {  // as the vector code rounds it
    const float a = p.du * float(x) + u, b = p.dv * float(x) + v;
    return a >= 0 && b >= 0 && a <= float(p.width - 1) && b <= float(p.height - 1);
  };
  const bool has_room = p.width >= 4 && p.height >= 2;
  if (has_room && safe(0) && safe(count - 1)) return {0, 0, count, count};  // mostly
  // Two samples and a pixel more at both ends, for the rounding.
  double begin = 0, end = count - 1;
  cut_range(u + 2, p.du, p.width + 3, count, begin, end);
  cut_range(v + 2, p.dv, p.height + 3, count, begin, end);
  if (!(begin <= end)) return {0, 0, 0, 0};
  CutReach r;
  r.first = std::max(int(std::floor(begin)) - 1, 0);
  r.last = std::min(int(std::ceil(end)) + 2, count);
  begin = r.first, end = r.last - 1;
  cut_range(u, p.du, p.width - 1, count, begin, end);
  cut_range(v, p.dv, p.height - 1, count, begin, end);
  r.low = r.high = r.last;
  if (!has_room || !(begin <= end)) return r;
  int low = int(std::ceil(begin)), high = int(std::floor(end)) + 1;
  while (low < high && !safe(low)) ++low;
  while (high > low && !safe(high - 1)) --high;
  if (low < high) r.low = low, r.high = high;
  return r;
}

}  // namespace accel
