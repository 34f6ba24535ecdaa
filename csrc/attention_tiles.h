// Softmax attention of one head, tile by tile. Included by simd.h, once per vector width.
//
// Everything is turned on its side: a vector holds one number of kLanes queries. Scores are then
// rows of K times vectors of queries, the largest score and the sum of a query need no sums across
// a vector, and results are columns of V times vectors of weights: one inner product for both, in
// which no width of a head is padded to a vector's.
//
// Source: the online softmax of Milakov and Gimelshein 2018 (arXiv:1805.02867), blocked as in
// FlashAttention, Dao et al. 2022 (arXiv:2205.14135).

constexpr int kTile = 8;                     // keys, or columns of V, that lie side by side
constexpr int kRows = kLanes == 16 ? 8 : 4;  // of them that the registers can hold sums for
constexpr int kMost = 3;                     // vectors of queries in a panel
constexpr int kPanel = kMost * kLanes;       // queries of a whole panel
constexpr int kKeys = 64;                    // a block of keys: its scores stay in cache
constexpr int kDepth = 128;                  // of a head's width that is summed in one chain
constexpr int kGroup = 192;                  // queries that share a block of keys while it is near
constexpr int kTurn = kLanes == 4 ? 4 : 8;   // rows that are turned into columns together

static_assert(kGroup % kPanel == 0 && kTile % kRows == 0 && kTile % kTurn == 0, "whole parts");

constexpr int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// Floats that pack() fills, and that attend() needs to work in.
inline int64_t packed_floats(int64_t keys, int64_t dim, int64_t values) {
  return padded(keys, kTile) * dim + keys * padded(values, kTile);
}
inline int64_t scratch_floats(int64_t dim, int64_t values) {
  return kKeys * kPanel + kGroup * (dim + padded(values, kTile) + 2);
}

typedef float Line __attribute__((vector_size(4 * kTurn), may_alias));
// The halves of a's and b's numbers in turn: a0 b0 a1 b1 ..., from the first or the middle on.
#if defined(__clang__)  // where simd.h has four lanes alone
inline Line first_halves(Line a, Line b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
inline Line second_halves(Line a, Line b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#else
typedef int32_t Places __attribute__((vector_size(4 * kTurn), may_alias));
#if ACCEL_LANES == 4
inline Line first_halves(Line a, Line b) { return __builtin_shuffle(a, b, Places{0, 4, 1, 5}); }
inline Line second_halves(Line a, Line b) { return __builtin_shuffle(a, b, Places{2, 6, 3, 7}); }
#else
inline Line first_halves(Line a, Line b) {
  return __builtin_shuffle(a, b, Places{0, 8, 1, 9, 2, 10, 3, 11});
}
inline Line second_halves(Line a, Line b) {
  return __builtin_shuffle(a, b, Places{4, 12, 5, 13, 6, 14, 7, 15});
}
#endif
#endif

// to[j * to_row + i] = from[i * from_row + j] * by: at most kTurn `rows` and `columns`, or fewer
// than one. `put` of a line's kTurn numbers are written, zeros where there are no rows.
inline void turn(const float* from, int64_t from_row, int64_t rows, int64_t columns, float by,
                 float* to, int64_t to_row, int64_t put) {
  Line line[kTurn] = {}, next[kTurn];
  if (rows >= kTurn && columns >= kTurn) {
#pragma GCC unroll 8
    for (int i = 0; i < kTurn; ++i) __builtin_memcpy(&line[i], from + i * from_row, sizeof(Line));
  } else {
    for (int i = 0; i < kTurn; ++i)
      for (int j = 0; j < kTurn; ++j)
        line[i][j] = i < rows && j < columns ? from[i * from_row + j] : 0;
  }
#pragma GCC unroll 4
  for (int step = 1; step < kTurn; step *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kTurn / 2; ++i) {
      next[2 * i] = first_halves(line[i], line[i + kTurn / 2]);
      next[2 * i + 1] = second_halves(line[i], line[i + kTurn / 2]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kTurn; ++i) line[i] = next[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTurn; ++i) line[i] *= by;
  if (columns >= kTurn && put >= kTurn) {
#pragma GCC unroll 8
    for (int i = 0; i < kTurn; ++i) __builtin_memcpy(to + i * to_row, &line[i], sizeof(Line));
  } else {
    for (int j = 0; j < kTurn && j < columns; ++j)
      for (int i = 0; i < kTurn && i < put; ++i) to[j * to_row + i] = line[j][i];
  }
}

// Keys [first, last) into tiles [dim][kTile keys], zeros past the last of all; their values into
// the rows that are theirs in the tiles [keys][kTile columns]. `first`: a multiple of kTile.
inline void pack(const AttentionHead& h, int64_t first, int64_t last, float* into) {
  for (int64_t j = first; j < last; j += kTile) {
    float* keys = into + j * h.dim;
    for (int64_t i = 0; i < kTile; i += kTurn)
      for (int64_t d = 0; d < h.dim; d += kTurn)
        turn(h.k + (j + i) * h.k_row + d, h.k_row, h.keys - j - i, h.dim - d, 1,
             keys + d * kTile + i, kTile, kTurn);
    const int64_t some = last - j < kTile ? last - j : kTile;
    for (int64_t d = 0; d < h.values; d += kTile) {
      const float* v = h.v + j * h.v_row + d;
      float* values = into + padded(h.keys, kTile) * h.dim + d * h.keys + j * kTile;
      const int64_t wide = h.values - d < kTile ? h.values - d : kTile;
      for (int64_t i = 0; i < some; ++i, v += h.v_row, values += kTile)
        if (wide == kTile)
          __builtin_memcpy(values, v, sizeof(float) * kTile);
        else
          for (int64_t c = 0; c < kTile; ++c) values[c] = c < wide ? v[c] : 0;
    }
  }
}

// How a product goes into what it is added to: in its place, on top of it, or on top of it times
// one factor for each query.
enum class Into { kPlace, kTop, kScaled };

// c[kTile][kVectors] = (c * keep) + aᵀ[depth][kTile] · b[depth][kVectors].
template <int kVectors, Into kInto>
inline void product(const float* a, const float* b, int64_t depth, const float* keep, float* c) {
  constexpr int kStep = kVectors * kLanes;
#pragma GCC unroll 2
  for (int half = 0; half < kTile; half += kRows, a += kRows, c += kRows * kStep) {
    Vec sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 3
      for (int i = 0; i < kVectors; ++i) {
        sum[r][i] = Vec{};
        __builtin_prefetch(c + r * kStep + i * kLanes, 1);
      }
#pragma GCC unroll 1
    for (int64_t k = 0; k < depth; ++k) {
      Vec column[kVectors];
#pragma GCC unroll 3
      for (int i = 0; i < kVectors; ++i) column[i] = load(b + k * kStep + i * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec value = spread(a[k * kTile + r]);
#pragma GCC unroll 3
        for (int i = 0; i < kVectors; ++i) sum[r][i] = fma(value, column[i], sum[r][i]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 3
      for (int i = 0; i < kVectors; ++i) {
        float* to = c + r * kStep + i * kLanes;
        if (kInto == Into::kTop) sum[r][i] += load(to);
        if (kInto == Into::kScaled) sum[r][i] = fma(load(to), load(keep + i * kLanes), sum[r][i]);
        store(to, sum[r][i]);
      }
  }
}

// 2^x to 8e-8 relative for x of 0 and less; NaN stays NaN. Below -126 it is 0 with AVX-512, 2^-126
// elsewhere: beside the weight 1 that every query has, neither can be seen. Numbers between 0 and
// 2^-126, which masks of -100 would leave, take the processor a hundred times as long to multiply.
inline Vec weight_of(Vec x) {
#if ACCEL_LANES == 16
  const __mmask16 seen = _mm512_cmp_ps_mask(x, spread(-126.f), _CMP_NLT_UQ);
  // The other masks are whole: the plain forms make gcc 12 warn of its own header.
  const Vec f = _mm512_maskz_reduce_ps(0xffff, x, 0);
  const Vec whole = x - f;
#else
  const Vec least = spread(-126.f), magic = spread(12582912.f + 127);  // 1.5 * 2^23
  x = larger(least, x);
  const Vec shifted = x + magic;  // its last bits: the whole number nearest to x, plus 127
  const Vec f = x - (shifted - magic);
#endif
  Vec p = spread(0x1.5c08e2p-10f);
  p = fma(p, f, spread(0x1.3d0c52p-7f));
  p = fma(p, f, spread(0x1.c6b6e6p-5f));
  p = fma(p, f, spread(0x1.ebf918p-3f));
  p = fma(p, f, spread(0x1.62e428p-1f));
  p = fma(p, f, spread(0x1.000002p+0f));
#if ACCEL_LANES == 16
  return _mm512_maskz_scalef_ps(seen, p, whole);
#else
  return p * (Vec)((VecInt)shifted << 23);
#endif
}

// What is known of a panel's queries while their keys go by.
template <int kVectors>
struct Panel {
  static constexpr int kStep = kVectors * kLanes;
  float* scores;   // [kKeys][kStep], shared by all panels
  float* queries;  // [dim][kStep], scaled
  float* sums;     // [padded width of the values][kStep]
  float* largest;  // [kStep]
  float* total;    // [kStep]

  // Scores of keys [first, first + count) from their tiles.
  inline void score(const float* tiles, int64_t dim, int64_t count) const {
    for (int64_t d = 0; d < dim; d += kDepth) {
      const int64_t depth = dim - d < kDepth ? dim - d : kDepth;
      const float* q = queries + d * kStep;
      for (int64_t j = 0; j < count; j += kTile) {
        const float* k = tiles + j * dim + d * kTile;
        d ? product<kVectors, Into::kTop>(k, q, depth, nullptr, scores + j * kStep)
          : product<kVectors, Into::kPlace>(k, q, depth, nullptr, scores + j * kStep);
      }
    }
  }

  // The panel's query i must not see keys past `diagonal` + i, counted from the block's first.
  inline void hide(int64_t diagonal, int64_t count) const {
    for (int64_t j = diagonal < 0 ? 0 : diagonal + 1; j < count; ++j)
      for (int64_t i = 0; i < kStep && i < j - diagonal; ++i)
        scores[j * kStep + i] = -__builtin_inff();
  }

  // What is added to the scores of `rows` queries from `at` on and `count` keys from `block` on.
  inline void shift(const AttentionHead& h, int64_t at, int64_t rows, int64_t block,
                    int64_t count) const {
    const float* from = h.added + at * h.added_row + block;
    for (int64_t r = 0; r < kStep && r < rows; r += kTurn)
      for (int64_t j = 0; j < count; j += kTurn) {
        float part[kTurn * kTurn];  // [keys][queries]
        turn(from + r * h.added_row + j, h.added_row, rows - r, count - j, 1.44269504f, part, kTurn,
             kTurn);
        for (int64_t i = 0; i < kTurn && j + i < count; ++i) {
          float* to = scores + (j + i) * kStep + r;
          for (int64_t q = 0; q < kTurn; ++q) to[q] += part[i * kTurn + q];
        }
      }
  }

  // Scores to weights 2^(score - largest); `keep`: what earlier sums must be scaled by.
  inline void weigh(int64_t count, float* keep) const {
    const Vec lost = spread(-__builtin_inff());
    Vec top[kVectors], by[kVectors], sum[kVectors];
#pragma GCC unroll 3
    for (int i = 0; i < kVectors; ++i) top[i] = load(largest + i * kLanes);
    for (int64_t j = 0; j < count; ++j)
#pragma GCC unroll 3
      for (int i = 0; i < kVectors; ++i)
        top[i] = larger(load(scores + j * kStep + i * kLanes), top[i]);
#pragma GCC unroll 3
    for (int i = 0; i < kVectors; ++i) {
      // Where nothing was seen yet that may be looked at, what is summed here is thrown away later.
      by[i] = top[i] == lost ? Vec{} : top[i];
      sum[i] = Vec{};
    }
#pragma GCC unroll 1
    for (int64_t j = 0; j < count; ++j)
#pragma GCC unroll 3
      for (int i = 0; i < kVectors; ++i) {
        float* at = scores + j * kStep + i * kLanes;
        const Vec p = weight_of(load(at) - by[i]);
        store(at, p);
        sum[i] += p;
      }
#pragma GCC unroll 3
    for (int i = 0; i < kVectors; ++i) {
      const Vec before = load(largest + i * kLanes);
      const Vec kept = before == lost ? Vec{} : weight_of(before - by[i]);
      store(keep + i * kLanes, kept);
      store(total + i * kLanes, fma(load(total + i * kLanes), kept, sum[i]));
      store(largest + i * kLanes, top[i]);
    }
  }

  inline void add(const float* values, int64_t keys, int64_t dim, int64_t count, bool first,
                  const float* keep) const {
    for (int64_t d = 0; d < dim; d += kTile)
      first ? product<kVectors, Into::kPlace>(values + d * keys, scores, count, keep,
                                              sums + d * kStep)
            : product<kVectors, Into::kScaled>(values + d * keys, scores, count, keep,
                                               sums + d * kStep);
  }

  inline void begin(const AttentionHead& h, int64_t at, int64_t rows) const {
    for (int64_t r = 0; r < kStep; r += kTurn)
      for (int64_t d = 0; d < h.dim; d += kTurn)
        turn(h.q + (at + r) * h.q_row + d, h.q_row, rows - r, h.dim - d, h.scale,
             queries + d * kStep + r, kStep, kTurn);
    for (int64_t r = 0; r < kStep; ++r) largest[r] = -__builtin_inff(), total[r] = 0;
  }

  // The block of keys that begins at `block`, `count` of them.
  inline void see(const AttentionHead& h, const float* packed, int64_t at, int64_t rows,
                  int64_t block, int64_t count) const {
    float keep[kStep];
    score(packed + block * h.dim, h.dim, count);
    if (h.added) shift(h, at, rows, block, count);
    if (h.causal && block + count > at + 1) hide(at - block, count);
    weigh(count, keep);
    const float* values = packed + padded(h.keys, kTile) * h.dim + block * kTile;
    add(values, h.keys, h.values, count, block == 0, keep);
  }

  inline void finish(const AttentionHead& h, int64_t at, int64_t rows) const {
    const Vec lost = spread(-__builtin_inff());
#pragma GCC unroll 3
    for (int i = 0; i < kStep; i += kLanes) {
      // A query that may look at nothing (scores of -inf alone) gets zeros, as from torch.
      const Vec by = load(largest + i) == lost ? Vec{} : 1.f / load(total + i);
      for (int64_t d = 0; d < h.values; ++d)
        store(sums + d * kStep + i, load(sums + d * kStep + i) * by);
    }
    for (int64_t r = 0; r < kStep && r < rows; r += kTurn)
      for (int64_t d = 0; d < h.values; d += kTurn)
        turn(sums + d * kStep + r, kStep, h.values - d, rows - r, 1,
             h.out + (at + r) * h.out_row + d, h.out_row, h.values - d);
  }
};

// Calls `body` with a Panel of as many vectors as `rows` queries need.
template <typename Body>
inline void with_panel(int64_t rows, float* scores, float* at, int64_t dim, int64_t values,
                       const Body& body) {
  const int64_t width = padded(values, kTile);
  const auto call = [&](auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;
    constexpr int kStep = kVectors * kLanes;
    float* sums = at + dim * kStep;
    body(Panel<kVectors>{scores, at, sums, sums + width * kStep, sums + (width + 1) * kStep});
  };
  rows <= kLanes       ? call(std::integral_constant<int, 1>())
  : rows <= 2 * kLanes ? call(std::integral_constant<int, 2>())
                       : call(std::integral_constant<int, 3>());
}

// Output rows [first, last), at most kGroup, of a head whose keys and values were packed. A query's
// sums run in the same order whatever rows come with it.
inline void attend(const AttentionHead& h, const float* packed, int64_t first, int64_t last,
                   float* scratch) {
  const int64_t each = kPanel * (h.dim + padded(h.values, kTile) + 2);
  float* panels = scratch + kKeys * kPanel;
  const auto every = [&](const auto& body) {
    for (int64_t at = first; at < last; at += kPanel)
      with_panel(last - at, scratch, panels + (at - first) / kPanel * each, h.dim, h.values,
                 [&](const auto& panel) { body(panel, at, last - at); });
  };
  every([&](const auto& panel, int64_t at, int64_t rows) { panel.begin(h, at, rows); });
  for (int64_t block = 0; block < h.keys; block += kKeys) {
    const int64_t left = h.keys - block, count = left < kKeys ? left : kKeys;
    every([&](const auto& panel, int64_t at, int64_t rows) {
      const int64_t seen = at + (rows < kPanel ? rows : kPanel);  // where causal
      if (!h.causal || block < seen) panel.see(h, packed, at, rows, block, count);
    });
  }
  every([&](const auto& panel, int64_t at, int64_t rows) { panel.finish(h, at, rows); });
}
