// The steps of a graph as they are written down: operands by their place in the memory of a
// program, which changes from run to run. graph.cpp checks them, graph_run.cpp runs them.
#pragma once

#include <array>
#include <optional>
#include <variant>
#include <vector>

#include "graph.h"

namespace accel::graph {

// slot, first float, images, height, width, channels, floats between pixels
using Operand = std::array<int64_t, 7>;
using Span = std::array<int64_t, 3>;  // slot, first element, elements
// height, width, strides down and across, padding at the top and left, dilations down and across
using WindowSizes = std::array<int64_t, 8>;

struct Finish {  // an Ending whose arrays are not yet found
  std::optional<Span> bias, slope;
  std::optional<Operand> residual;
  int activation = kNone;
  float alpha = 0, beta = 0;
};

struct Product {
  Operand x, y;
  int source;
  Window window;
  int64_t depth;
  Span weights;
  std::optional<Span> taps;
  Finish first, last;
};
struct Depthwise {
  Operand x, y;
  Window window;
  Span taps;
  Finish last;
};
struct Pool {
  Operand x, y;
  Window window;
  bool largest, count_zeros;
};
struct Combine {
  Operand a, y;
  std::optional<Operand> b;
  int kind;
  Finish last;
};
struct Norm {
  Operand x, y;
  std::optional<Operand> scale, shift;
  float epsilon;
  Finish last;
};
struct Mean {
  Operand x, y;
};
struct Resize {
  Operand x, y;
  Span r0, r1, c0, c1;
  std::optional<Span> row_part, column_part;
};
struct Fold {
  Operand x, y;
  Window window;
  Finish last;
};
struct Lines {
  Operand x, y;  // one pixel for each line, its numbers being channels
  int kind;
};
struct Copy {  // of up to six dimensions
  int64_t from_slot, from, to_slot, to;
  std::vector<int64_t> sizes, from_steps, to_steps;
};
struct Fill {
  Operand y;
  float value;
};
using Step =
    std::variant<Product, Depthwise, Pool, Combine, Norm, Mean, Resize, Fold, Lines, Copy, Fill>;

// Channels rounded up to whole vectors of the code that runs.
int64_t whole_vectors(int64_t channels);

// Runs steps [first, last). base: where each slot lies, all of them checked.
void run(const std::vector<Step>& steps, int64_t first, int64_t last, float* const* base,
         int threads);

}  // namespace accel::graph
