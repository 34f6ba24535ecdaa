// One row of a crop on the CPU. Two ways: any matrix, sample by sample; or, when the matrix has no
// rotation, as two passes (down the columns, then along the row), which is what makes shrinking a
// whole frame cheap. crop_rows_avx2.h holds the vector forms; both forms round alike.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "crop.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define ACCEL_AVX2 1
#include <immintrin.h>
#endif

namespace accel {

struct CropJob {
  Plane planes[3];
  Sampling luma, chroma;
  Color color;
  float gain[3], bias[3];
  int height, width;
  bool zero_border, simd;
};

struct RowOut {
  uint8_t* image;
  int64_t size, pixels;  // bytes of a value; pixels of the crop
  int y;
  bool half, channels_last;
};

inline bool has_row_simd() {
#ifdef ACCEL_AVX2
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

// IEEE half, rounded to nearest even.
inline uint16_t half_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x47800000u)  // 65536 and above, infinity, NaN
    return uint16_t(sign | (magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u));
  if (magnitude < 0x38800000u) {  // below the smallest normal half: let float addition round
    float small;
    const uint32_t half_bias = 0x3f000000u;
    std::memcpy(&small, &magnitude, 4);
    small += 0.5f;
    uint32_t rounded;
    std::memcpy(&rounded, &small, 4);
    return uint16_t(sign | (rounded - half_bias));
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  return uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

// The weighted samples that make each of `count` values along one axis.
struct Taps {
  int n = 0, low = 0, count = 0;  // taps of a value; first sample that any uses; samples used
  std::vector<int> first;         // [values] index of tap 0
  std::vector<float> weight;      // [n, values]
  std::vector<float> inside;      // [values] share of the samples' weight that lies in the plane

  Taps() = default;
  Taps(double a, int origin, double rest, int k, double d, int values, int size) {
    std::vector<int> at(size_t(values) * k);
    std::vector<double> share(size_t(values) * k);
    int high = 0;
    low = size - 1;
    for (int x = 0; x < values; ++x) {
      int least = size - 1, most = 0;
      double covered = 0;
      for (int i = 0; i < k; ++i) {
        const double step = x - (values - 1) / 2.0 + (i - (k - 1) / 2.0) * d;
        const double where = a * step + rest + origin;
        const double inside = where > 0 ? (where < size - 1 ? where : size - 1) : 0;
        const double outside = std::abs(where - inside);
        covered += outside < 1 ? 1 - outside : 0;
        const int index = std::min(int(inside), std::max(size - 2, 0));
        at[size_t(x) * k + i] = index;
        share[size_t(x) * k + i] = inside - index;
        least = std::min(least, index), most = std::max(most, std::min(index + 1, size - 1));
      }
      this->inside.push_back(float(covered / k));
      first.push_back(least);
      n = std::max(n, most - least + 1);
      low = std::min(low, least), high = std::max(high, most);
    }
    count = high - low + 1;
    weight.assign(size_t(n) * values, 0.0f);
    for (int x = 0; x < values; ++x) {
      first[x] = std::min(first[x], high - n + 1);  // taps of no weight must stay inside too
      for (int i = 0; i < k; ++i) {
        const int tap = at[size_t(x) * k + i] - first[x];
        const double t = share[size_t(x) * k + i];
        weight[size_t(tap) * values + x] += float((1 - t) / k);
        if (t > 0) weight[size_t(tap + 1) * values + x] += float(t / k);
      }
    }
  }
};

}  // namespace accel

#include "crop_rows_avx2.h"

namespace accel {

class CropRows {
 public:
  explicit CropRows(const CropJob& job)
      : job_(job), comb_{comb_of(job.luma), comb_of(job.chroma)}, straight_(is_straight(job.luma)) {
    if (!straight_) return;
    for (int i = 0; i < 2; ++i) {
      const Sampling& s = i ? job.chroma : job.luma;
      const Plane& plane = job.planes[i];
      along_[i] = Taps(s.a00, s.origin_x, s.rest_x, s.kx, s.dx, job.width, plane.width);
      down_[i] = Taps(s.a11, s.origin_y, s.rest_y, s.ky, s.dy, job.height, plane.height);
    }
  }

  // Three sampled rows, coverage, three coloured rows, and one row of column sums.
  size_t scratch_size() const {
    return size_t(job_.width) * 7 + (straight_ ? std::max(along_[0].count, along_[1].count) : 0);
  }

  void run(const RowOut& to, float* scratch) const {
    const int w = job_.width;
    float* code[3] = {scratch, scratch + w, scratch + 2 * w};
    float* share = scratch + 3 * w;
    float* rgb = scratch + 4 * w;
    const Plane &cb = job_.planes[1], &cr = job_.planes[2];
    const bool alike = cb.row == cr.row && cb.step == cr.step && cb.wide == cr.wide;
    if (straight_) {
      // Rows off the frame turn black whatever is read: a wide frame in a square is half such rows.
      const bool unseen = job_.zero_border && down_[0].inside[to.y] == 0;
      for (int i = 0; i < 3; ++i)
        if (unseen)
          std::fill_n(code[i], w, 0.0f);
        else
          sum_taps(job_.planes[i], i > 0, to.y, scratch + 7 * w, code[i]);
    } else {
      sample(0, 1, to.y, code);
      sample(1, alike ? 2 : 1, to.y, code + 1);
      if (!alike) sample(2, 1, to.y, code + 2);
    }
    const bool cover = job_.zero_border && leaves_frame(to.y);
    if (cover) cover_row(to.y, share);
    float* direct[3] = {rgb, rgb + w, rgb + 2 * w};
    if (!to.half && !to.channels_last)
      for (int c = 0; c < 3; ++c)
        direct[c] = reinterpret_cast<float*>(to.image) + c * to.pixels + int64_t(to.y) * w;
    color(code, cover ? share : nullptr, direct);
    if (direct[0] == rgb) write(to, rgb);
  }

 private:
  static bool is_straight(const Sampling& s) { return s.a01 == 0 && s.a10 == 0; }

  static float row_u(const Sampling& s, const Comb& c, float y) {
    return float(s.a01 * double(y) + s.rest_x) + c.first_u;
  }
  static float row_v(const Sampling& s, const Comb& c, float y) {
    return float(s.a11 * double(y) + s.rest_y) + c.first_v;
  }
  float from_center_y(int y) const { return float(y) - float(job_.height - 1) * 0.5f; }
  float from_center_x(int x) const { return float(x) - float(job_.width - 1) * 0.5f; }

  // The box that the samples of crop pixels x0..x1 of a row lie in, from the plane's origin.
  struct Box {
    float u0, u1, v0, v1;
  };
  Box box_of(const Comb& c, float u, float v, int x0, int x1) const {
    const float ua = c.a00 * from_center_x(x0) + u, ub = c.a00 * from_center_x(x1) + u;
    const float va = c.a10 * from_center_x(x0) + v, vb = c.a10 * from_center_x(x1) + v;
    const float ru = float(c.kx - 1) * c.right_u, du = float(c.ky - 1) * c.down_u;
    const float rv = float(c.kx - 1) * c.right_v, dv = float(c.ky - 1) * c.down_v;
    // first_u is in u, so the comb reaches from there by both its sides.
    return {std::min(ua, ub) + std::min(ru, 0.0f) + std::min(du, 0.0f),
            std::max(ua, ub) + std::max(ru, 0.0f) + std::max(du, 0.0f),
            std::min(va, vb) + std::min(rv, 0.0f) + std::min(dv, 0.0f),
            std::max(va, vb) + std::max(rv, 0.0f) + std::max(dv, 0.0f)};
  }
  // Comparisons with NaN are false, so a box that is not a number is never inside.
  static bool inside(const Box& b, const Comb& c, const Plane& p, int spare) {
    const float slack = 0.0625f;  // what rounding of the coordinates may add
    return b.u0 - slack >= float(-c.origin_x) && b.v0 - slack >= float(-c.origin_y) &&
           b.u1 + slack < float(p.width - 1 - spare - c.origin_x) &&
           b.v1 + slack < float(p.height - 1 - c.origin_y);
  }

  // Samples `planes` planes from `first` on: luma alone, or both chroma planes at one set of
  // places.
  void sample(int first, int planes, int y, float* const* out) const {
    const Plane* p = job_.planes + first;
    const Comb& c = comb_[first > 0];
    const Sampling& s = first ? job_.chroma : job_.luma;
    const float u = row_u(s, c, from_center_y(y)), v = row_v(s, c, from_center_y(y));
    int from = 0, to = 0;  // columns that are done eight at a time
#ifdef ACCEL_AVX2
    // Coordinates in larger planes are too coarse in float for `inside` to vouch for.
    const bool small = std::max(p->width, p->height) <= 1 << 15;
    if (job_.simd && small && (p->wide ? p->step == 2 : p->step <= 3)) {
      const auto fits = [&](int x) {
        return inside(box_of(c, u, v, x, x + 7), c, *p, 3);  // a gather reads four bytes
      };
      to = job_.width / 8 * 8;  // those that fit follow one another: a plane is convex
      while (from < to && !fits(from)) from += 8;
      while (from < to && !fits(to - 8)) to -= 8;
      float* const at[2] = {out[0] + from, planes > 1 ? out[1] + from : nullptr};
      if (planes > 1)
        average_blocks<2>(p, c, u, v, from_center_x(from), (to - from) / 8, at);
      else
        average_blocks<1>(p, c, u, v, from_center_x(from), (to - from) / 8, at);
    }
#endif
    for (int i = 0; i < planes; ++i) {
      for (int x = 0; x < from; ++x) out[i][x] = one(p[i], c, u, v, x);
      for (int x = to; x < job_.width; ++x) out[i][x] = one(p[i], c, u, v, x);
    }
  }

  float one(const Plane& p, const Comb& c, float u, float v, int x) const {
    const float right = from_center_x(x);
    return average(p, c, c.a00 * right + u, c.a10 * right + v);
  }

  void sum_taps(const Plane& p, int which, int y, float* sums, float* out) const {
    const Taps &x = along_[which], &down = down_[which];
    int done = 0;
#ifdef ACCEL_AVX2
    if (job_.simd) done = sum_columns8(p, down, y, job_.height, x.low, x.count, sums);
#endif
    for (; done < x.count; ++done) {
      float total = 0.0f;
      for (int j = 0; j < down.n; ++j)
        total +=
            down.weight[size_t(j) * job_.height + y] * code_at(p, x.low + done, down.first[y] + j);
      sums[done] = total;
    }
    int at = 0;
#ifdef ACCEL_AVX2
    if (job_.simd) at = sum_row8(x, job_.width, sums, out);
#endif
    for (; at < job_.width; ++at) {
      float total = 0.0f;
      for (int j = 0; j < x.n; ++j)
        total += x.weight[size_t(j) * job_.width + at] * sums[x.first[at] - x.low + j];
      out[at] = total;
    }
  }

  bool leaves_frame(int y) const {
    const Comb& c = comb_[0];
    const float center = from_center_y(y);
    const Box box =
        box_of(c, row_u(job_.luma, c, center), row_v(job_.luma, c, center), 0, job_.width - 1);
    return !inside(box, c, job_.planes[0], 0);
  }

  void cover_row(int y, float* share) const {
    if (straight_) {
      const float row = down_[0].inside[y];
      for (int x = 0; x < job_.width; ++x) share[x] = along_[0].inside[x] * row;
      return;
    }
    const Comb& c = comb_[0];
    const Plane& p = job_.planes[0];
    const float u = row_u(job_.luma, c, from_center_y(y));
    const float v = row_v(job_.luma, c, from_center_y(y));
    for (int x = 0; x < job_.width; ++x) {
      const float right = from_center_x(x);
      const Box box = box_of(c, u, v, x, x);
      share[x] = inside(box, c, p, 0)
                     ? 1.0f
                     : coverage(p.height, p.width, c, c.a00 * right + u, c.a10 * right + v);
    }
  }

  void color(float* const code[3], const float* share, float* const rgb[3]) const {
    for (int c = 0; c < 3; ++c) {
      int x = 0;
#ifdef ACCEL_AVX2
      if (job_.simd)
        x = color8(job_.color.m + 4 * c, job_.gain[c], job_.bias[c], code, share, job_.width,
                   rgb[c]);
#endif
      for (; x < job_.width; ++x) {
        float value = mix(job_.color, c, code[0][x], code[1][x], code[2][x]);
        value = clamp_to(value, 0.0f, 1.0f) * (share ? share[x] : 1.0f);
        rgb[c][x] = value * job_.gain[c] + job_.bias[c];
      }
    }
  }

  void write(const RowOut& to, const float* rgb) const {
    const int w = job_.width;
    for (int c = 0; c < 3; ++c) {
      const int64_t gap = to.channels_last ? 3 : 1;
      const int64_t start =
          to.channels_last ? int64_t(to.y) * w * 3 + c : c * to.pixels + int64_t(to.y) * w;
      const float* from = rgb + c * w;
      if (!to.half) {
        float* out = reinterpret_cast<float*>(to.image) + start;
        for (int x = 0; x < w; ++x) out[x * gap] = from[x];
        continue;
      }
      uint16_t* out = reinterpret_cast<uint16_t*>(to.image) + start;
      int x = 0;
#ifdef ACCEL_AVX2
      if (job_.simd) x = halves8(from, w, out, gap);
#endif
      for (; x < w; ++x) out[x * gap] = half_of(from[x]);
    }
  }

  CropJob job_;
  Comb comb_[2];
  bool straight_;
  Taps along_[2], down_[2];
};

}  // namespace accel
