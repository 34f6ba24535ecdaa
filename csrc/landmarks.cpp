// Arithmetic on the landmarks of faces, for work that asks for it many times a frame;
// accel/faces/smooth.py and align.py say what it is.
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <vector>

#include "binding.h"

namespace accel {
namespace {

using Complex = std::complex<double>;
using Doubles = Given<const double, nb::c_contig, nb::device::cpu>;
using Result = Given<double, nb::c_contig, nb::device::cpu>;
using Points = Given<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // of a frame
using Moved = Given<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Table = Given<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// 1 where two fits agree, 0 where their squared distance is far above the tolerance's.
double trust(double apart, double tolerance) {
  const double ratio = apart / (tolerance * tolerance);
  return 1 / (1 + ratio * ratio);
}

// A weighted sum over the frames, for each number of a row.
void mixed(const double* rows, const double* weights, int64_t frames, int64_t count, double* sum) {
  std::fill_n(sum, count, 0.0);
  for (int64_t k = 0; k < frames; ++k)
    for (int64_t i = 0; i < count; ++i) sum[i] += weights[k] * rows[k * count + i];
}

struct Fit {  // what one of both widths says
  Complex centre, turn;
  std::vector<double> x, y, z;
};

Fit fitted(const double* fit, const std::vector<Complex>& centres,
           const std::vector<Complex>& turns, const std::vector<double>& x,
           const std::vector<double>& y, const std::vector<double>& z) {
  const int64_t frames = int64_t(centres.size()), points = int64_t(x.size()) / frames;
  Fit f{0, 0, std::vector<double>(points), std::vector<double>(points),
        std::vector<double>(points)};
  std::vector<double> real(frames), imag(frames), depth(frames);
  Complex shift = 0;
  for (int64_t k = 0; k < frames; ++k) {
    f.centre += fit[k] * centres[k], f.turn += fit[k] * turns[k];
    const Complex bring = fit[k] / turns[k];
    real[k] = bring.real(), imag[k] = bring.imag(), depth[k] = fit[k] / std::abs(turns[k]);
    shift += bring * centres[k];
  }
  for (int64_t i = 0; i < points; ++i) f.x[i] = -shift.real(), f.y[i] = -shift.imag();
  for (int64_t k = 0; k < frames; ++k) {
    const double *a = &x[k * points], *b = &y[k * points];
    for (int64_t i = 0; i < points; ++i) {
      f.x[i] += real[k] * a[i] - imag[k] * b[i];
      f.y[i] += real[k] * b[i] + imag[k] * a[i];
    }
  }
  if (!z.empty()) mixed(z.data(), depth.data(), frames, points, f.z.data());
  return f;
}

// The coordinates of one frame's points, each axis by itself, from place `at` on.
template <typename Number>
void split(const Number* from, int64_t points, int64_t axes, int64_t at, std::vector<double>& x,
           std::vector<double>& y, std::vector<double>& z) {
  for (int64_t i = 0; i < points; ++i) {
    x[at + i] = from[i * axes], y[at + i] = from[i * axes + 1];
    if (axes == 3) z[at + i] = from[i * axes + 2];
  }
}

// False, and nothing written, where all points of the wanted frame lie on each other.
bool smooth_landmarks(const std::vector<Points>& window, int64_t at, Doubles fits, Table groups,
                      double tolerance_share, Moved out) {
  const int64_t frames = int64_t(window.size()), points = out.shape(0), axes = out.shape(1);
  const int64_t near = groups.shape(0);
  for (const Points& each : window)
    if (int64_t(each.shape(0)) != points || int64_t(each.shape(1)) != axes ||
        each.dtype() != out.dtype())
      throw std::invalid_argument("smooth_landmarks: window must be of arrays as out");
  const bool wide = out.dtype() == nb::dtype<double>();
  if (axes < 2 || axes > 3 || fits.ndim() != 2 || !(wide || out.dtype() == nb::dtype<float>()))
    throw std::invalid_argument("smooth_landmarks: out must be [N, 2 or 3], float32 or float64");
  if (fits.shape(0) != 2 || int64_t(fits.shape(1)) != frames || at < 0 || at >= frames ||
      near < 1 || points < 1 || int64_t(groups.shape(1)) != points)
    throw std::invalid_argument("smooth_landmarks: sizes of at, fits, groups or out");
  for (int64_t i = 0; i < near * points; ++i)
    if (groups.data()[i] < 0 || groups.data()[i] >= points)
      throw std::invalid_argument("smooth_landmarks: groups must name points");
  const int64_t all = frames * points;
  std::vector<double> x(all), y(all), z(axes == 3 ? all : 0);
  for (int64_t k = 0; k < frames; ++k) {
    if (wide)
      split(static_cast<const double*>(window[k].data()), points, axes, k * points, x, y, z);
    else
      split(static_cast<const float*>(window[k].data()), points, axes, k * points, x, y, z);
  }
  std::vector<Complex> centres(frames), turns(frames);
  for (int64_t k = 0; k < frames; ++k) {
    double sx = 0, sy = 0;
    for (int64_t i = 0; i < points; ++i) sx += x[k * points + i], sy += y[k * points + i];
    centres[k] = Complex(sx, sy) / double(points);
  }
  const double *wanted_x = &x[at * points], *wanted_y = &y[at * points];
  std::vector<double> base_x(points), base_y(points);
  double spread = 0;
  for (int64_t i = 0; i < points; ++i) {
    base_x[i] = wanted_x[i] - centres[at].real(), base_y[i] = wanted_y[i] - centres[at].imag();
    spread += base_x[i] * base_x[i] + base_y[i] * base_y[i];
  }
  if (spread == 0) return false;
  const auto [left, right] = std::minmax_element(wanted_x, wanted_x + points);
  const auto [top, bottom] = std::minmax_element(wanted_y, wanted_y + points);
  const double tolerance = tolerance_share * std::max(*right - *left, *bottom - *top);

  // Head: the similarity that takes the wanted frame to each of the others.
  for (int64_t k = 0; k < frames; ++k) {
    const double *a = &x[k * points], *b = &y[k * points];
    double real = 0, imag = 0;  // base sums to 0: no centre needs taking off
    for (int64_t i = 0; i < points; ++i) {
      real += base_x[i] * a[i] + base_y[i] * b[i];
      imag += base_x[i] * b[i] - base_y[i] * a[i];
    }
    turns[k] = Complex(real, imag) / spread;
  }
  const Fit slow = fitted(fits.data(), centres, turns, x, y, z);
  const Fit quick = fitted(fits.data() + frames, centres, turns, x, y, z);
  const double apart =
      std::norm(slow.centre - quick.centre) + std::norm(slow.turn - quick.turn) * spread / points;
  const double agreed = trust(apart, tolerance);
  const Complex centre = quick.centre + agreed * (slow.centre - quick.centre);
  const Complex turn = quick.turn + agreed * (slow.turn - quick.turn);

  // Expression: what is left when the head is brought back to the wanted frame.
  std::vector<double> gap(points);
  for (int64_t i = 0; i < points; ++i)
    gap[i] = std::norm(Complex(slow.x[i] - quick.x[i], slow.y[i] - quick.y[i]));
  for (int64_t i = 0; i < points; ++i) {
    double sum = 0;
    for (int64_t g = 0; g < near; ++g) sum += gap[groups.data()[g * points + i]];
    const double share = trust(sum / double(near), tolerance);
    const Complex local(quick.x[i] + share * (slow.x[i] - quick.x[i]),
                        quick.y[i] + share * (slow.y[i] - quick.y[i]));
    const Complex flat = centre + turn * local;
    const double steady[] = {
        flat.real(), flat.imag(),
        axes == 3 ? std::abs(turn) * (quick.z[i] + share * (slow.z[i] - quick.z[i])) : 0};
    for (int64_t axis = 0; axis < axes; ++axis) {
      if (wide)
        static_cast<double*>(out.data())[i * axes + axis] = steady[axis];
      else
        static_cast<float*>(out.data())[i * axes + axis] = float(steady[axis]);
    }
  }
  return true;
}

// Centre, side and angle of the turned squares around sets of points.
void enclosing_regions(Doubles points, Doubles angles, double margin, Result out) {
  if (points.ndim() != 3 || points.shape(2) < 2 || points.shape(1) < 1 || angles.ndim() != 1 ||
      out.ndim() != 2 || angles.shape(0) != points.shape(0) || out.shape(0) != points.shape(0) ||
      out.shape(1) != 4)
    throw std::invalid_argument("enclosing_regions: points must be [N, P, 2 or more]");
  const int64_t count = points.shape(1), axes = points.shape(2);
  for (int64_t n = 0; n < int64_t(points.shape(0)); ++n) {
    const double* p = points.data() + n * count * axes;
    const double angle = angles.data()[n], cosine = std::cos(angle), sine = std::sin(angle);
    double left = INFINITY, right = -INFINITY, top = INFINITY, bottom = -INFINITY;
    bool finite = true;
    for (int64_t i = 0; i < count; ++i, p += axes) {
      const double x = cosine * p[0] + sine * p[1], y = cosine * p[1] - sine * p[0];
      finite = finite && x == x && y == y;
      left = std::min(left, x), right = std::max(right, x);
      top = std::min(top, y), bottom = std::max(bottom, y);
    }
    const double x = (left + right) / 2, y = (top + bottom) / 2;
    double* to = out.data() + 4 * n;
    to[0] = cosine * x - sine * y, to[1] = sine * x + cosine * y;
    to[2] = std::max(right - left, bottom - top) * margin, to[3] = angle;
    if (!finite) to[0] = to[1] = to[2] = NAN;
  }
}

}  // namespace
}  // namespace accel

ACCEL_BIND(landmarks) {
  m.def("smooth_landmarks", &accel::smooth_landmarks, "window"_a, "at"_a, "fits"_a, "groups"_a,
        "tolerance"_a, "out"_a);
  m.def("enclosing_regions", &accel::enclosing_regions, "points"_a, "angles"_a, "margin"_a,
        "out"_a);
}
