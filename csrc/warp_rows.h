// Rows of pictures of three channels, warped by a cubic; compiled once per instruction set, see
// csrc/simd.h.

// A byte a lane. Written out: compilers take generic conversions apart, lane by lane.
#if ACCEL_LANES == 16
inline Vec load_codes(const uint8_t* at) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return _mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepu8_epi32(0xffff, bytes));
}
#elif ACCEL_LANES == 8
inline Vec load_codes(const uint8_t* at) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}
#else
inline Vec load_codes(const uint8_t* at) {
  return Vec{float(at[0]), float(at[1]), float(at[2]), float(at[3])};
}
#endif

// The taps of `weights` rows, summed down: what lies side by side in memory stays so.
inline void sum_down(const uint8_t* at, int64_t row, const float* weights, float* column) {
  constexpr int kTaken = (12 + kLanes - 1) / kLanes;  // vectors for four taps of three channels
  for (int v = 0; v < kTaken; ++v) {
    Vec sum = {};
    for (int j = 0; j < 4; ++j) sum = sum + weights[j] * load_codes(at + j * row + v * kLanes);
    store(column + v * kLanes, sum);
  }
}

// x, y: [n] places in a picture of `size` bytes whose four rows and columns of taps lie inside, as
// `fits` says. out: n pixels of three planes.
inline void warp_inside(const uint8_t* picture, int64_t row, const float* x, const float* y, int n,
                        const uint8_t* fits, float* out, int64_t plane) {
  constexpr int kRun = 64;
  float wx[4][kRun], wy[4][kRun];
  int left[kRun], top[kRun];
  for (int first = 0; first < n; first += kRun) {
    const int count = n - first < kRun ? n - first : kRun;
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      const int x0 = floor_int(x[first + i]), y0 = floor_int(y[first + i]);
      float across[4], down[4];
      cubic_weights(x[first + i] - float(x0), across);
      cubic_weights(y[first + i] - float(y0), down);
      for (int tap = 0; tap < 4; ++tap) wx[tap][i] = across[tap], wy[tap][i] = down[tap];
      left[i] = x0 - 1;
      top[i] = y0 - 1;
    }
    for (int i = 0; i < count; ++i) {
      if (!fits[first + i]) continue;
      const float down[4] = {wy[0][i], wy[1][i], wy[2][i], wy[3][i]};
      float column[16];
      sum_down(picture + top[i] * row + left[i] * 3, row, down, column);
      for (int c = 0; c < 3; ++c) {
        float sum = 0;
        for (int tap = 0; tap < 4; ++tap) sum += wx[tap][i] * column[tap * 3 + c];
        const float value = sum * (1.0f / 255.0f);
        out[c * plane + first + i] = value < 0 ? 0 : value > 1 ? 1 : value;
      }
    }
  }
}
