// What the convolutions need of an instruction set; conv2d.cpp drives it, conv_*.cpp provide it.
#pragma once

#include <cstdint>

namespace accel {

// What happens to a sum on its way out: + bias, + residual, then the slope below zero.
struct Finish {
  const float* bias;      // [channels of the panel], or null
  const float* residual;  // where out's element lies in the residual, or null
  float slope;            // 1: no activation; 0: ReLU; between: leaky ReLU
};

// Numbers of 16 bits that stand for float32.
enum class Half { kFloat16, kBfloat16 };

// How far, in bytes, the next term of a sum lies from this one.
struct ConvStep {
  int64_t a, b;
};

// The same, and what of the results that come next is fetched meanwhile, in bytes from their first.
struct ConvLineStep {
  int64_t a, b, ahead[2];
};

// Six sums of F(4, 3) on their way to four results each, in rows that lie apart; `n` numbers of a
// row lie side by side.
struct ConvLines {
  const float* m;         // the first of the six
  int64_t m_step, m_row;  // from one of the six to the next; from one row to the next
  int64_t rows, n;
  float* y[4];               // null where outside the picture
  const float* residual[4];  // like y, or null
  int64_t y_row;
  const float* bias;  // of the n numbers, or of the rows; or null
  bool bias_of_rows;
  float slope;
};

// The terms of some sums and where those go. Terms lie in segments, each beginning `jumps` bytes
// behind the end of the one before it; those of b lie side by side.
struct ConvSums {
  int64_t quads;  // terms of a segment, over four
  int64_t segments;
  const int64_t* jumps;  // after each segment, of all rows of a
  float* c;
  int64_t ldc;
  const float* more;  // rows ldm apart that are added, or null
  int64_t ldm;
  const float* ahead;  // memory needed soon
};

struct ConvKernels {
  const char* name;
  int lanes;  // floats in a vector; channel blocks are multiples of it
  int panel;  // output channels that are worked on together
  int rows;   // the most rows `micro` takes

  // C[rows, panel] = A · B (+ more). See conv_micro.h.
  void (*micro)(int rows, const float* a, int64_t lda, const float* b, const ConvSums& sums);

  // C[rows, panel] = A · B (+ more, rows ldm floats apart) over k terms that lie anywhere: a row's
  // and b's each a step from the one before. b need not be aligned.
  void (*micro_steps)(int rows, const float* a, int64_t lda, const float* b, float* c, int64_t ldc,
                      const ConvStep* steps, int64_t k, const float* more, int64_t ldm);

  // The same for `lines` of sums, one after the other: C[lines, rows, panel], each line over k
  // terms.
  void (*micro_lines)(int rows, const float* a, int64_t lda, const float* b, float* c,
                      const ConvLineStep* steps, int64_t k, int64_t lines, const float* ahead);

  // F(4, 3). Six rows of n numbers -> six, step apart. / Six sums -> four; see ConvLines. Returns
  // whether every result is finite.
  void (*lines_in)(const float* const* rows, int64_t n, float* v, int64_t step);
  bool (*lines_out)(const ConvLines& lines);

  // `lanes` rows of n floats, step apart, added up in the order in which `dots` adds its lanes.
  void (*fold)(const float* rows, int64_t step, int64_t n, float* to);

  // Few outputs: sums[i * pixel_apart + o * out_apart] over the `lines` lines, line_step apart, of
  // the window of pixel i, each `run` floats, pixels pixel_step apart. Weights are [outs][lines]
  // [run, zero up to a multiple of lanes].
  void (*dots)(const float* x, int64_t line_step, int64_t pixel_step, int64_t pixels, int lines,
               int64_t run, const float* w, int outs, float* sums, int64_t pixel_apart,
               int64_t out_apart);

  // Turns a matrix: out[j * out_step + i] = in[i * in_step + j].
  void (*turn)(const float* in, int64_t in_step, int64_t rows, int64_t columns, float* out,
               int64_t out_step);

  // Weights [outs, ..., count], outs in_step apart, to [count][panel]; missing outs are zero.
  // Taps of one channel lie side by side in the weights; they are taken apart to [taps][channels].
  void (*pack)(const float* w, int64_t in_step, int outs, int64_t channels, int taps, float* to,
               int64_t channels_padded);

  // F(4x4, 3x3). weights [9][channels][panel] -> [36, step apart][channels][panel]
  void (*expand)(const float* taps, int64_t tap_step, int64_t channels, float* u, int64_t step);
  // 36 pixels of `channels` floats -> 36 vectors, step apart, zero up to a multiple of lanes.
  void (*tile_in)(const float* const* pixels, int64_t channels, float* v, int64_t step);
  // 36 rows of the panel, step apart -> up to 16 pixels (null where outside the picture), `outs`
  // channels each. Returns whether every result is finite.
  bool (*tile_out)(const float* m, int64_t step, int outs, float* const* pixels,
                   const float* const* residuals, const float* bias, float slope);
  // rows of a panel of sums -> out, rows out_step apart.
  void (*rows_out)(const float* c, int64_t rows, int outs, float* out, const float* residual,
                   int64_t out_step, const float* bias, float slope);
  // The same where a row is one output channel's and the panel holds `wide` of its pixels.
  void (*columns_out)(const float* c, int64_t rows, int wide, float* out, const float* residual,
                      int64_t out_step, const float* bias, float slope);
  // rows of `count` numbers, in_step apart -> float32, side by side. What follows each row is
  // fetched, for it is what comes next.
  void (*widen)(const uint16_t* in, Half kind, int64_t in_step, int64_t rows, int64_t count,
                float* out);
};

const ConvKernels* conv_plain();
const ConvKernels* conv_avx2();    // null where the compiler has no such target
const ConvKernels* conv_avx512();  // likewise

}  // namespace accel
