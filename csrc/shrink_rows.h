// Rows of a plane made smaller, and blurred. Included once per instruction set: see simd.h. Sums
// are whole numbers and nothing is fused, so that every CPU gives the same bytes.

// The means of squares of SIDE x SIDE samples (0: of any side) from the sums of their columns.
template <int SIDE, typename Sum>
inline void shrink_means(const Sum* __restrict__ sums, int side, int few, float share,
                         uint8_t* __restrict__ out) {
  const int count = SIDE ? SIDE : side;
  for (int x = 0; x < few; ++x) {
    uint32_t sum = 0;
    for (int i = 0; i < count; ++i) sum += sums[x * count + i];
    const float mean = float(sum) * share + 0.5f;
    out[x] = uint8_t(int(mean < 255.f ? mean : 255.f));
  }
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
  switch (side) {
    case 1:
      return shrink_means<1>(sums, side, few, share, out);
    case 2:
      return shrink_means<2>(sums, side, few, share, out);
    case 3:
      return shrink_means<3>(sums, side, few, share, out);
    case 4:
      return shrink_means<4>(sums, side, few, share, out);
    default:
      return shrink_means<0>(sums, side, few, share, out);
  }
}

// Five rows, or one row at five places, made one; the middle counts 256 - 2 (inner + outer).
inline void blur_five(const uint8_t* const from[5], int count, int outer, int inner,
                      uint8_t* __restrict__ out) {
  const uint16_t o = uint16_t(outer), i = uint16_t(inner), m = uint16_t(256 - 2 * (outer + inner));
  const uint8_t *a = from[0], *b = from[1], *c = from[2], *d = from[3], *e = from[4];
  for (int x = 0; x < count; ++x) {
    const uint16_t far = uint16_t(a[x] + e[x]), near = uint16_t(b[x] + d[x]), at = c[x];
    const uint16_t sum = uint16_t(uint16_t(far * o) + uint16_t(near * i) + uint16_t(at * m));
    out[x] = uint8_t(uint16_t(sum + 128) >> 8);
  }
}

// A row out of five; scratch holds width + 4 bytes.
inline void blur_row(const uint8_t* const rows[5], int width, int outer, int inner,
                     uint8_t* __restrict__ scratch, uint8_t* __restrict__ out) {
  uint8_t* row = scratch + 2;
  blur_five(rows, width, outer, inner, row);
  row[-2] = row[-1] = row[0], row[width] = row[width + 1] = row[width - 1];
  const uint8_t* const shifted[5] = {row - 2, row - 1, row, row + 1, row + 2};
  blur_five(shifted, width, outer, inner, out);
}
