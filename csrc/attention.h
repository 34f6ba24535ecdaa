// One head of attention. accel/kernels/attention.py is the definition.
#pragma once

#include <cstdint>

namespace accel {

struct AttentionHead {
  const float *q, *k, *v;
  float* out;
  int64_t q_row, k_row, v_row, out_row;  // floats from one row to the next
  int64_t queries, keys, dim;
  float scale;         // of the scores, times log2(e)
  bool causal;         // query i sees keys 0..i
  int64_t values;      // the width of v and out; tiles want that of q and k
  const float* added;  // to the scores, [queries][keys], or null: vectors alone take it
  int64_t added_row;
};

// Attention on tile registers; attention.cpp drives it, attention_amx.cpp provides it.
struct AttentionTiles {
  // Whether heads of so many keys and this width are worked on.
  bool (*takes)(int64_t keys, int64_t dim);
  // Of the packed keys and values of a head.
  int64_t (*packed_bytes)(int64_t keys, int64_t dim);
  // Queries that are best worked on together: a multiple of 32, at most 1024.
  int64_t (*group)(int64_t keys, int64_t dim);
  // That attend() works in.
  int64_t (*scratch_bytes)(int64_t keys, int64_t dim);
  // Keys and values [first, last) into their place in `into`; `first` a multiple of 256. The
  // largest magnitudes of both into most[2].
  void (*pack)(const AttentionHead& head, int64_t first, int64_t last, char* into, float* most);
  // Results of queries [first, last); `most`: of all keys and values. Returns a bit for each 32 of
  // them that have numbers not finite, or too large, for tiles: they have no result yet.
  uint32_t (*attend)(const AttentionHead& head, const char* packed, const float* most,
                     int64_t first, int64_t last, char* scratch);
};

// Null where the processor, the system or the compiler has no such registers.
const AttentionTiles* attention_tiles();

}  // namespace accel
