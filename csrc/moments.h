// Weight, means and summed squares of three channels, put together part by part.
#pragma once

#include <cmath>

namespace accel {

struct Moments {
  double weight = 0, mean[3] = {}, squares[3] = {};

  // Chan, Golub and LeVeque 1979: the moments of two sets together.
  void merge(const Moments& other) {
    if (!(other.weight > 0)) return;
    const double total = weight + other.weight, share = other.weight / total;
    for (int c = 0; c < 3; ++c) {
      const double apart = other.mean[c] - mean[c];
      mean[c] += apart * share;
      squares[c] += other.squares[c] + apart * apart * weight * share;
    }
    weight = total;
  }

  double deviation(int c) const { return weight > 0 ? std::sqrt(squares[c] / weight) : 0.0; }
};

}  // namespace accel
