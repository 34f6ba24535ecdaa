// Runs a neural network's graph as a list of steps over one stretch of memory, in one call.
//
// Python plans (accel/nn/onnx): it fuses, packs the weights and says where each value lies. What is
// checked here is what keeps memory safe: every operand lies inside its array.
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "binding.h"
#include "graph_steps.h"

namespace accel::graph {
namespace {

using Held = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Brought = Given<nb::ro, nb::c_contig, nb::device::cpu>;
constexpr int64_t kMost = int64_t(1) << 40;  // of any product of sizes

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("graph: ") + what);
}

int64_t times(int64_t a, int64_t b) {
  require(a >= 0 && b >= 0 && (b == 0 || a <= kMost / b), "sizes must be from 0 to 2^40");
  return a * b;
}

class Program {
 public:
  // An array that stays: weights, tables, or the memory that values pass through.
  int64_t hold(Held array) {
    require(array.dtype() == nb::dtype<float>() || array.dtype() == nb::dtype<int32_t>(),
            "what is held must be float32 or int32");
    slots_.push_back(
        {int64_t(array.size()), array.data(), array.dtype() == nb::dtype<float>(), true});
    held_.push_back(array);
    return int64_t(slots_.size()) - 1;
  }
  // An array of float32 that each run brings along.
  int64_t port(int64_t floats, bool written) {
    require(floats >= 0, "a port's size must not be negative");
    slots_.push_back({floats, nullptr, true, written});
    ports_.push_back(int64_t(slots_.size()) - 1);
    return ports_.back();
  }

  void product(Operand x, Operand y, int source, WindowSizes window, int64_t depth, Span weights,
               std::optional<Span> taps, const Finish& first, const Finish& last) {
    check(x, false), check(y, true);
    Product p{x, y, source, made(window), depth, weights, taps, first, last};
    require(source >= kDirect && source <= kDepthwise, "no such source");
    require(x[2] == y[2], "x and y must have as many images");
    if (source != kGathered) require(depth == x[5], "depth must be x's channels");
    if (source == kDirect) require(x[3] == y[3] && x[4] == y[4], "x and y must have one size");
    if (source == kGathered)
      require(depth == times(times(window[0], window[1]), x[5]), "depth must be the window's");
    if (source == kDepthwise) {
      require(taps.has_value(), "taps are missing");
      floats(*taps, times(times(window[0], window[1]), whole_vectors(x[5])));
    }
    floats(weights, times(whole_vectors(y[5]), depth));
    check(first, y, x[5]), check(last, y, y[5]);
    require(!first.residual, "depthwise sums inside a product have no residual");
    steps_.push_back(p);
  }
  void depthwise(Operand x, Operand y, WindowSizes window, Span taps, const Finish& last) {
    check(x, false), check(y, true);
    require(x[2] == y[2] && x[5] == y[5], "x and y must have as many images and channels");
    floats(taps, times(times(window[0], window[1]), whole_vectors(x[5])));
    check(last, y, y[5]);
    steps_.push_back(Depthwise{x, y, made(window), taps, last});
  }
  void pool(Operand x, Operand y, WindowSizes window, bool largest, bool count_zeros) {
    check(x, false), check(y, true);
    require(x[2] == y[2] && x[5] == y[5], "x and y must have as many images and channels");
    require(window[6] == 1 && window[7] == 1, "a pool is not dilated");
    steps_.push_back(Pool{x, y, made(window), largest, count_zeros});
  }
  void combine(int kind, Operand a, std::optional<Operand> b, Operand y, const Finish& last) {
    check(a, false), check(y, true);
    same(a, y);
    require(kind >= kAdd && kind < kBinaries && (b || kind == kKeep), "no such operation");
    if (b) {
      check(*b, false);
      const int64_t pixels = (*b)[2] * (*b)[3] * (*b)[4], all = y[2] * y[3] * y[4];
      require(pixels == all || pixels == 1 || pixels == y[2], "b must have a pixel for each of y");
      require((*b)[5] == y[5] || (*b)[5] == 1, "b must have y's channels, or one");
    }
    check(last, y, y[5]);
    steps_.push_back(Combine{a, y, b, kind, last});
  }
  void norm(Operand x, Operand y, std::optional<Operand> scale, std::optional<Operand> shift,
            float epsilon, const Finish& last) {
    check(x, false), check(y, true);
    same(x, y);
    for (const auto& affine : {scale, shift}) {
      if (!affine) continue;
      check(*affine, false);
      const int64_t pixels = (*affine)[2] * (*affine)[3] * (*affine)[4];
      require((pixels == 1 || pixels == x[2]) && (*affine)[5] == x[5],
              "scale and shift must have x's channels");
    }
    if (scale && shift)
      require((*scale)[2] == (*shift)[2] && (*scale)[6] == (*shift)[6],
              "scale and shift must lie alike");
    check(last, y, y[5]);
    steps_.push_back(Norm{x, y, scale, shift, epsilon, last});
  }
  void mean(Operand x, Operand y) {
    check(x, false), check(y, true);
    require(x[2] == y[2] && x[5] == y[5] && y[3] == 1 && y[4] == 1 && x[3] * x[4] > 0,
            "y must have one pixel for each image");
    steps_.push_back(Mean{x, y});
  }
  void resize(Operand x, Operand y, Span r0, Span r1, Span c0, Span c1,
              std::optional<Span> row_part, std::optional<Span> column_part) {
    check(x, false), check(y, true);
    require(x[2] == y[2] && x[5] == y[5], "x and y must have as many images and channels");
    indices(r0, y[3], x[3]), indices(r1, y[3], x[3]);
    indices(c0, y[4], x[4]), indices(c1, y[4], x[4]);
    require(row_part.has_value() == column_part.has_value(), "parts must be of rows and columns");
    if (row_part) floats(*row_part, y[3]), floats(*column_part, y[4]);
    steps_.push_back(Resize{x, y, r0, r1, c0, c1, row_part, column_part});
  }
  void fold(Operand x, Operand y, WindowSizes window, const Finish& last) {
    check(x, false), check(y, true);
    const int64_t taps = times(window[0], window[1]);
    require(x[2] == y[2] && x[5] == times(taps, y[5]) && taps <= kMostTaps,
            "x must have a value for each tap and channel of y");
    check(last, y, y[5]);
    steps_.push_back(Fold{x, y, made(window), last});
  }
  void lines(Operand x, Operand y, int kind) {
    check(x, false), check(y, true);
    require(kind >= kSoftmax && kind < kLineKinds, "no such operation");
    for (int i = 2; i < 5; ++i) require(x[i] == y[i], "x and y must have as many lines");
    require(x[5] > 0 && x[6] == x[5] && y[6] == y[5], "lines must lie side by side");
    require(y[5] == (kind <= kLogSoftmax ? x[5] : 1), "y must have a place for each result");
    steps_.push_back(Lines{x, y, kind});
  }
  void copy(int64_t from_slot, int64_t from, std::vector<int64_t> from_steps, int64_t to_slot,
            int64_t to, std::vector<int64_t> to_steps, std::vector<int64_t> sizes) {
    const size_t rank = sizes.size();
    require(rank >= 1 && rank <= 6 && from_steps.size() == rank && to_steps.size() == rank,
            "a copy must have one to six dimensions");
    int64_t all = 1;
    for (size_t i = 0; i < rank; ++i) {
      require(sizes[i] >= 0, "sizes must not be negative");
      all = times(all, sizes[i]);
    }
    if (!all) return;
    const auto bounded = [&](int64_t slot, int64_t at, const std::vector<int64_t>& steps,
                             bool written) {
      int64_t last = at;
      for (size_t i = 0; i < rank; ++i) last += times(sizes[i] - 1, steps[i]);
      require(slot >= 0 && slot < int64_t(slots_.size()) && slots_[slot].is_float && at >= 0 &&
                  last < slots_[slot].size && (!written || slots_[slot].written),
              "a copy must lie inside its arrays");
    };
    bounded(from_slot, from, from_steps, false), bounded(to_slot, to, to_steps, true);
    steps_.push_back(Copy{from_slot, from, to_slot, to, sizes, from_steps, to_steps});
  }
  void fill(Operand y, float value) {
    check(y, true);
    steps_.push_back(Fill{y, value});
  }
  int64_t length() const { return int64_t(steps_.size()); }

  // Runs steps [first, last). arrays: of the ports, in their order.
  void run(const std::vector<Brought>& arrays, int64_t first, int64_t last, int threads) {
    require(arrays.size() == ports_.size(), "a run must bring an array for each port");
    require(first >= 0 && first <= last && last <= length(), "no such steps");
    std::vector<float*> base(slots_.size());
    for (size_t i = 0; i < slots_.size(); ++i) base[i] = static_cast<float*>(slots_[i].data);
    for (size_t i = 0; i < arrays.size(); ++i) {
      require(arrays[i].dtype() == nb::dtype<float>() &&
                  int64_t(arrays[i].size()) == slots_[ports_[i]].size,
              "an array must be float32 and of its port's size");
      base[ports_[i]] = static_cast<float*>(const_cast<void*>(arrays[i].data()));
    }
    nb::gil_scoped_release unlocked;
    graph::run(steps_, first, last, base.data(), std::max(1, threads));
  }

 private:
  struct Slot {
    int64_t size;
    void* data;
    bool is_float, written;
  };
  std::vector<Slot> slots_;
  std::vector<Held> held_;
  std::vector<int64_t> ports_;
  std::vector<Step> steps_;

  void check(const Operand& o, bool written) const {
    const auto [slot, at, count, height, width, channels, step] = o;
    require(slot >= 0 && slot < int64_t(slots_.size()) && slots_[slot].is_float, "no such array");
    require(!written || slots_[slot].written, "an input must not be written to");
    require(at >= 0 && channels >= 0 && step >= channels, "pixels must not overlap");
    const int64_t pixels = times(times(count, height), width);
    if (!pixels || !channels) return;
    require(at <= kMost && at + times(pixels - 1, step) + channels <= slots_[slot].size,
            "an operand must lie inside its array");
  }
  bool inside(const Span& s, bool is_float, int64_t needed) const {
    return s[0] >= 0 && s[0] < int64_t(slots_.size()) && slots_[s[0]].is_float == is_float &&
           s[1] >= 0 && s[1] <= slots_[s[0]].size && s[2] <= slots_[s[0]].size - s[1] &&
           s[2] >= needed;
  }
  void floats(const Span& s, int64_t needed) const {
    require(inside(s, true, needed), "an array of weights is too small");
  }
  void indices(const Span& s, int64_t needed, int64_t below) const {
    require(inside(s, false, needed), "a table is too small");
    const int32_t* at = static_cast<const int32_t*>(slots_[s[0]].data) + s[1];
    for (int64_t i = 0; i < needed; ++i)
      require(at[i] >= 0 && at[i] < below, "a table must point inside the picture");
  }
  static void same(const Operand& a, const Operand& b) {
    for (int i = 2; i < 6; ++i) require(a[i] == b[i], "operands must have one shape");
  }
  void check(const Finish& f, const Operand& y, int64_t channels) const {
    require(f.activation >= kNone && f.activation < kActivations, "no such activation");
    if (f.bias) floats(*f.bias, whole_vectors(channels));
    require(f.activation != kPrelu || f.slope, "slopes are missing");
    if (f.slope) floats(*f.slope, whole_vectors(channels));
    if (!f.residual) return;
    check(*f.residual, false);
    for (int i = 2; i < 5; ++i) require((*f.residual)[i] == y[i], "a residual must be like y");
    require((*f.residual)[5] <= y[5], "a residual must not have more channels than y");
  }
  static Window made(const WindowSizes& w) {
    for (int i : {0, 1, 2, 3, 6, 7})
      require(w[i] >= 1 && w[i] < (1 << 20), "windows and strides must be at least 1");
    for (int i : {0, 1})
      require(w[4 + i] >= 0 && w[4 + i] <= (w[i] - 1) * w[6 + i],
              "padding must be less than the window");
    return {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]};
  }
};

}  // namespace
}  // namespace accel::graph

ACCEL_BIND(graph) {
  using namespace accel::graph;
  nb::class_<Finish>(m, "GraphFinish", "What is done to a sum: bias, residual, activation.")
      .def(
          "__init__",
          [](Finish* self, std::optional<Span> bias, std::optional<Span> slope,
             std::optional<Operand> residual, int activation, float alpha,
             float beta) { new (self) Finish{bias, slope, residual, activation, alpha, beta}; },
          "bias"_a = nb::none(), "slope"_a = nb::none(), "residual"_a = nb::none(),
          "activation"_a = 0, "alpha"_a = 0.f, "beta"_a = 0.f);
  nb::class_<Program>(m, "GraphProgram", "A list of steps over held arrays; see csrc/graph.cpp.")
      .def(nb::init<>())
      .def("hold", &Program::hold, "array"_a)
      .def("port", &Program::port, "floats"_a, "written"_a)
      .def("product", &Program::product, "x"_a, "y"_a, "source"_a, "window"_a, "depth"_a,
           "weights"_a, "taps"_a.none(), "first"_a, "last"_a)
      .def("depthwise", &Program::depthwise, "x"_a, "y"_a, "window"_a, "taps"_a, "last"_a)
      .def("pool", &Program::pool, "x"_a, "y"_a, "window"_a, "largest"_a, "count_zeros"_a)
      .def("combine", &Program::combine, "kind"_a, "a"_a, "b"_a.none(), "y"_a, "last"_a)
      .def("norm", &Program::norm, "x"_a, "y"_a, "scale"_a.none(), "shift"_a.none(), "epsilon"_a,
           "last"_a)
      .def("mean", &Program::mean, "x"_a, "y"_a)
      .def("resize", &Program::resize, "x"_a, "y"_a, "r0"_a, "r1"_a, "c0"_a, "c1"_a,
           "row_part"_a.none(), "column_part"_a.none())
      .def("fold", &Program::fold, "x"_a, "y"_a, "window"_a, "last"_a)
      .def("lines", &Program::lines, "x"_a, "y"_a, "kind"_a)
      .def("copy", &Program::copy, "from_slot"_a, "from_at"_a, "from_steps"_a, "to_slot"_a,
           "to_at"_a, "to_steps"_a, "sizes"_a)
      .def("fill", &Program::fill, "y"_a, "value"_a)
      .def("__len__", &Program::length)
      .def("run", &Program::run, "arrays"_a, "first"_a, "last"_a, "threads"_a);
}
