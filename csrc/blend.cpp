// Feathered masks and Laplacian pyramid blending on the CPU; accel/kernels/blend.py defines both.
#include "blend.h"

#include <limits>

#include "binding.h"

namespace accel::blend {
namespace {

// ---- feather: erosion by a disc, then a separable Gaussian. All that lies outside is 0.

// to[i] = least of rows[0..count-1][i]; n is a multiple of kBlock.
ACCEL_CLONES void least_of(float* to, const float* const* rows, int64_t count, int64_t n) {
  for (int64_t i = 0; i < n; i += kBlock) {
    Vector least[4];
    for (int j = 0; j < 4; ++j) least[j] = *(const AnyVector*)(rows[0] + i + j * kVector);
    for (int64_t r = 1; r < count; ++r)
      for (int j = 0; j < 4; ++j) {
        const Vector other = *(const AnyVector*)(rows[r] + i + j * kVector);
        least[j] = other < least[j] ? other : least[j];
      }
    for (int j = 0; j < 4; ++j) *(AnyVector*)(to + i + j * kVector) = least[j];
  }
}

// to[i] = (taps[0] at[i] + sum of taps[k] (at[i - k step] + at[i + k step])) scale[i] · factor
ACCEL_CLONES void weighted(float* to, const float* at, int64_t step, const float* taps,
                           int64_t radius, const float* scale, float factor, int64_t n) {
  for (int64_t i = 0; i < n; i += kBlock) {
    Vector sum[4];
    for (int j = 0; j < 4; ++j) sum[j] = taps[0] * *(const AnyVector*)(at + i + j * kVector);
    for (int64_t k = 1; k <= radius; ++k)
      for (int j = 0; j < 4; ++j) {
        const float* centre = at + i + j * kVector;
        sum[j] += taps[k] *
                  (*(const AnyVector*)(centre - k * step) + *(const AnyVector*)(centre + k * step));
      }
    for (int j = 0; j < 4; ++j) {
      const Vector scales = *(const AnyVector*)(scale + i + j * kVector);
      *(AnyVector*)(to + i + j * kVector) = sum[j] * (scales * factor);
    }
  }
}

bool any(const float* row, int64_t n) {
  return std::any_of(row, row + n, [](float value) { return value != 0; });
}

struct Feather {
  int64_t height, width;
  const int32_t* half_widths;  // of the disc, for rows 0..erosion from its centre
  int64_t erosion;
  const float* taps;  // of the Gaussian, for 0..radius from its centre
  int64_t radius;
  const float *ramp_x, *ramp_y;
};

// Rows of least values over 1, 2, 4.. samples, so that two of them make a window of any width.
// Only the rows that the disc spans are kept.
class Windows {
 public:
  explicit Windows(const Feather& f)
      : f_(f), rows_(2 * f.erosion + 1), stride_(round_up(f.width + 2 * f.erosion) + kBlock) {
    while ((int64_t(2) << levels_) <= 2 * int64_t(f.half_widths[0]) + 1) ++levels_;
    ++levels_;
    data_.assign(size_t(rows_ * levels_ * stride_), 0.f);
  }
  void add(int64_t y, const float* mask) {
    std::copy(mask, mask + f_.width, row(y, 0) + f_.erosion);
    for (int64_t k = 1; k < levels_; ++k) {
      const float* pair[2] = {row(y, k - 1), row(y, k - 1) + (int64_t(1) << (k - 1))};
      least_of(row(y, k), pair, 2, stride_ - kBlock);
    }
  }
  // The eroded row y, once rows y - erosion .. y + erosion were added.
  void erode(int64_t y, float* to) {
    pointers_.clear();
    for (int64_t down = -f_.erosion; down <= f_.erosion; ++down) {
      const int64_t w = f_.half_widths[down < 0 ? -down : down];
      int64_t k = 0;
      while ((int64_t(2) << k) <= 2 * w + 1) ++k;
      const float* from = row(y + down, k) + f_.erosion;
      pointers_.push_back(from - w);
      if (w) pointers_.push_back(from + w + 1 - (int64_t(1) << k));
    }
    least_of(to, pointers_.data(), int64_t(pointers_.size()), round_up(f_.width));
    std::fill(to + f_.width, to + round_up(f_.width), 0.f);
  }

 private:
  float* row(int64_t y, int64_t k) { return data_.data() + ((y % rows_) * levels_ + k) * stride_; }
  const Feather& f_;
  int64_t rows_, levels_ = 0, stride_;
  std::vector<float> data_;
  std::vector<const float*> pointers_;
};

void feather_one(const Feather& f, const float* mask, float* out) {
  const int64_t wide = round_up(f.width), reach = round_up(f.width + 2 * f.radius) + kBlock;
  // Rows a power of two apart would all fall into the same few lines of the cache.
  const int64_t stride = wide + 2 * kVector;
  std::vector<float> line(size_t(reach), 0.f), ones(size_t(wide), 1.f), ramp(ones), last(ones);
  std::vector<float> blurred(size_t((f.height + 2 * f.radius) * stride), 0.f);
  std::copy(f.ramp_x, f.ramp_x + f.width, ramp.begin());
  Windows windows(f);
  int64_t first = f.height, past = 0, empty = -1;  // rows with something; newest row of zeros
  int64_t left = f.width, right = 0;               // columns with something
  for (int64_t y = 0; y < f.height; ++y) {
    const float* row = mask + y * f.width;
    windows.add(y, row);
    if (!any(row, f.width)) empty = y;
    const int64_t centre = y - f.erosion;
    if (centre - f.erosion <= empty || centre < f.erosion) continue;  // eroded to nothing
    float* eroded = line.data() + f.radius;
    windows.erode(centre, eroded);
    int64_t begin = 0, end = f.width;
    while (begin < end && eroded[begin] == 0) ++begin;
    while (begin < end && eroded[end - 1] == 0) --end;
    if (begin == end) continue;
    begin = std::max(begin - f.radius, int64_t(0)) / kBlock * kBlock;
    end = std::min(round_up(end + f.radius), wide);
    weighted(blurred.data() + (centre + f.radius) * stride + begin, eroded + begin, 1, f.taps,
             f.radius, ramp.data() + begin, 1.f, end - begin);
    first = std::min(first, centre), past = centre + 1;
    left = std::min(left, begin), right = std::max(right, end);
  }
  std::fill(last.begin(), last.end(), 0.f);
  for (int64_t y = 0; y < f.height; ++y) {
    float* to = out + y * f.width;
    if (y < first - f.radius || y >= past + f.radius) {
      std::fill(to, to + f.width, 0.f);
      continue;
    }
    if (left < right)
      weighted(last.data() + left, blurred.data() + (y + f.radius) * stride + left, stride, f.taps,
               f.radius, ones.data(), f.ramp_y[y], right - left);
    std::copy(last.begin(), last.begin() + f.width, to);
  }
}

// ---- pyramid: the steps of Burt & Adelson, weights 1 4 6 4 1, a row at a time

ACCEL_CLONES void subtract(float* __restrict__ to, const float* __restrict__ a,
                           const float* __restrict__ b, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = a[i] - b[i];
}

ACCEL_CLONES void multiply(float* __restrict__ to, const float* __restrict__ by, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] *= by[i];
}

ACCEL_CLONES void five_rows(float* __restrict__ to, const float* a, const float* b, const float* c,
                            const float* d, const float* e, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    to[i] = ((a[i] + e[i]) + 4.f * (b[i] + d[i]) + 6.f * c[i]) * 0.0625f;
}

// from[0] is sample -2 of the finer line.
ACCEL_CLONES void every_second(float* __restrict__ to, const float* __restrict__ from, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float* at = from + 2 * i;
    to[i] = ((at[0] + at[4]) + 4.f * (at[1] + at[3]) + 6.f * at[2]) * 0.0625f;
  }
}

ACCEL_CLONES void three_rows(float* __restrict__ to, const float* a, const float* b, const float* c,
                             int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = ((a[i] + c[i]) + 6.f * b[i]) * 0.125f;
}

ACCEL_CLONES void two_rows(float* __restrict__ to, const float* a, const float* b, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = (a[i] + b[i]) * 0.5f;
}

// Samples 2i and 2i + 1 of the finer line; from[0] is sample -1 of the coarser.
ACCEL_CLONES void between(float* __restrict__ to, const float* __restrict__ from, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    to[2 * i] = ((from[i] + from[i + 2]) + 6.f * from[i + 1]) * 0.125f;
    to[2 * i + 1] = (from[i + 1] + from[i + 2]) * 0.5f;
  }
}

// difference becomes mask · (difference - its blurred self) + blended (+ back)
ACCEL_CLONES void join(float* __restrict__ to, const float* __restrict__ mask,
                       const float* difference, const float* __restrict__ blurred,
                       const float* __restrict__ blended, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = mask[i] * (difference[i] - blurred[i]) + blended[i];
}

ACCEL_CLONES void join_on(float* __restrict__ to, const float* __restrict__ mask,
                          const float* __restrict__ difference, const float* __restrict__ blurred,
                          const float* __restrict__ blended, const float* __restrict__ back,
                          int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    to[i] = (mask[i] * (difference[i] - blurred[i]) + blended[i]) + back[i];
}

struct Level {
  int64_t height, width;
  size_t at;  // where it begins in a pyramid's memory
};

std::vector<Level> shape_of(int64_t height, int64_t width, int64_t levels) {
  std::vector<Level> shape{{height, width, 0}};
  while (levels-- > 0 && std::min(height, width) > 1) {
    const size_t at = shape.back().at + size_t(height * width);
    height = half(height), width = half(width);
    shape.push_back({height, width, at});
  }
  return shape;
}

void down(const float* from, Level fine, float* to, Level coarse, std::vector<float>& line) {
  line.resize(size_t(fine.width + 4));
  float* middle = line.data() + 2;
  for (int64_t y = 0; y < coarse.height; ++y) {
    const float* r[5];
    for (int k = 0; k < 5; ++k) r[k] = from + reflect(2 * y + k - 2, fine.height) * fine.width;
    five_rows(middle, r[0], r[1], r[2], r[3], r[4], fine.width);
    for (int64_t x : {int64_t(-2), int64_t(-1), fine.width, fine.width + 1})
      middle[x] = middle[reflect(x, fine.width)];
    every_second(to + y * coarse.width, line.data(), coarse.width);
  }
}

// Row y of the finer level from the coarser one; the samples between are those that reflection of
// the finer line about its ends would give.
void up_row(const float* from, Level coarse, Level fine, int64_t y, std::vector<float>& line,
            float* to) {
  const auto place = [](int64_t i, int64_t coarser, int64_t finer) {
    return i == coarser ? reflect(2 * i, finer) / 2 : reflect(i, coarser);
  };
  const auto row = [&](int64_t i) {
    return from + place(i, coarse.height, fine.height) * coarse.width;
  };
  line.resize(size_t(coarse.width + 2));
  float* middle = line.data() + 1;
  if (y % 2)
    two_rows(middle, row(y / 2), row(y / 2 + 1), coarse.width);
  else
    three_rows(middle, row(y / 2 - 1), row(y / 2), row(y / 2 + 1), coarse.width);
  middle[-1] = middle[place(-1, coarse.width, fine.width)];
  middle[coarse.width] = middle[place(coarse.width, coarse.width, fine.width)];
  between(to, line.data(), coarse.width);
}

void blend_plane(const float* front, const float* back, const float* masks,
                 const std::vector<Level>& shape, float* out) {
  const Level base = shape[0], top = shape.back();
  const int64_t n = base.height * base.width;
  std::vector<float> difference(top.at + size_t(top.height * top.width)),
      blended(difference.size());
  std::vector<float> line, one(size_t(base.width + 2)), other(one);
  subtract(difference.data(), front, back, n);
  for (size_t i = 1; i < shape.size(); ++i)
    down(&difference[shape[i - 1].at], shape[i - 1], &difference[shape[i].at], shape[i], line);
  std::copy(difference.begin() + int64_t(top.at), difference.end(),
            blended.begin() + int64_t(top.at));
  multiply(&blended[top.at], masks + top.at, top.height * top.width);
  for (size_t i = shape.size() - 1; i-- > 0;) {
    const Level fine = shape[i], coarse = shape[i + 1];
    for (int64_t y = 0; y < fine.height; ++y) {
      const size_t row = fine.at + size_t(y * fine.width);
      up_row(&difference[coarse.at], coarse, fine, y, line, one.data());
      up_row(&blended[coarse.at], coarse, fine, y, line, other.data());
      if (i)
        join(&blended[row], masks + row, &difference[row], one.data(), other.data(), fine.width);
      else
        join_on(out + row, masks + row, &difference[row], one.data(), other.data(), back + row,
                fine.width);
    }
  }
  if (shape.size() == 1)
    for (int64_t i = 0; i < n; ++i) out[i] = blended[size_t(i)] + back[i];
}

// ---- bindings

template <int N>
using In = Given<const float, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <int N>
using Out = Given<float, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Widths = Given<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename A, typename B>
bool same_shape(const A& a, const B& b) {
  for (size_t i = 0; i < a.ndim(); ++i)
    if (a.shape(i) != b.shape(i)) return false;
  return true;
}

void feather(In<3> masks, Widths half_widths, In<1> taps, In<1> ramp_x, In<1> ramp_y, Out<3> out) {
  const int64_t faces = masks.shape(0), height = masks.shape(1), width = masks.shape(2);
  bool fits = same_shape(masks, out) && int64_t(ramp_x.shape(0)) == width &&
              int64_t(ramp_y.shape(0)) == height && half_widths.shape(0) > 0 && taps.shape(0) > 0;
  for (size_t i = 0; fits && i < half_widths.shape(0); ++i)
    fits = half_widths.data()[i] >= 0 && half_widths.data()[i] < int64_t(half_widths.shape(0));
  if (!fits) throw std::invalid_argument("feather: the arrays' shapes do not fit together");
  const Feather f{height,
                  width,
                  half_widths.data(),
                  int64_t(half_widths.shape(0)) - 1,
                  taps.data(),
                  int64_t(taps.shape(0)) - 1,
                  ramp_x.data(),
                  ramp_y.data()};
  const float* from = masks.data();
  float* to = out.data();
  nb::gil_scoped_release unlocked;
#pragma omp parallel for schedule(dynamic) if (faces > 1)
  for (int64_t n = 0; n < faces; ++n)
    feather_one(f, from + n * height * width, to + n * height * width);
}

void blend_pyramid(In<4> front, In<4> back, In<3> masks, int64_t levels, Out<4> out) {
  const int64_t faces = front.shape(0), channels = front.shape(1);
  const int64_t height = front.shape(2), width = front.shape(3), n = height * width;
  if (!same_shape(front, back) || !same_shape(front, out) || int64_t(masks.shape(0)) != faces ||
      int64_t(masks.shape(1)) != height || int64_t(masks.shape(2)) != width || n == 0)
    throw std::invalid_argument("blend_pyramid: the arrays' shapes do not fit together");
  const float *pf = front.data(), *pb = back.data(), *pm = masks.data();
  float* po = out.data();
  nb::gil_scoped_release unlocked;
  const std::vector<Level> shape = shape_of(height, width, levels);
  const size_t size = shape.back().at + size_t(shape.back().height * shape.back().width);
  std::vector<float> pyramids(size_t(faces) * size), line;
  for (int64_t f = 0; f < faces; ++f) {
    float* pyramid = &pyramids[size_t(f) * size];
    std::copy(pm + f * n, pm + (f + 1) * n, pyramid);
    for (size_t i = 1; i < shape.size(); ++i)
      down(pyramid + shape[i - 1].at, shape[i - 1], pyramid + shape[i].at, shape[i], line);
  }
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < faces * channels; ++i)
    blend_plane(pf + i * n, pb + i * n, &pyramids[size_t(i / channels) * size], shape, po + i * n);
}

}  // namespace
}  // namespace accel::blend

ACCEL_BIND(blend) {
  m.def("feather", &accel::blend::feather, "masks"_a, "half_widths"_a, "taps"_a, "ramp_x"_a,
        "ramp_y"_a, "out"_a);
  m.def("blend_pyramid", &accel::blend::blend_pyramid, "front"_a, "back"_a, "masks"_a, "levels"_a,
        "out"_a);
}
