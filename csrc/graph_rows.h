// Kernels of a graph's steps on vectors of ACCEL_LANES floats. Included by simd.h, once per width.
//
// Every result is one chain of multiply-adds in the order of the taps and channels, however the
// pixels are grouped: that keeps bytes independent of batch and threads.

#define ACCEL_INLINE __attribute__((always_inline)) inline

// What all steps use.
#include "graph_ending.h"

// Uses the above, and is used by products.
#include "graph_gather.h"

// Uses both.
#include "graph_depthwise.h"

// The rest, in any order.
#include "graph_lines.h"
#include "graph_pixels.h"
#include "graph_product.h"
#include "graph_sums.h"

#if ACCEL_LANES == 4
#include "graph_turn.h"
#endif

#undef ACCEL_INLINE
