// Products on tile registers: AMX with bfloat16.
#include "conv_tiles.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
// Everything below may use the instructions, so nothing below may be shared with another file: no
// templates of the standard library, only what lies in the unnamed namespace.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12 warns of its own header
namespace accel {
namespace {

// The system hands out the large state of these registers only to processes that ask.
bool allowed() {
  unsigned a, b, c, d;
  constexpr unsigned kSystemSaves = 1u << 27, kTiles = 1u << 24 | 1u << 22, kBfloat16 = 1u << 5;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kSystemSaves)) return false;
  unsigned low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kState = 0x600e6;  // vectors, their masks, tiles
  if ((low & kState) != kState) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTiles) != kTiles) return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & kBfloat16)) return false;
  constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
}

}  // namespace
}  // namespace accel

#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma,amx-tile,amx-bf16,prefer-vector-width=512")
#define ACCEL_ISA_AVX512
namespace accel {
namespace {
#include "conv_vec.h"

constexpr int kMostParts = 3;

inline Vec low_half(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline Vec high_half(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000))));
}
inline __m512i round_both(Vec second, Vec first) {
  return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

// Parts of two vectors, side by side: 32 numbers in a row.
inline void cut_row(Vec first, Vec second, int parts, char* to, int64_t part_step) {
  for (int part = 0;; ++part) {
    const __m512i halves = round_both(second, first);
    _mm512_storeu_si512(to + part * part_step, halves);
    if (part + 1 == parts) return;
    const __m512i one = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves));
    const __m512i two = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(halves, 1));
    first = sub(first, low_half(one));
    second = sub(second, low_half(two));
  }
}

// Parts of two vectors, element by element: each pair is what one lane of a tile's row takes.
inline void cut_pairs(Vec first, Vec second, int parts, __m512i* to) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (int part = 0;; ++part) {
    to[part] = _mm512_permutexvar_epi16(order, round_both(second, first));
    if (part + 1 == parts) return;
    first = sub(first, low_half(to[part]));
    second = sub(second, high_half(to[part]));
  }
}

// Both parts of one vector, the upper and then the lower, as one row.
inline __m512i cut_half(Vec all_of_it) {
  const __m256i upper = (__m256i)_mm512_cvtneps_pbh(all_of_it);
  const Vec rest = sub(all_of_it, low_half(_mm512_cvtepu16_epi32(upper)));
  return _mm512_inserti64x4(_mm512_castsi256_si512(upper), (__m256i)_mm512_cvtneps_pbh(rest), 1);
}

inline Vec load_up_to(const float* from, int64_t count) {
  return count >= kLanes ? load(from) : count > 0 ? load_some(from, int(count)) : all(0.0f);
}

void cut_pixel(const float* x, int64_t channels, int parts, char* to, CutSteps apart) {
  for (int64_t c = 0; c < channels; c += kTileDepth, to += apart.chunk)
    if (fits_half(channels - c, parts))
      _mm512_storeu_si512(to, cut_half(load_up_to(x + c, channels - c)));
    else
      cut_row(load_up_to(x + c, channels - c), load_up_to(x + c + kLanes, channels - c - kLanes),
              parts, to, apart.part);
}

void cut_pixels(const float* const* rows, int64_t channels, int pixels, int parts, char* to,
                CutSteps apart) {
  alignas(64) float beyond[kLanes];
  for (int64_t c = 0; c < channels; c += kTileDepth, to += apart.chunk) {
    const bool half = fits_half(channels - c, parts);
    __m512i pairs[kMostParts][kLanes];
    for (int i = 0; i < (half ? kLanes / 2 : kLanes); ++i) {
      const int64_t at = c + 2 * i;
      __m512i both[kMostParts];
      cut_pairs(at < channels ? load_up_to(rows[at], pixels) : all(0.0f),
                at + 1 < channels ? load_up_to(rows[at + 1], pixels) : all(0.0f), parts, both);
      for (int part = 0; part < parts; ++part)
        (half ? pairs[0][part * kLanes / 2 + i] : pairs[part][i]) = both[part];
    }
    for (int part = 0; part < (half ? 1 : parts); ++part) {
      Vec lines[kLanes];
      float* out[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        lines[i] = _mm512_castsi512_ps(pairs[part][i]);
        out[i] = i < pixels ? (float*)(to + part * apart.part + i * kPartBytes) : beyond;
      }
      transpose(lines, out);
    }
  }
}

void cut_weights(const float* w, int64_t channels, Parts parts, char* to) {
  const bool half = fits_half(channels, parts.pixel);
  for (int64_t c = 0; c < (half ? kTileDepth / 2 : kTileDepth); c += 2)
    for (int64_t tile = 0; tile < 2; ++tile) {
      const float* from = w + c * kTileWide + tile * kLanes;
      __m512i pairs[kMostParts];
      cut_pairs(load(from), load(from + kTileWide), parts.weight, pairs);
      char* line = to + tile * (kWeightBytes / 2) + c / 2 * kPartBytes;
      for (int part = 0; part < parts.weight; ++part)
        _mm512_storeu_si512(line + part * kWeightBytes, pairs[part]);
      if (!half) continue;  // the upper part meets both of a pixel's, the lower the upper
      char* second = line + kTileDepth / 4 * kPartBytes;
      _mm512_storeu_si512(second, pairs[0]);
      if (parts.weight > 1) _mm512_storeu_si512(second + kWeightBytes, _mm512_setzero_si512());
    }
}

// A filter of 3x3 has nine numbers for each channel. Of two pairs of channels a vector holds the
// first eight taps of each; the ninth taps of all 16 pairs are gathered into one more.
constexpr int kFilter = 9, kPair = 2 * kFilter;

inline __m512i pairs_apart() {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_mullo_epi32(lane, _mm512_set1_epi32(kPair));
}

// Where weights are read from. `line`: what lies side by side; `two`: the first halves of two
// lines; `ninths`: the last tap of the pairs' first or second channels.
struct FromFloats {
  static constexpr int kParts = 2;
  static constexpr int kLine = kPartBytes / 4;  // numbers of a line of the cache
  const float* at;

  Vec line(int64_t i) const { return load(at + i); }
  Vec two(int64_t low, int64_t high) const {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(at + low)),
                              _mm256_loadu_ps(at + high), 1);
  }
  Vec ninths(bool second) const {
    return _mm512_i32gather_ps(pairs_apart(), at + kFilter - 1 + (second ? kFilter : 0), 4);
  }
};

template <Half kKind>
struct FromHalves {
  static constexpr int kParts = kKind == Half::kBfloat16 ? 1 : 2;
  static constexpr int kLine = kPartBytes / 2;
  const uint16_t* at;

  static Vec widen(__m256i bits) {
    if (kKind == Half::kFloat16) return _mm512_cvtph_ps(bits);
    return low_half(_mm512_cvtepu16_epi32(bits));
  }
  __m128i eight(int64_t i) const {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + i));
  }
  Vec line(int64_t i) const {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + i)));
  }
  Vec two(int64_t low, int64_t high) const {
    return widen(_mm256_inserti128_si256(_mm256_castsi128_si256(eight(low)), eight(high), 1));
  }
  Vec ninths(bool second) const {
    // Two numbers at a time, of which one counts; none from behind the last pair.
    const __m512i both =
        _mm512_i32gather_epi32(pairs_apart(), at + (second ? kPair - 2 : kFilter - 1), 2);
    return widen(_mm512_cvtepi32_epi16(second ? _mm512_srli_epi32(both, 16) : both));
  }
};

template <typename From>
inline void cut_filter(From w, int vector, __m512i* to) {
  if (vector == kFilter - 1) return cut_pairs(w.ninths(false), w.ninths(true), From::kParts, to);
  w.at += 2 * kPair * vector;
  cut_pairs(w.two(0, kPair), w.two(kFilter, kFilter + kPair), From::kParts, to);
}

// Where a lane of such a vector belongs: the row of its pair in its tap's tile.
inline char* place_of(char* to, int vector, int lane, int parts) {
  const bool last = vector == kFilter - 1;
  const int tap = last ? vector : lane % 8, pair = last ? lane : 2 * vector + lane / 8;
  return to + tap * parts * kWeightBytes + pair * kPartBytes;
}

template <typename From>
void cut_all_filters(From w, int64_t in_step, int outs, int taps, char* to) {
  for (int tile = 0; tile < 2; ++tile, to += kWeightBytes / 2)
    for (int vector = 0; vector < taps; ++vector) {
      __m512i parts[kLanes][From::kParts];
      for (int i = 0; i < kLanes; ++i) {
        const From from = {w.at + (tile * kLanes + i) * in_step};
        if (tile * kLanes + i >= outs) {
          for (auto& part : parts[i]) part = _mm512_setzero_si512();
          continue;
        }
        // The next call's: each vector is of kTileDepth numbers.
        const auto* next = from.at + (taps + vector) * kTileDepth;
        for (int64_t j = 0; j < kTileDepth; j += From::kLine) _mm_prefetch(next + j, _MM_HINT_T0);
        if (taps == 1)  // pairs of channels lie side by side
          cut_row(from.line(0), from.line(kLanes), From::kParts, reinterpret_cast<char*>(parts[i]),
                  kPartBytes);
        else
          cut_filter(from, vector, parts[i]);
      }
      for (int part = 0; part < From::kParts; ++part) {
        Vec lines[kLanes];
        float* rows[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          char* place = taps == 1 ? to + i * kPartBytes : place_of(to, vector, i, From::kParts);
          rows[i] = reinterpret_cast<float*>(place + part * kWeightBytes);
          lines[i] = _mm512_castsi512_ps(parts[i][part]);
        }
        transpose(lines, rows);
      }
    }
}

void cut_filters(const float* w, int64_t in_step, int outs, int taps, char* to) {
  cut_all_filters(FromFloats{w}, in_step, outs, taps, to);
}

void cut_half_filters(const uint16_t* w, Half kind, int64_t in_step, int outs, int taps, char* to) {
  if (kind == Half::kFloat16)
    cut_all_filters(FromHalves<Half::kFloat16>{w}, in_step, outs, taps, to);
  else
    cut_all_filters(FromHalves<Half::kBfloat16>{w}, in_step, outs, taps, to);
}

// Tiles 0 to 3 hold sums, 4 and 5 pixels, 6 and 7 weights.
template <int kTall, int kWide>
struct Step {
  const char* a;
  const char* b;
  int64_t part_step;

  void load_a(int part) const {
    _tile_loadd(4, a + part * part_step, kPartBytes);
    if (kTall == 2) _tile_loadd(5, a + part * part_step + 16 * kPartBytes, kPartBytes);
  }
  void load_b(int part) const {
    _tile_loadd(6, b + part * kWeightBytes, kPartBytes);
    if (kWide == 2) _tile_loadd(7, b + part * kWeightBytes + kWeightBytes / 2, kPartBytes);
  }
  static void products() {
    _tile_dpbf16ps(0, 4, 6);
    if (kWide == 2) _tile_dpbf16ps(1, 4, 7);
    if (kTall == 2) _tile_dpbf16ps(2, 5, 6);
    if (kTall == 2 && kWide == 2) _tile_dpbf16ps(3, 5, 7);
  }
  // Each load serves as many products as it can.
  template <int kParts, int kWeightParts>
  __attribute__((always_inline)) void run() const {
    load_b(0);
    if (kParts == 3) {
      load_a(0), products();
      load_a(1), products();
      load_a(2), products();
      load_b(1), load_a(1), products();
      load_a(0), products();
      load_b(2), products();
    } else {
      load_a(1), products();
      load_a(0), products();
      if (kWeightParts == 2) load_b(1), products();
    }
  }
  template <int kWeightParts>
  __attribute__((always_inline)) void run_half() const {
    load_b(0), load_a(0), products();
    if (kWeightParts == 2) load_b(1), products();
  }
};

inline void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

template <int kTall, int kWide>
void load_sums(const float* from) {
  constexpr int64_t kRow = kTileWide * 4;
  _tile_loadd(0, from, kRow);
  if (kWide == 2) _tile_loadd(1, from + 16, kRow);
  if (kTall == 2) _tile_loadd(2, from + 16 * kTileWide, kRow);
  if (kTall == 2 && kWide == 2) _tile_loadd(3, from + 16 * kTileWide + 16, kRow);
}

template <int kTall, int kWide>
void store_sums(float* to) {
  constexpr int64_t kRow = kTileWide * 4;
  _tile_stored(0, to, kRow);
  if (kWide == 2) _tile_stored(1, to + 16, kRow);
  if (kTall == 2) _tile_stored(2, to + 16 * kTileWide, kRow);
  if (kTall == 2 && kWide == 2) _tile_stored(3, to + 16 * kTileWide + 16, kRow);
}

// A tile that is stored long after the one before it (some 2300 cycles, on Sapphire Rapids) takes
// 700 cycles more, in which nothing else is done; so one is stored for nothing now and then.
constexpr int64_t kAwakeSteps = 4;

template <int kTall, int kWide, int kParts, int kWeightParts>
void sum_block(const TileSum& of, const char* a, float* sums) {
  alignas(64) char nothing[kLanes * kPartBytes];
  if (of.accumulate)
    load_sums<kTall, kWide>(sums);
  else
    clear_sums();
  const int64_t lines = (of.ahead_bytes / 64 + of.steps - 1) / of.steps;
  const char* ahead = of.ahead;
  for (int64_t i = 0; i < of.steps; ++i) {
    const Step<kTall, kWide> step{a + of.offsets[i], of.b + i * kWeightParts * kWeightBytes,
                                  of.part_step};
    if (i < of.steps - of.halves)
      step.template run<kParts, kWeightParts>();
    else
      step.template run_half<kWeightParts>();
    for (int64_t j = 0; j < lines; ++j, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
    if (i % kAwakeSteps == kAwakeSteps - 1) _tile_stored(4, nothing, kPartBytes);
  }
  store_sums<kTall, kWide>(sums);
}

template <int kTall, int kWide>
auto chosen(Parts parts) {
  return parts.pixel == 3    ? sum_block<kTall, kWide, 3, 3>
         : parts.weight == 2 ? sum_block<kTall, kWide, 2, 2>
                             : sum_block<kTall, kWide, 2, 1>;
}

void sum(const TileSum& of, const char* a, int64_t pixels, float* sums) {
  const auto run = pixels > 16    ? of.wide > 16 ? chosen<2, 2>(of.parts) : chosen<2, 1>(of.parts)
                   : of.wide > 16 ? chosen<1, 2>(of.parts)
                                  : chosen<1, 1>(of.parts);
  run(of, a, sums);
}

void begin() { _tile_loadconfig(&kTileShapes); }
void end() { _tile_release(); }

bool finite(const float* sums, int64_t pixels, int wide) {
  Vec watch[2][2] = {{all(0.0f), all(0.0f)}, {all(0.0f), all(0.0f)}};  // one would wait for itself
  for (int64_t i = 0; i < pixels; i += 2)
    for (int64_t j = 0; j < 2 && i + j < pixels; ++j, sums += kTileWide) {
      watch[j][0] = fma(load(sums), all(0.0f), watch[j][0]);
      if (wide > kLanes) watch[j][1] = fma(load(sums + kLanes), all(0.0f), watch[j][1]);
    }
  const Vec sum = add(add(watch[0][0], watch[0][1]), add(watch[1][0], watch[1][1]));
  return _mm512_cmp_ps_mask(sum, sum, _CMP_UNORD_Q) == 0;
}

const TileKernels kTable = {cut_pixel, cut_pixels, cut_weights, cut_filters, cut_half_filters,
                            begin,     sum,        end,         finite};

}  // namespace
}  // namespace accel
#pragma GCC pop_options
namespace accel {
const TileKernels* conv_amx() {
  static const bool there = allowed();
  return there ? &kTable : nullptr;
}
}  // namespace accel
#else
namespace accel {
const TileKernels* conv_amx() { return nullptr; }
}  // namespace accel
#endif
