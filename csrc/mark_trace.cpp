// The rough look for an invisible mark: the spectrum of a picture read at the frequencies that a
// tile would have at each of many sizes, and each of them against those around it.
// accel/provenance/detector.py is the definition.
#include <algorithm>
#include <cmath>
#include <complex>
#include <stdexcept>
#include <vector>

#include "binding.h"

namespace accel {
namespace {

constexpr int64_t kAround = 2;  // frequencies to each side of one that it is compared with

using Complex = std::complex<float>;
using Spectrum = Given<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Places = Given<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Spectra = Given<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

struct Between {  // two samples, and how much the second one counts
  int64_t first, second;
  float share;
};

std::vector<Between> between(const double* places, int64_t count, int64_t size, bool around) {
  std::vector<Between> found(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    if (!(std::abs(places[i]) < double(1 << 30)))
      throw std::invalid_argument("trace: places must be small numbers");
    int64_t first = int64_t(std::floor(places[i]));
    if (!around) {
      if (first < 0) throw std::invalid_argument("trace: places to the right must not be below 0");
      first = std::min(first, size - 2);
    }
    const float share = float(places[i] - double(first));
    found[size_t(i)] = around ? Between{((first % size) + size) % size,
                                        (((first + 1) % size) + size) % size, share}
                              : Between{first, first + 1, share};
  }
  return found;
}

int64_t reflected(int64_t at, int64_t size) {
  return at < 0 ? -at : at < size ? at : 2 * size - 2 - at;
}

// Divides each value by the mean size of those around it; at edges they are reflected.
void whiten(Complex* values, int64_t rows, int64_t columns, std::vector<double>& sums) {
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) {
      const Complex z = values[y * columns + x];
      sums[size_t(y * columns + x)] = std::sqrt(z.real() * z.real() + z.imag() * z.imag());
    }
  double* across = sums.data() + rows * columns;
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) {
      double sum = 0;
      for (int64_t k = -kAround; k <= kAround; ++k)
        sum += sums[size_t(y * columns + reflected(x + k, columns))];
      across[y * columns + x] = sum;
    }
  constexpr double kShare = 1.0 / ((2 * kAround + 1) * (2 * kAround + 1));
  for (int64_t y = 0; y < rows; ++y) {
    const double* near[2 * kAround + 1];
    for (int64_t k = -kAround; k <= kAround; ++k)
      near[k + kAround] = across + reflected(y + k, rows) * columns;
    for (int64_t x = 0; x < columns; ++x) {
      double sum = 0;
      for (const double* row : near) sum += row[x];
      values[y * columns + x] /= float(sum * kShare) + 1e-9f;
    }
  }
}

void trace(Spectrum spectrum, Places down, Places right, Spectra out) {
  const int64_t scales = int64_t(out.shape(0)), rows = int64_t(out.shape(1)),
                columns = int64_t(out.shape(2));
  const int64_t height = int64_t(spectrum.shape(0)), width = int64_t(spectrum.shape(1));
  if (spectrum.shape(2) != 2 || out.shape(3) != 2 || height < 1 || width < 2)
    throw std::invalid_argument("trace: spectra must be [..., 2], of one row and two columns");
  if (int64_t(down.shape(0)) != scales || int64_t(right.shape(0)) != scales ||
      int64_t(down.shape(1)) != rows || int64_t(right.shape(1)) != columns || rows <= kAround ||
      columns <= kAround)
    throw std::invalid_argument("trace: places must be those of the result");
  const auto* from = reinterpret_cast<const Complex*>(spectrum.data());
  auto* to = reinterpret_cast<Complex*>(out.data());
  std::vector<double> sums(static_cast<size_t>(2 * rows * columns));
  nb::gil_scoped_release unlocked;
  for (int64_t s = 0; s < scales; ++s, to += rows * columns) {
    const auto below = between(down.data() + s * rows, rows, height, true);
    const auto across = between(right.data() + s * columns, columns, width, false);
    for (int64_t i = 0; i < rows; ++i) {
      const Complex* one = from + below[size_t(i)].first * width;
      const Complex* other = from + below[size_t(i)].second * width;
      for (int64_t j = 0; j < columns; ++j) {
        const Between& at = across[size_t(j)];
        const Complex above = one[at.first] + (one[at.second] - one[at.first]) * at.share;
        const Complex under = other[at.first] + (other[at.second] - other[at.first]) * at.share;
        to[i * columns + j] = above + (under - above) * below[size_t(i)].share;
      }
    }
    whiten(to, rows, columns, sums);
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(mark_trace) {
  m.def("mark_trace", &accel::trace, "spectrum"_a, "down"_a, "right"_a, "out"_a);
}
