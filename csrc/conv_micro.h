// The inner product of everything here: C[rows, panel] = A[rows, k] · B[k, panel] (+ more).
//
// A has its rows lda floats apart, B is packed (rows of one panel, 64-byte aligned), C has its rows
// ldc floats apart, a segment of k is a multiple of 4. Every element is one chain of multiply-adds
// over k, begun at zero and added to `more` at the end, whatever the number of rows: that is what
// keeps the bytes of a result independent of batch, block and thread. Ending a chain after a block
// of k is also what keeps rounding small.
//
// Assembly, because gcc 12 spills the accumulators of the same loop written in intrinsics: a third
// of the speed.

#if defined(ACCEL_ISA_AVX512)
constexpr int kPanel = 32, kRows = 12;
#define ACCEL_LOAD_B(D0, D1) "vmovaps " D0 "(%[b]),%%zmm0\n\tvmovaps " D1 "(%[b]),%%zmm1\n\t"
#define ACCEL_ROW(AT, D, X, P, Q)                                             \
  "vbroadcastss " D AT ",%%zmm" X "\n\tvfmadd231ps %%zmm0,%%zmm" X ",%%zmm" P \
  "\n\t"                                                                      \
  "vfmadd231ps %%zmm1,%%zmm" X ",%%zmm" Q "\n\t"
#define ACCEL_ZERO(P, Q) \
  "vpxord %%zmm" P ",%%zmm" P ",%%zmm" P "\n\tvpxord %%zmm" Q ",%%zmm" Q ",%%zmm" Q "\n\t"
#define ACCEL_ADD_MORE(P, Q) \
  "vaddps (%[m]),%%zmm" P ",%%zmm" P "\n\tvaddps 64(%[m]),%%zmm" Q ",%%zmm" Q "\n\t"
#define ACCEL_PUT(P, Q) \
  "vmovups %%zmm" P ",(%[c])\n\tvmovups %%zmm" Q ",64(%[c])\n\tadd %[lc],%[c]\n\t"
// Rows in their registers: zmm8 and 9 the first row's, and so on; 2 to 7 take turns for A.
#define ACCEL_EACH_1(F) F("(%[a])", "2", "8", "9")
#define ACCEL_EACH_2(F) ACCEL_EACH_1(F) F("(%[a],%[l])", "3", "10", "11")
#define ACCEL_EACH_3(F) ACCEL_EACH_2(F) F("(%[a],%[l],2)", "4", "12", "13")
#define ACCEL_EACH_4(F) ACCEL_EACH_3(F) F("(%[a3])", "5", "14", "15")
#define ACCEL_EACH_5(F) ACCEL_EACH_4(F) F("(%[a3],%[l])", "6", "16", "17")
#define ACCEL_EACH_6(F) ACCEL_EACH_5(F) F("(%[a3],%[l],2)", "7", "18", "19")
#define ACCEL_EACH_7(F) ACCEL_EACH_6(F) F("(%[a6])", "2", "20", "21")
#define ACCEL_EACH_8(F) ACCEL_EACH_7(F) F("(%[a6],%[l])", "3", "22", "23")
#define ACCEL_EACH_9(F) ACCEL_EACH_8(F) F("(%[a6],%[l],2)", "4", "24", "25")
#define ACCEL_EACH_10(F) ACCEL_EACH_9(F) F("(%[a9])", "5", "26", "27")
#define ACCEL_EACH_11(F) ACCEL_EACH_10(F) F("(%[a9],%[l])", "6", "28", "29")
#define ACCEL_EACH_12(F) ACCEL_EACH_11(F) F("(%[a9],%[l],2)", "7", "30", "31")
#define ACCEL_CLOBBERS                                                                          \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",      \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", \
      "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", \
      "xmm31"
#define ACCEL_B0 ACCEL_LOAD_B("0", "64")
#define ACCEL_B1 ACCEL_LOAD_B("128", "192")
#define ACCEL_B2 ACCEL_LOAD_B("256", "320")
#define ACCEL_B3 ACCEL_LOAD_B("384", "448")
#define ACCEL_B_ANY "vmovups (%[b]),%%zmm0\n\tvmovups 64(%[b]),%%zmm1\n\t"
#define ACCEL_NEXT_B "add $512,%[b]\n\t"
#define ACCEL_AHEAD                                                                  \
  "prefetcht1 (%[ahead])\n\tprefetcht1 64(%[ahead])\n\tprefetcht1 128(%[ahead])\n\t" \
  "add $192,%[ahead]\n\t"
#elif defined(ACCEL_ISA_AVX2)
constexpr int kPanel = 16, kRows = 6;
#define ACCEL_LOAD_B(D0, D1) "vmovaps " D0 "(%[b]),%%ymm0\n\tvmovaps " D1 "(%[b]),%%ymm1\n\t"
#define ACCEL_ROW(AT, D, X, P, Q)                                             \
  "vbroadcastss " D AT ",%%ymm" X "\n\tvfmadd231ps %%ymm0,%%ymm" X ",%%ymm" P \
  "\n\t"                                                                      \
  "vfmadd231ps %%ymm1,%%ymm" X ",%%ymm" Q "\n\t"
#define ACCEL_ZERO(P, Q) \
  "vxorps %%ymm" P ",%%ymm" P ",%%ymm" P "\n\tvxorps %%ymm" Q ",%%ymm" Q ",%%ymm" Q "\n\t"
#define ACCEL_ADD_MORE(P, Q) \
  "vaddps (%[m]),%%ymm" P ",%%ymm" P "\n\tvaddps 32(%[m]),%%ymm" Q ",%%ymm" Q "\n\t"
#define ACCEL_PUT(P, Q) \
  "vmovups %%ymm" P ",(%[c])\n\tvmovups %%ymm" Q ",32(%[c])\n\tadd %[lc],%[c]\n\t"
#define ACCEL_EACH_1(F) F("(%[a])", "2", "4", "5")
#define ACCEL_EACH_2(F) ACCEL_EACH_1(F) F("(%[a],%[l])", "3", "6", "7")
#define ACCEL_EACH_3(F) ACCEL_EACH_2(F) F("(%[a],%[l],2)", "2", "8", "9")
#define ACCEL_EACH_4(F) ACCEL_EACH_3(F) F("(%[a3])", "3", "10", "11")
#define ACCEL_EACH_5(F) ACCEL_EACH_4(F) F("(%[a3],%[l])", "2", "12", "13")
#define ACCEL_EACH_6(F) ACCEL_EACH_5(F) F("(%[a3],%[l],2)", "3", "14", "15")
#define ACCEL_CLOBBERS                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define ACCEL_B0 ACCEL_LOAD_B("0", "32")
#define ACCEL_B1 ACCEL_LOAD_B("64", "96")
#define ACCEL_B2 ACCEL_LOAD_B("128", "160")
#define ACCEL_B3 ACCEL_LOAD_B("192", "224")
#define ACCEL_B_ANY "vmovups (%[b]),%%ymm0\n\tvmovups 32(%[b]),%%ymm1\n\t"
#define ACCEL_NEXT_B "add $256,%[b]\n\t"
#define ACCEL_AHEAD "prefetcht1 (%[ahead])\n\tprefetcht1 64(%[ahead])\n\tadd $96,%[ahead]\n\t"
#else
constexpr int kPanel = 16, kRows = 4;
#endif

#if defined(ACCEL_ISA_AVX512) || defined(ACCEL_ISA_AVX2)
#define ACCEL_AT_0(AT, X, P, Q) ACCEL_ROW(AT, "0", X, P, Q)
#define ACCEL_AT_4(AT, X, P, Q) ACCEL_ROW(AT, "4", X, P, Q)
#define ACCEL_AT_8(AT, X, P, Q) ACCEL_ROW(AT, "8", X, P, Q)
#define ACCEL_AT_12(AT, X, P, Q) ACCEL_ROW(AT, "12", X, P, Q)
#define ACCEL_CLEAR(AT, X, P, Q) ACCEL_ZERO(P, Q)
#define ACCEL_MORE(AT, X, P, Q) ACCEL_ADD_MORE(P, Q) "add %[lm],%[m]\n\t" ACCEL_PUT(P, Q)
#define ACCEL_SET(AT, X, P, Q) ACCEL_PUT(P, Q)
#if defined(ACCEL_ISA_AVX512)
#define ACCEL_NEXT_A "add $16,%[a]\n\tadd $16,%[a3]\n\tadd $16,%[a6]\n\tadd $16,%[a9]\n\t"
#define ACCEL_MOVE_A "add %[d],%[a]\n\tadd %[d],%[a3]\n\tadd %[d],%[a6]\n\tadd %[d],%[a9]\n\t"
#define ACCEL_JUMP_A "add %[k],%[a]\n\tadd %[k],%[a3]\n\tadd %[k],%[a6]\n\tadd %[k],%[a9]\n\t"
#define ACCEL_A_ROWS [a] "+r"(a), [a3] "+r"(a3), [a6] "+r"(a6), [a9] "+r"(a9)
#else
#define ACCEL_NEXT_A "add $16,%[a]\n\tadd $16,%[a3]\n\t"
#define ACCEL_MOVE_A "add %[d],%[a]\n\tadd %[d],%[a3]\n\t"
#define ACCEL_JUMP_A "add %[k],%[a]\n\tadd %[k],%[a3]\n\t"
#define ACCEL_A_ROWS [a] "+r"(a), [a3] "+r"(a3)
#endif
#define ACCEL_STEPS(N)                                                                        \
  asm volatile(                                                                               \
      ACCEL_EACH_##N(ACCEL_CLEAR) ".p2align 5\n1:\n\t" ACCEL_B_ANY ACCEL_EACH_##N(            \
          ACCEL_AT_0) "mov (%[s]),%[d]\n\tadd 8(%[s]),%[b]\n\tadd $16,%[s]\n\t" ACCEL_MOVE_A  \
                      "dec %[k]\n\tjnz 1b\n\ttest %[m],%[m]\n\tjz 2f\n\t" ACCEL_EACH_##N(     \
                          ACCEL_MORE) "jmp 3f\n2:\n\t" ACCEL_EACH_##N(ACCEL_SET) "3:\n\t"     \
      : ACCEL_A_ROWS, [b] "+r"(b), [k] "+r"(k), [c] "+r"(c), [s] "+r"(steps), [m] "+r"(more), \
        [d] "=&r"(distance)                                                                   \
      : [l] "r"(l), [lc] "r"(lc), [lm] "r"(lm)                                                \
      : "memory", "cc", ACCEL_CLOBBERS);                                                      \
  break;
#define ACCEL_LINES(N)                                                                             \
  asm volatile(                                                                                  \
      "0:\n\t" ACCEL_EACH_##N(ACCEL_CLEAR) "mov %[terms],%[k]\n\t.p2align 5\n1:\n\t" ACCEL_B_ANY    \
          ACCEL_EACH_##N(ACCEL_AT_0) "mov 16(%[s]),%[d]\n\tprefetcht0 (%[y],%[d])\n\t"           \
      "mov 24(%[s]),%[d]\n\tprefetcht0 (%[y],%[d])\n\t"                                         \
      "mov (%[s]),%[d]\n\tadd 8(%[s]),%[b]\n\tadd $32,%[s]\n\t" ACCEL_MOVE_A                    \
      "dec %[k]\n\tjnz 1b\n\t" ACCEL_EACH_##N(ACCEL_SET) "dec %[left]\n\tjnz 0b\n\t"              \
      : ACCEL_A_ROWS, [b] "+r"(b), [k] "=&r"(k), [c] "+r"(c), [s] "+r"(steps),                   \
        [d] "=&r"(distance), [left] "+r"(lines)                                                  \
      : [l] "r"(l), [lc] "i"(kPanel * 4), [terms] "m"(terms), [y] "r"(ahead)                     \
      : "memory", "cc", ACCEL_CLOBBERS); \
  break;
#define ACCEL_MICRO(N)                                                                        \
  asm volatile(                                                                               \
      ACCEL_EACH_##N(ACCEL_CLEAR) "1:\n\tmov %[quads],%[k]\n\t.p2align 5\n2:\n\t" ACCEL_AHEAD \
          ACCEL_B0 ACCEL_EACH_##N(ACCEL_AT_0) ACCEL_B1 ACCEL_EACH_##N(ACCEL_AT_4)             \
              ACCEL_B2 ACCEL_EACH_##N(ACCEL_AT_8) ACCEL_B3 ACCEL_EACH_##N(ACCEL_AT_12)        \
                  ACCEL_NEXT_B ACCEL_NEXT_A                                                   \
      "dec %[k]\n\tjnz 2b\n\tmov (%[s]),%[k]\n\tadd $8,%[s]\n\t" ACCEL_JUMP_A                 \
      "dec %[left]\n\tjnz 1b\n\ttest %[m],%[m]\n\tjz 3f\n\t" ACCEL_EACH_##N(                  \
          ACCEL_MORE) "jmp 4f\n3:\n\t" ACCEL_EACH_##N(ACCEL_SET) "4:\n\t"                     \
      : ACCEL_A_ROWS, [b] "+r"(b), [k] "=&r"(k), [s] "+r"(s), [left] "+r"(left), [c] "+r"(c), \
        [m] "+r"(m), [ahead] "+r"(ahead)                                                      \
      : [l] "r"(l), [lc] "m"(lc), [lm] "m"(lm), [quads] "m"(quads)                            \
      : "memory", "cc", ACCEL_CLOBBERS);                                                      \
  break;

#define ACCEL_CASE(N, F) \
  case N:                \
    F(N)
#if defined(ACCEL_ISA_AVX512)
#define ACCEL_SWITCH(F) \
  switch (rows) {       \
    ACCEL_CASE(1, F);   \
    ACCEL_CASE(2, F);   \
    ACCEL_CASE(3, F);   \
    ACCEL_CASE(4, F);   \
    ACCEL_CASE(5, F);   \
    ACCEL_CASE(6, F);   \
    ACCEL_CASE(7, F);   \
    ACCEL_CASE(8, F);   \
    ACCEL_CASE(9, F);   \
    ACCEL_CASE(10, F);  \
    ACCEL_CASE(11, F);  \
    ACCEL_CASE(12, F);  \
  }
#else
#define ACCEL_SWITCH(F) \
  switch (rows) {       \
    ACCEL_CASE(1, F);   \
    ACCEL_CASE(2, F);   \
    ACCEL_CASE(3, F);   \
    ACCEL_CASE(4, F);   \
    ACCEL_CASE(5, F);   \
    ACCEL_CASE(6, F);   \
  }
#endif

void micro(int rows, const float* a, int64_t lda, const float* b, const ConvSums& sums) {
  const float* a3 = a + 3 * lda;
  const int64_t l = lda * 4, lc = sums.ldc * 4, lm = sums.ldm * 4, quads = sums.quads;
  const int64_t* s = sums.jumps;
  int64_t left = sums.segments, k;
  float* c = sums.c;
  const float *m = sums.more, *ahead = sums.ahead;
#if defined(ACCEL_ISA_AVX512)
  const float *a6 = a + 6 * lda, *a9 = a + 9 * lda;
#endif
  ACCEL_SWITCH(ACCEL_MICRO)
}

void micro_steps(int rows, const float* a, int64_t lda, const float* b, float* c, int64_t ldc,
                 const ConvStep* steps, int64_t k, const float* more, int64_t ldm) {
  const float* a3 = a + 3 * lda;
  const int64_t l = lda * 4, lc = ldc * 4, lm = ldm * 4;
  int64_t distance;
#if defined(ACCEL_ISA_AVX512)
  const float *a6 = a + 6 * lda, *a9 = a + 9 * lda;
#endif
  ACCEL_SWITCH(ACCEL_STEPS)
}

void micro_lines(int rows, const float* a, int64_t lda, const float* b, float* c,
                 const ConvLineStep* steps, int64_t terms, int64_t lines, const float* ahead) {
  const float* a3 = a + 3 * lda;
  const int64_t l = lda * 4;
  int64_t distance, k;
#if defined(ACCEL_ISA_AVX512)
  const float *a6 = a + 6 * lda, *a9 = a + 9 * lda;
#endif
  ACCEL_SWITCH(ACCEL_LINES)
}
#else
void micro(int rows, const float* a, int64_t lda, const float* b, const ConvSums& sums) {
  for (int r = 0; r < rows; ++r, a += lda) {
    float sum[kPanel] = {};
    const float *value = a, *vector = b;
    for (int64_t i = 0; i < sums.segments; ++i, value += sums.jumps[i - 1] / 4)
      for (int64_t n = 4 * sums.quads; n; --n, ++value, vector += kPanel)
        for (int j = 0; j < kPanel; ++j) sum[j] += *value * vector[j];
    float* c = sums.c + r * sums.ldc;
    for (int j = 0; j < kPanel; ++j)
      c[j] = sums.more ? sums.more[r * sums.ldm + j] + sum[j] : sum[j];
  }
}
void micro_steps(int rows, const float* a, int64_t lda, const float* b, float* c, int64_t ldc,
                 const ConvStep* steps, int64_t k, const float* more, int64_t ldm) {
  for (int r = 0; r < rows; ++r, a += lda, c += ldc) {
    float sum[kPanel] = {};
    const float *value = a, *vector = b;
    for (int64_t i = 0; i < k; ++i) {
      for (int j = 0; j < kPanel; ++j) sum[j] += *value * vector[j];
      value += steps[i].a / 4, vector += steps[i].b / 4;
    }
    for (int j = 0; j < kPanel; ++j) c[j] = more ? more[r * ldm + j] + sum[j] : sum[j];
  }
}
void micro_lines(int rows, const float* a, int64_t lda, const float* b, float* c,
                 const ConvLineStep* steps, int64_t terms, int64_t lines, const float*) {
  for (int64_t i = 0; i < lines; ++i, steps += terms, c += rows * kPanel) {
    for (int64_t j = 0; j < rows * kPanel; ++j) c[j] = 0.0f;
    for (int64_t t = 0; t < terms; a += steps[t].a / 4, b += steps[t].b / 4, ++t)
      for (int r = 0; r < rows; ++r)
        for (int j = 0; j < kPanel; ++j) c[r * kPanel + j] += a[r * lda] * b[j];
  }
}
#endif
