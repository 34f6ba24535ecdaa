// What the steps of a graph are to the kernels that run them: pictures, channels last, and what is
// done to a sum on its way out. graph_run.cpp drives, graph_rows.h computes.
#pragma once

#include <cstdint>

namespace accel {

// Pixels [count, height, width] of `channels` floats, `step` floats apart.
struct Picture {
  float* data;
  int64_t count, height, width, channels, step;
  int64_t pixels() const { return count * height * width; }
};

enum Activation : int {
  kNone,
  kRelu,
  kLeaky,  // alpha: slope below zero
  kPrelu,  // a slope for each channel
  kClip,   // alpha, beta: the bounds
  kHardSwish,
  kHardSigmoid,  // alpha * x + beta within 0..1
  kSigmoid,
  kTanh,
  kSwish,  // x * sigmoid(alpha * x)
  kGelu,
  kGeluTanh,  // by tanh rather than erf
  kElu,       // alpha
  kSoftplus,
  kMish,
  kSqrt,
  kAbs,
  kExp,
  kLog,
  kErf,
  kReciprocal,
  kActivations
};

struct Ending {
  const float* bias;      // a value for each channel, padded to whole vectors; or null
  const float* slope;     // likewise, for kPrelu
  const float* residual;  // added before the activation; or null
  int64_t residual_step, residual_channels;  // it may have fewer channels: the first ones
  int activation;
  float alpha, beta;
};

struct Window {                                    // of a convolution or a pool
  int64_t height, width, down, across, top, left;  // size, strides, padding
  int64_t apart_down, apart_across;                // between taps: 1 where not dilated
};

enum Source : int { kDirect, kGathered, kDepthwise };

// Rows of A are pixels of x, windows around them, or depthwise sums; times weights, to y.
struct ProductStep {
  Picture x, y;
  Source source;
  Window window;         // of kGathered and kDepthwise
  int64_t depth;         // values in a row of A
  const float* weights;  // [vectors of outputs][depth][lanes]
  const float* taps;     // of kDepthwise: [window][channels padded to whole vectors]
  Ending first;          // of the depthwise sums
  Ending last;
};

struct DepthwiseStep {
  Picture x, y;
  Window window;
  const float* taps;
  Ending last;
};

struct PoolStep {
  Picture x, y;
  Window window;
  bool largest;      // else the mean
  bool count_zeros;  // of the padding, in the mean
};

enum Binary : int {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kSubtractFrom,  // b - a
  kDivideInto,
  kKeep,  // a alone: there is no b
  kMaximum,
  kMinimum,
  kBinaries
};

// y = a op b; b is like a, or has one pixel for each image, or one for all; or one channel.
struct BinaryStep {
  Picture a, b, y;
  int kind;
  Ending last;
};

// Instance normalisation; scale and shift [count or 1][channels], or null.
struct NormStep {
  Picture x, y;
  const float *scale, *shift;
  int64_t affine_step;  // between images
  float epsilon;
  Ending last;
};

// Each pixel of y is mixed from four of x: rows r0 and r1, columns c0 and c1.
struct ResizeStep {
  Picture x, y;
  const int32_t *r0, *r1, *c0, *c1;
  const float *row_part, *column_part;  // of the second; null: the first alone
};

struct MeanStep {
  Picture x, y;  // y has one pixel for each image
};

// A transposed convolution's second half. Each pixel of x is what its value adds to a window of y:
// [window][channels of y].
struct FoldStep {
  Picture x, y;
  Window window;
  Ending last;
};
constexpr int64_t kMostTaps = 256;

enum LineKind : int {
  kSoftmax,
  kLogSoftmax,
  kSum,
  kMean,
  kLargest,
  kSmallest,
  kSquares,  // their sum
  kLength,   // the root of that
  kLineKinds
};

// Lines of `size` numbers side by side: to as many of them, or to one number each.
struct LineStep {
  const float* x;
  float* y;
  int64_t size;
  int kind;
};

}  // namespace accel
