// One head of attention. accel/kernels/attention.py is the definition.
#pragma once

#include <cstdint>

namespace accel {

struct AttentionHead {
  const float *q, *k, *v;
  float* out;
  int64_t q_row, k_row, v_row, out_row;  // floats from one row to the next
  int64_t queries, keys, dim;
  float scale;  // of the scores, times log2(e)
  bool causal;  // query i sees keys 0..i
};

}  // namespace accel
