// sRGB to CIE Lab and back without a call to pow: square roots and polynomials, which vectorise.
//
// Each power is a polynomial in a root of the argument, where it is nearly straight; fitted for the
// smallest largest error, which is below 5e-7 of a result in 0..1 in float. The constants are those
// of accel/kernels/color.py.
#pragma once

#include <cmath>

#include "both.h"

namespace accel {

struct Lab {
  float l, a, b;
};
struct Rgb {
  float r, g, b;
};

// NaN stays NaN: neither comparison holds.
ACCEL_BOTH float clamp_unit(float x) {
  x = x < 0.0f ? 0.0f : x;
  return x > 1.0f ? 1.0f : x;
}

// ((x + 0.055) / 1.055) ^ 2.4 above the bend.
ACCEL_BOTH float srgb_to_linear(float coded) {
  const float x = clamp_unit(coded);
  const float s = sqrtf((x + 0.055f) * (1.0f / 1.055f));
  const float curve =
      0.000378970376f +
      s * (-0.00523120126f +
           s * (0.0313335025f +
                s * (-0.111279372f + s * (0.312242139f + s * (0.807914475f + s * -0.03535861f)))));
  const float line = x * (1.0f / 12.92f);
  return x > 0.04045f ? curve : line;
}

// 1.055 · x ^ (1 / 2.4) - 0.055 above the bend.
ACCEL_BOTH float linear_to_srgb(float linear) {
  const float x = clamp_unit(linear);
  const float q = sqrtf(sqrtf(x));
  const float curve =
      -0.00326431906f +
      q * (0.117098543f +
           q * (1.38552693f +
                q * (-1.09621299f +
                     q * (1.14710528f +
                          q * (-0.852563791f + q * (0.374665806f + q * -0.0723557741f))))));
  const float line = 12.92f * x;
  return x > 0.0031308f ? 1.055f * curve - 0.055f : line;
}

constexpr float kBend = 6.0f / 29.0f;
constexpr float kSlope = 1.0f / (3.0f * kBend * kBend);

// The cube root above the bend, its tangent below.
ACCEL_BOTH float lab_root(float t) {
  const float q = sqrtf(sqrtf(t));
  const float curve =
      -0.00871573284f +
      q * (0.439724708f +
           q * (1.15836323f +
                q * (-1.32234934f +
                     q * (1.38082456f +
                          q * (-0.983157606f + q * (0.410774606f + q * -0.0754645598f))))));
  const float line = t * kSlope + 4.0f / 29.0f;
  return t > kBend * kBend * kBend ? curve : line;
}

ACCEL_BOTH float lab_cube(float f) {
  const float line = (f - 4.0f / 29.0f) * (1.0f / kSlope);
  return f > kBend ? f * f * f : line;
}

ACCEL_BOTH Lab rgb_to_lab(float red, float green, float blue) {
  const float r = srgb_to_linear(red), g = srgb_to_linear(green), b = srgb_to_linear(blue);
  const float x = lab_root(0.433952755f * r + 0.376219415f * g + 0.189827830f * b);
  const float y = lab_root(0.212671000f * r + 0.715160000f * g + 0.072169000f * b);
  const float z = lab_root(0.017757914f * r + 0.109476521f * g + 0.872765565f * b);
  return {116.0f * y - 16.0f, 500.0f * (x - y), 200.0f * (y - z)};
}

ACCEL_BOTH Rgb lab_to_rgb(float l, float a, float b) {
  const float f = (l + 16.0f) * (1.0f / 116.0f);
  const float x = lab_cube(f + a * (1.0f / 500.0f)), y = lab_cube(f),
              z = lab_cube(f - b * (1.0f / 200.0f));
  return {linear_to_srgb(3.079934936f * x - 1.537151516f * y - 0.542783419f * z),
          linear_to_srgb(-0.921234183f * x + 1.875990001f * y + 0.045244181f * z),
          linear_to_srgb(0.052889682f * x - 0.204041338f * y + 1.151151656f * z)};
}

}  // namespace accel
