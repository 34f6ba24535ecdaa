// Softmax attention of one head, tile by tile. Included by simd.h, once per vector width.
//
// Source: the online softmax of Milakov and Gimelshein 2018 (arXiv:1805.02867), blocked as in
// FlashAttention, Dao et al. 2022 (arXiv:2205.14135).

constexpr int kRows = kLanes == 16 ? 12 : kLanes == 8 ? 6 : 4;  // what the registers can hold
constexpr int kPanel = 2 * kLanes;                              // keys, or columns of V
constexpr int kQueries = 4 * kRows;                             // a block of queries
constexpr int kDepth = 160;  // of a row of K that is worked through at a time
constexpr int kKeys = 256;   // a block of keys: its scores stay in the nearest cache
constexpr int kScores =
    kKeys + 16;  // a row of scores; rows 2^n apart would fight for one cache set

constexpr int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// Floats that pack() fills, and that attend() needs to work in.
inline int64_t packed_floats(int64_t keys, int64_t dim) {
  return padded(keys, kPanel) * (dim + padded(dim, kPanel));
}
inline int64_t scratch_floats(int64_t dim) {
  return kQueries * (dim + kScores + padded(dim, kPanel) + 2);
}

// Keys into panels [dim][kPanel keys], values into panels [keys][kPanel columns].
inline void pack(const AttentionHead& h, float* into) {
  const int64_t keys = padded(h.keys, kPanel), dim = h.dim;
  for (int64_t j = 0; j < keys; ++j) {
    float* column = into + j / kPanel * kPanel * dim + j % kPanel;
    const float* k = h.k + j * h.k_row;
    if (j < h.keys)
      for (int64_t d = 0; d < dim; ++d) column[d * kPanel] = k[d];
    else
      for (int64_t d = 0; d < dim; ++d) column[d * kPanel] = 0;
  }
  into += keys * dim;
  for (int64_t first = 0; first < dim; first += kPanel, into += keys * kPanel) {
    const int64_t some = dim - first < kPanel ? dim - first : kPanel;
    __builtin_memset(into + h.keys * kPanel, 0, sizeof(float) * (keys - h.keys) * kPanel);
    for (int64_t j = 0; j < h.keys; ++j) {
      const float* v = h.v + j * h.v_row + first;
      float* row = into + j * kPanel;
      for (int64_t d = 0; d < some; ++d) row[d] = v[d];
      for (int64_t d = some; d < kPanel; ++d) row[d] = 0;
    }
  }
}

// Scaled query rows, a tile of kRows after another, each column by column; zeros past the last.
inline void pack_queries(const AttentionHead& h, int64_t at, int64_t rows, int64_t tiles,
                         float* into) {
  for (int64_t r = 0; r < tiles; ++r) {
    float* column = into + r / kRows * kRows * h.dim + r % kRows;
    const float* q = h.q + (at + r) * h.q_row;
    if (r < rows)
      for (int64_t d = 0; d < h.dim; ++d) column[d * kRows] = q[d] * h.scale;
    else
      for (int64_t d = 0; d < h.dim; ++d) column[d * kRows] = 0;
  }
}

// Rows of sums over their totals, to where the caller wants them.
inline void finish(const AttentionHead& h, int64_t at, int64_t rows, const float* sums,
                   int64_t width, const float* total) {
  for (int64_t r = 0; r < rows; ++r) {
    const Vec by = spread(1 / total[r]);
    float* out = h.out + (at + r) * h.out_row;
    int64_t d = 0;
    for (; d + kLanes <= h.dim; d += kLanes) store(out + d, load(sums + r * width + d) * by);
    if (d < h.dim) store_some(out + d, load(sums + r * width + d) * by, int(h.dim - d));
  }
}

// c[kRows][kCols vectors] (+)= a[kRows][depth] · b[depth][kCols vectors], b a panel.
// kColumns: a is stored column by column, [depth][kRows], else rows are kScores apart.
template <int kCols, bool kAdd, bool kColumns>
inline void tile(const float* a, const float* b, int64_t depth, float* c, int64_t c_row) {
  constexpr int64_t a_row = kColumns ? 1 : kScores, a_step = kColumns ? kRows : 1;
  Vec sum[kRows][kCols];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < kCols; ++i) sum[r][i] = kAdd ? load(c + r * c_row + i * kLanes) : Vec{};
#pragma GCC unroll 1
  for (int64_t k = 0; k < depth; ++k) {
    Vec column[kCols];
#pragma GCC unroll 4
    for (int i = 0; i < kCols; ++i) column[i] = load(b + k * kPanel + i * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec value = spread(a[r * a_row + k * a_step]);
#pragma GCC unroll 4
      for (int i = 0; i < kCols; ++i) sum[r][i] = fma(value, column[i], sum[r][i]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < kCols; ++i) store(c + r * c_row + i * kLanes, sum[r][i]);
}

// Scores of one panel of keys, `left` of them wanted. Long rows go piece by piece, so that the
// panel's piece stays in the nearest cache for all the queries.
inline void score(const float* queries, const float* panel, int64_t dim, int64_t rows, int64_t left,
                  float* scores) {
  for (int64_t d = 0; d < dim; d += kDepth) {
    const int64_t depth = dim - d < kDepth ? dim - d : kDepth;
    for (int64_t r = 0; r < rows; r += kRows) {
      const float* q = queries + r * dim + d * kRows;
      const float* k = panel + d * kPanel;
      float* into = scores + r * kScores;
      if (left > kLanes)
        d ? tile<2, true, true>(q, k, depth, into, kScores)
          : tile<2, false, true>(q, k, depth, into, kScores);
      else
        d ? tile<1, true, true>(q, k, depth, into, kScores)
          : tile<1, false, true>(q, k, depth, into, kScores);
    }
  }
}

// Scores to weights 2^(score - largest); returns what earlier sums of this row must be scaled by.
inline float weigh(float* scores, int64_t count, int64_t allowed, float& largest, float& total) {
  const float lost = -__builtin_inff();
  for (int64_t j = allowed < 0 ? 0 : allowed; j < count; ++j) scores[j] = lost;
  Vec top = spread(largest);
  for (int64_t j = 0; j < count; j += kLanes) top = larger(load(scores + j), top);
  const float now = largest_of(top);
  if (now == lost) {  // nothing seen yet that may be looked at
    for (int64_t j = 0; j < count; ++j) scores[j] = 0;
    return 1;
  }
  const Vec by = spread(now), floor = spread(-126.f);
  Vec sums{};
  for (int64_t j = 0; j < count; j += kLanes) {
    const Vec x = load(scores + j) - by;
    const Vec p = x < floor ? Vec{} : exp2_within(x);
    store(scores + j, p);
    sums += p;
  }
  const float keep = largest == now ? 1.f : exp2(spread(largest - now))[0];
  total = total * (largest == lost ? 0.f : keep) + sum(sums);
  largest = now;
  return keep;
}

// Output rows [first, last) of a head whose keys and values were packed; first: a multiple of
// kQueries, so that a row's sums run in the same order however the rows were shared out.
inline void attend(const AttentionHead& h, const float* packed, int64_t first, int64_t last,
                   float* scratch) {
  const int64_t width = padded(h.dim, kPanel), keys = padded(h.keys, kPanel);
  const float* values = packed + keys * h.dim;
  float* scores = scratch;
  float* out = scores + kQueries * kScores;
  float* queries = out + kQueries * width;
  float* largest = queries + kQueries * h.dim;
  float* total = largest + kQueries;
  for (int64_t at = first; at < last; at += kQueries) {
    const int64_t rows = last - at < kQueries ? last - at : kQueries;
    const int64_t tiles = padded(rows, kRows);
    pack_queries(h, at, rows, tiles, queries);
    for (int64_t i = 0; i < tiles * width; ++i) out[i] = 0;
    for (int64_t r = 0; r < tiles; ++r) largest[r] = -__builtin_inff(), total[r] = 0;
    const int64_t seen = h.causal && at + rows < h.keys ? at + rows : h.keys;
    for (int64_t block = 0; block < seen; block += kKeys) {
      const int64_t left = padded(seen - block, kLanes);
      const int64_t count = left < kKeys ? left : kKeys;
      for (int64_t j = 0; j < count; j += kPanel)
        score(queries, packed + (block + j) * h.dim, h.dim, tiles, count - j, scores + j);
      for (int64_t r = 0; r < tiles; ++r) {
        const int64_t visible = h.causal && at + r + 1 < h.keys ? at + r + 1 : h.keys;
        const float keep =
            weigh(scores + r * kScores, count, visible - block, largest[r], total[r]);
        if (keep != 1)
          for (int64_t d = 0; d < width; d += kLanes)
            store(out + r * width + d, load(out + r * width + d) * keep);
      }
      for (int64_t d = 0; d < h.dim; d += kPanel) {
        const float* panel = values + d * keys + block * kPanel;
        for (int64_t r = 0; r < tiles; r += kRows)
          if (h.dim - d > kLanes)
            tile<2, true, false>(scores + r * kScores, panel, count, out + r * width + d, width);
          else
            tile<1, true, false>(scores + r * kScores, panel, count, out + r * width + d, width);
      }
    }
    finish(h, at, rows, out, width, total);
  }
}
