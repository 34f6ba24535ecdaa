// Attention on tile registers: AMX with bfloat16. See conv_tiles.h for the parts that numbers are
// cut into.
//
// A tile of scores has queries for rows and keys for columns, so that weights leave the softmax in
// the order in which the product with the values reads them. Everything is cut into three parts,
// and the six products that matter are summed: a softmax of few weights averages no errors away, as
// a convolution does, and large scores need all their digits.
//
// The six products of queries and keys are one product of long vectors: cut keys are kept one part
// below the other, and [k0 k1 k2] meets [q0 q0 q0], then [k0 k1] [q1 q1], then [k0] [q2]. The width
// of a head is padded to the depth of a tile three times in all, not six.
#include "attention.h"
#include "conv_tiles.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
// Everything below may use the instructions, so nothing below may be shared with another file: no
// templates of the standard library, only what lies in the unnamed namespace.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12 warns of its own header
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma,amx-tile,amx-bf16,prefer-vector-width=512")
namespace accel {
namespace {

constexpr int64_t kTile = 16;  // rows of a tile; its columns, of float32
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kLine = 64;     // bytes of a tile's row
constexpr int64_t kPanel = 32;    // queries that are worked on together: two tiles
constexpr int64_t kChunk = 32;    // keys: the depth of one tile, the width of two
constexpr int64_t kWidest = 160;  // of a head that is summed in one go
constexpr int64_t kSlice = 128;   // of a wider one
constexpr int64_t kMostSlices = 8;
constexpr int64_t kMostSteps = 32;
constexpr int64_t kGroupBytes = 900
                                << 10;  // of queries that share a block of keys while it is near
constexpr int64_t kRowByRow = 8;        // panels of a head of few keys before the next head's
constexpr int64_t kFewTogether = 4;  // of them, so that one's weights hide behind another's scores
constexpr float kMostScore = 1 << 20;       // tiles serve where no score may be larger
constexpr float kHidden = -2 * kMostScore;  // the score of what must not be seen: weighs nothing

constexpr int64_t ceil_to(int64_t count, int64_t to) { return (count + to - 1) / to * to; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- how everything lies in memory: it follows from the width of a head

struct Slice {
  int64_t begin, wide, even;  // of the head's width; an even number is kept
  bool whole;                 // parts fill whole tiles: each is kept once, not once per product
  int64_t key_bytes, query_bytes;  // of a tile of cut keys; of one cut query
  int64_t steps, query_at[kMostSteps], key_at[kMostSteps];  // which tiles are multiplied

  void set(int64_t from, int64_t count) {
    begin = from, wide = count, even = ceil_to(count, 2), whole = even % kChunk == 0;
    key_bytes = ceil_to(3 * even / 2, kTile) * kLine;
    steps = 0;
    for (int64_t part = 0; part < 3; ++part)
      for (int64_t i = 0; i < tiles(part); ++i, ++steps) {
        query_at[steps] = (whole ? part * tiles(2) + i % tiles(2) : steps) * kLine;
        key_at[steps] = i * kTileBytes;
      }
    query_bytes = (whole ? 3 * tiles(2) : steps) * kLine;
  }
  // That a part of the queries is multiplied with.
  int64_t tiles(int64_t part) const { return ceil_to((3 - part) * even, kChunk) / kChunk; }
};

struct Shape {
  int64_t dim, slices, columns, block;                // tiles of columns; keys of a block
  int64_t key_bytes, value_bytes;                     // of 16 cut keys; of 32 cut values
  int64_t query_row, sum_row, score_row, weight_row;  // bytes
  int64_t panel_bytes;  // what is kept of a panel between blocks of keys
  Slice slice[kMostSlices];

  explicit Shape(int64_t dim) : dim(dim), slices(0), key_bytes(0), query_row(0) {
    for (int64_t at = 0; at < dim; ++slices) {
      slice[slices].set(at, dim - at > kWidest ? kSlice : dim - at);
      at += slice[slices].wide;
      key_bytes += slice[slices].key_bytes;
      query_row += slice[slices].query_bytes;
    }
    columns = ceil_to(dim, kTile) / kTile;
    block = slices == 1 ? 256 : 128;
    value_bytes = columns * 3 * kTileBytes;
    // Odd numbers of lines: rows that lie a power of two apart would fall on few places of a cache.
    query_row = odd(query_row), sum_row = odd(columns * kLine), score_row = odd(block * 4);
    weight_row = odd(3 * block * 2);
    panel_bytes = kPanel * (query_row + sum_row + kLine + 4) + kLine;
    panel_bytes = ceil_to(panel_bytes, kLine);
  }
  static int64_t odd(int64_t bytes) { return bytes / kLine % 2 ? bytes : bytes + kLine; }

  // Of a score's sum.
  int64_t steps() const {
    int64_t all = 0;
    for (int64_t i = 0; i < slices; ++i) all += slice[i].steps;
    return all;
  }
  int64_t block_bytes() const { return block / kTile * key_bytes + block / kChunk * value_bytes; }
  int64_t packed_bytes(int64_t keys) const {
    const int64_t padded = ceil_to(keys, kChunk);
    return padded / kTile * key_bytes + padded / kChunk * value_bytes;
  }
  // Panels that are worked on together.
  int64_t together(int64_t keys) const {
    const int64_t fits = kGroupBytes / panel_bytes;
    return fits < 2 ? 2 : least(fits, keys <= block ? kFewTogether : 32);
  }
  int64_t scratch_bytes(int64_t keys) const {
    return kPanel * (2 * score_row + weight_row) + together(keys) * panel_bytes;
  }
};

// ---- numbers

typedef __m512 Vec;

inline Vec all(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* at) { return _mm512_loadu_ps(at); }
inline void store(float* at, Vec v) { _mm512_storeu_ps(at, v); }
inline __m512i bits(Vec v) { return _mm512_castps_si512(v); }
inline Vec real(__m512i v) { return _mm512_castsi512_ps(v); }
inline void put(char* at, __m512i v) { _mm512_storeu_si512(at, v); }
inline __mmask16 first(int64_t count) {
  return count >= kTile ? 0xffff : count <= 0 ? 0 : __mmask16((1 << count) - 1);
}
inline Vec load_some(const float* at, int64_t count) {
  return _mm512_maskz_loadu_ps(first(count), at);
}
inline Vec larger(Vec a, Vec b) { return _mm512_maskz_max_ps(0xffff, a, b); }

// The largest magnitude of what went by; infinity where that was not a number.
struct Watch {
  Vec most, none;
  Watch() : most(all(0)), none(all(0)) {}
  void see(Vec v) {
    most = larger(real(_mm512_and_si512(bits(v), _mm512_set1_epi32(0x7fffffff))), most);
    none = _mm512_fmadd_ps(v, all(0), none);
  }
  float most_seen() const {
    const bool lost = _mm512_cmp_ps_mask(none, none, _CMP_UNORD_Q);
    return lost ? __builtin_inff() : _mm512_reduce_max_ps(most);
  }
};

// Three parts of 32 numbers, each part in their order.
inline void cut(Vec a, Vec b, __m512i* part) {
  for (int i = 0;; ++i) {
    part[i] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    if (i == 2) return;
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(part[i]));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(part[i], 1));
    a = _mm512_sub_ps(a, real(_mm512_slli_epi32(low, 16)));
    b = _mm512_sub_ps(b, real(_mm512_slli_epi32(high, 16)));
  }
}

// Three parts of a row: part[i][chunk].
inline void cut_row(const float* from, int64_t wide, float by, Watch& watch,
                    __m512i (*part)[kWidest / kChunk]) {
  for (int64_t c = 0; c < wide; c += kChunk) {
    const Vec a = _mm512_mul_ps(load_some(from + c, wide - c), all(by));
    const Vec b = _mm512_mul_ps(load_some(from + c + kTile, wide - c - kTile), all(by));
    watch.see(a), watch.see(b);
    __m512i both[3];
    cut(a, b, both);
    for (int i = 0; i < 3; ++i) part[i][c / kChunk] = both[i];
  }
}

// The upper halves of two vectors in turn: a0 b0 a1 b1 ...
inline __m512i upper_halves(Vec a, Vec b) {
  constexpr int kOrAnd = 0xf8;
  return _mm512_ternarylogic_epi32(_mm512_srli_epi32(bits(a), 16), bits(b),
                                   _mm512_set1_epi32(int(0xffff0000)), kOrAnd);
}

inline Vec rest(Vec v) {
  return _mm512_sub_ps(v, real(_mm512_and_si512(bits(v), _mm512_set1_epi32(int(0xffff0000)))));
}

// Three parts of two vectors, whose numbers become neighbours: what a lane of a tile's row takes.
// Parts are not rounded: eight bits and eight and the eight that are left are all of a float32.
inline void cut_pairs(Vec a, Vec b, char* to, int64_t apart) {
  put(to, upper_halves(a, b));
  a = rest(a), b = rest(b);
  put(to + apart, upper_halves(a, b));
  put(to + 2 * apart, upper_halves(rest(a), rest(b)));
}

// ---- keys and values

// Lines of 16 numbers of 32 bits, turned: to[i] gets number i of each.
inline void turn(const char* from, int64_t apart, char* to) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; ++i) b[i] = _mm512_loadu_ps(from + i * apart);
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_ps(b[2 * i], b[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_ps(b[2 * i], b[2 * i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      const __m512d x = _mm512_castps_pd(a[i + j]), y = _mm512_castps_pd(a[i + j + 2]);
      b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0x88);
    a[4 + i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0xdd);
    a[8 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x88);
    a[12 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_ps(to + i * kLine, _mm512_shuffle_f32x4(a[i], a[8 + i], 0x88));
    _mm512_storeu_ps(to + (4 + i) * kLine, _mm512_shuffle_f32x4(a[4 + i], a[12 + i], 0x88));
    _mm512_storeu_ps(to + (8 + i) * kLine, _mm512_shuffle_f32x4(a[i], a[8 + i], 0xdd));
    _mm512_storeu_ps(to + (12 + i) * kLine, _mm512_shuffle_f32x4(a[4 + i], a[12 + i], 0xdd));
  }
}

// Sixteen keys from `at` on, zeros past the last: pairs of numbers for lines, part below part.
inline void pack_keys(const AttentionHead& h, const Slice& s, int64_t at, char* to, Watch& watch) {
  constexpr int64_t kRow = 3 * kWidest * 2 + 2 * kLine;
  alignas(64) char rows[kTile * kRow];
  __m512i part[3][kWidest / kChunk];
  for (int64_t j = 0; j < kTile; ++j) {
    char* row = rows + j * kRow;
    if (at + j >= h.keys) {
      __builtin_memset(row, 0, kRow);
      continue;
    }
    cut_row(h.k + (at + j) * h.k_row + s.begin, s.wide, 1, watch, part);
    for (int64_t i = 0; i < 3; ++i)
      for (int64_t c = 0; c < s.even; c += kChunk)
        put(row + (i * s.even + c) * 2, part[i][c / kChunk]);
    put(row + 3 * s.even * 2, __m512i{});
  }
  for (int64_t line = 0; line < s.key_bytes / kTileBytes; ++line)
    turn(rows + line * kLine, kRow, to + line * kTileBytes);
}

// Of 32 keys from `at` on the columns of one tile, zeros past the last: a line has the keys i and
// i + 16, as cut weights have them. The parts lie `apart` bytes from one another.
inline void pack_values(const AttentionHead& h, int64_t at, int64_t column, char* to, int64_t apart,
                        Watch& watch) {
  const int64_t wide = h.dim - column;
  const float* v = h.v + at * h.v_row + column;
  for (int64_t i = 0; i < kTile; ++i) {
    const bool there = at + i < h.keys, both = at + i + kTile < h.keys;
    const Vec a = there ? load_some(v + i * h.v_row, wide) : all(0);
    const Vec b = both ? load_some(v + (i + kTile) * h.v_row, wide) : all(0);
    watch.see(a), watch.see(b);
    cut_pairs(a, b, to + i * kLine, apart);
  }
}

// Keys [from, last), `from` a multiple of all blocks. A block has its keys by slices and tiles,
// then its values by pairs of column tiles, chunks, parts and tiles.
void pack(const AttentionHead& h, int64_t from, int64_t last, char* into, float* most) {
  const Shape shape(h.dim);
  Watch keys, values;
  for (int64_t at = from; at < last; at += shape.block) {
    const int64_t chunks = ceil_to(least(shape.block, last - at), kChunk) / kChunk;
    char* to = into + at / shape.block * shape.block_bytes();
    for (int64_t i = 0; i < shape.slices; ++i)
      for (int64_t tile = 0; tile < 2 * chunks; ++tile, to += shape.slice[i].key_bytes)
        pack_keys(h, shape.slice[i], at + tile * kTile, to, keys);
    for (int64_t column = 0; column < shape.columns; column += 2) {
      const int64_t tiles = least(2, shape.columns - column);
      for (int64_t chunk = 0; chunk < chunks; ++chunk, to += 3 * tiles * kTileBytes)
        for (int64_t i = 0; i < tiles; ++i)
          pack_values(h, at + chunk * kChunk, (column + i) * kTile, to + i * kTileBytes,
                      tiles * kTileBytes, values);
    }
  }
  most[0] = keys.most_seen(), most[1] = values.most_seen();
}

// ---- queries

// Tiles 0 to 3 hold sums, 4 and 5 what has queries for rows, 6 and 7 the other factor.
inline void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

template <int kWide>
inline void load_sums(const char* from, int64_t row) {
  _tile_loadd(0, from, row);
  _tile_loadd(2, from + kTile * row, row);
  if (kWide == 2) _tile_loadd(1, from + kLine, row);
  if (kWide == 2) _tile_loadd(3, from + kTile * row + kLine, row);
}

template <int kWide>
inline void store_sums(char* to, int64_t row) {
  _tile_stored(0, to, row);
  _tile_stored(2, to + kTile * row, row);
  if (kWide == 2) _tile_stored(1, to + kLine, row);
  if (kWide == 2) _tile_stored(3, to + kTile * row + kLine, row);
}

inline void load_rows(const char* from, int64_t row) {
  _tile_loadd(4, from, row);
  _tile_loadd(5, from + kTile * row, row);
}

template <int kWide>
inline void load_values(const char* from) {
  _tile_loadd(6, from, kLine);
  if (kWide == 2) _tile_loadd(7, from + kTileBytes, kLine);
}

template <int kWide>
inline void products() {
  _tile_dpbf16ps(0, 4, 6);
  if (kWide == 2) _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  if (kWide == 2) _tile_dpbf16ps(3, 5, 7);
}

// 2^(s - top), at most 1, of scores and of a whole number not below them; 0 below 2^-126. `zero` is
// what has the number -top in its last bits: see weigh(). The polynomial is good to 8e-8.
inline Vec weight_of(Vec s, Vec zero) {
  const Vec t = _mm512_add_ps(s, zero), f = _mm512_sub_ps(s, _mm512_sub_ps(t, zero));
  Vec p = all(0x1.5c08e2p-10f);
  p = _mm512_fmadd_ps(p, f, all(0x1.3d0c52p-7f));
  p = _mm512_fmadd_ps(p, f, all(0x1.c6b6e6p-5f));
  p = _mm512_fmadd_ps(p, f, all(0x1.ebf918p-3f));
  p = _mm512_fmadd_ps(p, f, all(0x1.62e428p-1f));
  p = _mm512_fmadd_ps(p, f, all(0x1.000002p+0f));
  const __m512i power = _mm512_slli_epi32(bits(larger(t, all(12582912.f))), 23);
  return _mm512_mul_ps(p, real(power));
}

// What is known of 32 queries while their keys go by.
struct Panel {
  const Shape& shape;
  char* scores;   // [32] rows, of two that panels use in turn
  char* weights;  // [32] rows of parts, shared
  char* queries;  // [32] rows of tiles' lines
  char* sums;     // [32] rows of columns
  float* totals;  // [32][16]
  float* tops;    // [32] whole numbers not below the scores so far

  Panel(const Shape& shape, char* scratch, int64_t i, int64_t turn = 0)
      : shape(shape), scores(scratch + turn * kPanel * shape.score_row) {
    weights = scratch + 2 * kPanel * shape.score_row;
    sums = weights + kPanel * shape.weight_row + i * shape.panel_bytes;
    totals = reinterpret_cast<float*>(sums + kPanel * shape.sum_row);
    tops = totals + kPanel * kTile;
    queries = reinterpret_cast<char*>(tops + kPanel);
  }

  // Cut queries; returns the largest magnitude, times the scale.
  float begin(const AttentionHead& h, int64_t at, int64_t rows) const {
    Watch watch;
    __m512i part[3][kWidest / kChunk];
    for (int64_t r = 0; r < kPanel; ++r) {
      char* row = queries + r * shape.query_row;
      if (r >= rows) {
        __builtin_memset(row, 0, shape.query_row);
        continue;
      }
      for (int64_t i = 0; i < shape.slices; ++i) {
        const Slice& s = shape.slice[i];
        const float* from = h.q + (at + r) * h.q_row + s.begin;
        // Rows of one head among others lie too far apart for the processor to foresee.
        for (int64_t c = 0; c < s.wide; c += kTile) {
          _mm_prefetch(from + kPanel * h.q_row + c, _MM_HINT_T0);
          _mm_prefetch(h.out + (at + r) * h.out_row + s.begin + c, _MM_HINT_ET0);
        }
        cut_row(from, s.wide, h.scale, watch, part);
        for (int64_t k = 0; k < 3; ++k) {
          // What a vector writes past its part is written over by the next one.
          const int64_t copies = s.whole ? 1 : 3 - k;
          for (int64_t copy = 0; copy < copies; ++copy)
            for (int64_t c = 0; c < s.even; c += kChunk)
              put(row + (copy * s.even + c) * 2, part[k][c / kChunk]);
          if (!s.whole) put(row + copies * s.even * 2, __m512i{});
          row += s.whole ? s.even * 2 : s.tiles(k) * kLine;
        }
      }
    }
    return watch.most_seen();
  }

  // Of a block of keys; between() comes after every step.
  template <typename Between>
  inline void score(const char* keys, int64_t chunks, const Between& between) const {
    const char* rows = queries;
    for (int64_t i = 0; i < shape.slices; ++i) {
      const Slice& s = shape.slice[i];
      for (int64_t chunk = 0; chunk < chunks; ++chunk, keys += 2 * s.key_bytes) {
        char* to = scores + chunk * kChunk * 4;
        i ? load_sums<2>(to, shape.score_row) : clear_sums();
        for (int64_t step = 0; step < s.steps; ++step) {
          load_rows(rows + s.query_at[step], shape.query_row);
          _tile_loadd(6, keys + s.key_at[step], kLine);
          _tile_loadd(7, keys + s.key_bytes + s.key_at[step], kLine);
          products<2>();
          between();
        }
        store_sums<2>(to, shape.score_row);
      }
      rows += s.query_bytes;
    }
  }

  // Query i must not see keys past `last` + i.
  inline void hide(int64_t last, int64_t each, int64_t chunks) const {
    for (int64_t i = 0; i < kPanel; ++i) {
      float* row = reinterpret_cast<float*>(scores + i * shape.score_row);
      const int64_t seen = last + each * i + 1;
      for (int64_t j = seen < 0 ? 0 : seen; j < chunks * kChunk; ++j) row[j] = kHidden;
    }
  }

  // A row of scores to cut weights; earlier sums are scaled to what is the top now.
  inline void weigh(int64_t i, int64_t chunks, bool begins) const {
    const float* row = reinterpret_cast<const float*>(scores + i * shape.score_row);
    char* to = weights + i * shape.weight_row;
    Vec a = load(row), b = load(row + kTile);
    for (int64_t j = 1; j < chunks; ++j) {
      a = larger(load(row + j * kChunk), a);
      b = larger(load(row + j * kChunk + kTile), b);
    }
    const float top = __builtin_ceilf(_mm512_reduce_max_ps(larger(a, b)));
    if (begins || top > tops[i]) raise(i, top, begins);
    // 1.5 * 2^23: whole numbers added to it stand in its last bits. Power 0 is 127 there.
    const Vec zero = all(12582912.f + 127 - tops[i]);
    Vec s0 = all(0), s1 = all(0);
    for (int64_t j = 0; j < chunks; ++j) {
      const Vec x = weight_of(load(row + j * kChunk), zero);
      const Vec y = weight_of(load(row + j * kChunk + kTile), zero);
      s0 = _mm512_add_ps(s0, x), s1 = _mm512_add_ps(s1, y);
      cut_pairs(x, y, to + j * kLine, shape.block * 2);
    }
    float* total = totals + i * kTile;
    const Vec more = _mm512_add_ps(s0, s1);
    store(total, begins ? more : _mm512_add_ps(load(total), more));
  }

  inline void raise(int64_t i, float top, bool begins) const {
    if (!begins) {
      const Vec keep = _mm512_maskz_scalef_ps(0xffff, all(1), all(tops[i] - top));  // a power of 2
      float* sum = reinterpret_cast<float*>(sums + i * shape.sum_row);
      for (int64_t c = 0; c < shape.columns * kTile; c += kTile)
        store(sum + c, _mm512_mul_ps(load(sum + c), keep));
      store(totals + i * kTile, _mm512_mul_ps(load(totals + i * kTile), keep));
    }
    tops[i] = top;
  }

  template <int kWide>
  inline void add_columns(const char* values, int64_t chunks, bool begins, char* to) const {
    begins ? clear_sums() : load_sums<kWide>(to, shape.sum_row);
    const char* rows = weights;
    const int64_t part = shape.block * 2;
    // Each load serves as many products as it can.
    for (int64_t chunk = 0; chunk < chunks; ++chunk, rows += kLine) {
      load_values<kWide>(values), values += kWide * kTileBytes;
      load_rows(rows, shape.weight_row), products<kWide>();
      load_rows(rows + 2 * part, shape.weight_row), products<kWide>();
      load_rows(rows + part, shape.weight_row), products<kWide>();
      load_values<kWide>(values), values += kWide * kTileBytes;
      products<kWide>();
      load_rows(rows, shape.weight_row), products<kWide>();
      load_values<kWide>(values), values += kWide * kTileBytes;
      products<kWide>();
    }
    store_sums<kWide>(to, shape.sum_row);
  }

  inline void add(const char* values, int64_t chunks, bool begins) const {
    int64_t column = 0;
    for (; column + 2 <= shape.columns; column += 2, values += chunks * 6 * kTileBytes)
      add_columns<2>(values, chunks, begins, sums + column * kLine);
    if (column < shape.columns) add_columns<1>(values, chunks, begins, sums + column * kLine);
  }

  inline void finish(const AttentionHead& h, int64_t at, int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i) {
      const Vec by = all(1 / _mm512_reduce_add_ps(load(totals + i * kTile)));
      const float* sum = reinterpret_cast<const float*>(sums + i * shape.sum_row);
      float* to = h.out + (at + i) * h.out_row;
      for (int64_t c = 0; c < h.dim; c += kTile)
        _mm512_mask_storeu_ps(to + c, first(h.dim - c), _mm512_mul_ps(load(sum + c), by));
    }
  }
};

// Sums of parts of what is this large, or this small, may leave the range of float32.
bool serves(float keys, float values) {
  return keys < 0x1p60f && values < 0x1p100f && (values == 0 || values > 0x1p-80f);
}

// Scores of a panel and a block of keys on their way to the sums. They are weighed row by row while
// the scores after them are multiplied: tile registers and vectors work side by side.
struct Scored {
  int64_t panel, turn, rows, chunks;
  const char* values;
  bool begins;
  int64_t weighed;  // rows
};

// Panels that share a block of keys while it is near, from the query `from` on.
uint32_t attend_some(const AttentionHead& h, const Shape& shape, const char* packed,
                     const float* most, int64_t from, int64_t panels, char* scratch) {
  uint32_t refused = 0;
  const auto rows_of = [&](int64_t at) { return least(kPanel, h.queries - at); };
  for (int64_t i = 0; i < panels; ++i) {
    const int64_t at = from + i * kPanel;
    const float queries = Panel(shape, scratch, i).begin(h, at, rows_of(at));
    const bool fits = queries < 0x1p60f && queries * most[0] * float(h.dim) < kMostScore;
    if (!(fits && serves(most[0], most[1]))) refused |= 1u << i;
  }
  Scored last = {};
  const auto weigh = [&] {
    Panel(shape, scratch, last.panel, last.turn).weigh(last.weighed++, last.chunks, last.begins);
  };
  const auto add = [&] {
    while (last.weighed < last.rows) weigh();
    if (last.rows)
      Panel(shape, scratch, last.panel, last.turn).add(last.values, last.chunks, last.begins);
  };
  for (int64_t block = 0; block < h.keys; block += shape.block, packed += shape.block_bytes()) {
    const int64_t count = least(shape.block, h.keys - block);
    const int64_t chunks = ceil_to(count, kChunk) / kChunk, steps = chunks * shape.steps();
    for (int64_t i = 0; i < panels; ++i) {
      const int64_t at = from + i * kPanel, rows = rows_of(at);
      if (refused >> i & 1 || (h.causal && block >= at + rows)) continue;
      const Panel panel(shape, scratch, i, 1 - last.turn);
      int64_t due = 0;
      panel.score(packed, chunks, [&] {
        for (due += last.rows; due >= steps; due -= steps) weigh();
      });
      if (count % kChunk) panel.hide(count - 1, 0, chunks);
      if (h.causal && block + count > at + 1) panel.hide(at - block, 1, chunks);
      add();
      last = {i, 1 - last.turn, rows, chunks, packed + chunks * 2 * shape.key_bytes, !block, 0};
    }
  }
  add();
  for (int64_t i = 0; i < panels; ++i) {
    const int64_t at = from + i * kPanel;
    if (!(refused >> i & 1)) Panel(shape, scratch, i).finish(h, at, rows_of(at));
  }
  return refused;
}

uint32_t attend(const AttentionHead& h, const char* packed, const float* most, int64_t from,
                int64_t last, char* scratch) {
  const Shape shape(h.dim);
  const int64_t panels = ceil_to(last - from, kPanel) / kPanel, together = shape.together(h.keys);
  uint32_t refused = 0;
  _tile_loadconfig(&kTileShapes);
  for (int64_t i = 0; i < panels; i += together)
    refused |=
        attend_some(h, shape, packed, most, from + i * kPanel, least(together, panels - i), scratch)
        << i;
  _tile_release();
  return refused;
}

// By the width of a head and its keys alone, so that results do not depend on other queries. The
// softmax takes as long for narrow heads as for wide ones, and cutting queries as long for few keys
// as for many: there vectors are faster.
bool takes(int64_t keys, int64_t dim) {
  return dim <= kSlice * kMostSlices && (keys >= 128 ? dim >= 32 : keys >= 32 && dim >= 128);
}

const AttentionTiles kTable = {
    takes,
    [](int64_t keys, int64_t dim) { return Shape(dim).packed_bytes(keys); },
    [](int64_t keys, int64_t dim) {
      const int64_t together = Shape(dim).together(keys);
      return (keys <= Shape(dim).block ? kRowByRow : together) * kPanel;
    },
    [](int64_t keys, int64_t dim) { return Shape(dim).scratch_bytes(keys); },
    pack,
    attend,
};

}  // namespace
}  // namespace accel
#pragma GCC pop_options
namespace accel {
const AttentionTiles* attention_tiles() { return conv_amx() ? &kTable : nullptr; }
}  // namespace accel
#else
namespace accel {
const AttentionTiles* attention_tiles() { return nullptr; }
}  // namespace accel
#endif
