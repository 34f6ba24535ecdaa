// Rows of a plane made smaller, and blurred. Included once per instruction set: see simd.h. Sums
// are whole numbers and nothing is fused, so that every CPU gives the same bytes.

constexpr int kMostOwnSide = 8;

// The means of squares of SIDE x SIDE samples (0: of any side) from the sums of their columns.
template <int SIDE, typename Sum>
inline void shrink_means(const Sum* __restrict__ sums, int side, int few, float share,
                         uint8_t* __restrict__ out) {
  // 64 bits: by Python's flags an int wraps, and places that may wrap are not read as vectors.
  const int64_t count = SIDE ? SIDE : side;
  for (int64_t x = 0; x < few; ++x) {
    uint32_t sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += sums[x * count + i];
    const float mean = float(sum) * share + 0.5f;
    out[x] = uint8_t(int(mean < 255.f ? mean : 255.f));
  }
}

// The same by the code for just that side, where there is one: most frames shrink by few.
template <int SIDE, typename Sum>
inline void shrink_means_from(const Sum* sums, int side, int few, float share, uint8_t* out) {
  if (side == SIDE) return shrink_means<SIDE>(sums, side, few, share, out);
  if constexpr (SIDE < kMostOwnSide)
    shrink_means_from<SIDE + 1>(sums, side, few, share, out);
  else
    shrink_means<0>(sums, side, few, share, out);
}

// `few` of them, from `side` rows of samples; scratch holds few * side sums.
template <typename Sample, typename Sum>
inline void shrink_row(const Sample* from, int64_t row, int side, int few, float share,
                       Sum* __restrict__ sums, uint8_t* out) {
  const int width = few * side;
  for (int x = 0; x < width; ++x) sums[x] = from[x];
  for (int y = 1; y < side; ++y) {
    const Sample* __restrict__ next = from + y * row;
    for (int x = 0; x < width; ++x) sums[x] = Sum(sums[x] + next[x]);
  }
  shrink_means_from<1>(sums, side, few, share, out);
}

#if ACCEL_LANES == 16
#define ACCEL_INT(name) _mm512_##name
typedef __m512i Bytes;
#elif ACCEL_LANES == 8
#define ACCEL_INT(name) _mm256_##name
typedef __m256i Bytes;
#endif

// Three rows, or one row at three places, made one: those beside count `beside` 256ths each.
inline void blur_three(const uint8_t* a, const uint8_t* b, const uint8_t* c, int count, int beside,
                       uint8_t* __restrict__ out) {
  const uint16_t side = uint16_t(beside), middle = uint16_t(256 - 2 * beside);
  int x = 0;
#if ACCEL_LANES >= 8
  // The same as below: b + (beside * (a + c - 2 b) + 128 >> 8), which one instruction rounds so.
  const Bytes share = ACCEL_INT(set1_epi16)(int16_t(beside << 7));
  const auto half = [&](Bytes left, Bytes at, Bytes right) {
    const Bytes bend =
        ACCEL_INT(sub_epi16)(ACCEL_INT(add_epi16)(left, right), ACCEL_INT(add_epi16)(at, at));
    return ACCEL_INT(add_epi16)(at, ACCEL_INT(mulhrs_epi16)(bend, share));
  };
  for (; x + int(sizeof(Bytes)) <= count; x += int(sizeof(Bytes))) {
    Bytes l, m, r;
    __builtin_memcpy(&l, a + x, sizeof l);
    __builtin_memcpy(&m, b + x, sizeof m);
    __builtin_memcpy(&r, c + x, sizeof r);
    const Bytes none = {};
    const Bytes low = half(ACCEL_INT(unpacklo_epi8)(l, none), ACCEL_INT(unpacklo_epi8)(m, none),
                           ACCEL_INT(unpacklo_epi8)(r, none));
    const Bytes high = half(ACCEL_INT(unpackhi_epi8)(l, none), ACCEL_INT(unpackhi_epi8)(m, none),
                            ACCEL_INT(unpackhi_epi8)(r, none));
    const Bytes both = ACCEL_INT(packus_epi16)(low, high);
    __builtin_memcpy(out + x, &both, sizeof both);
  }
#endif
  for (; x < count; ++x) {
    const uint16_t both = uint16_t(a[x] + c[x]), at = b[x];
    out[x] = uint8_t(uint16_t(uint16_t(both * side) + uint16_t(at * middle) + 128) >> 8);
  }
}

// A row out of three; scratch holds width + 2 bytes.
inline void blur_row(const uint8_t* above, const uint8_t* at, const uint8_t* below, int width,
                     int beside, uint8_t* scratch, uint8_t* out) {
  uint8_t* row = scratch + 1;
  blur_three(above, at, below, width, beside, row);
  row[-1] = row[0], row[width] = row[width - 1];
  blur_three(row - 1, row, row + 1, width, beside, out);
}

#undef ACCEL_INT
