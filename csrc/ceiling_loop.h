// The arithmetic that no kernel can beat: independent fused multiply-adds, all in registers.
// Included by simd.h, once per vector width.

constexpr int kChains = 12;  // enough to hide the latency of one

inline float multiply_add(int64_t rounds, float by) {
  Vec sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = spread(float(i));
  const Vec factor = spread(by);
#pragma GCC unroll 1
  for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = fma(sum[i], factor, factor);
  float all = 0;
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) all += sum[i][0];
  return all;
}
