// What every binding needs: nanobind, array types, and a way for each op to register itself, so
// that a new op is a new file and nothing else.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace nb = nanobind;
using namespace nb::literals;

namespace accel {

using Binder = void (*)(nb::module_&);

// Binders run in the order of their file names' registration; none may depend on another.
struct Registration {
  explicit Registration(Binder binder);
};

// Any CPU array; the op checks dtype and shape where memory safety needs it.
using Array = nb::ndarray<nb::device::cpu>;
using ConstArray = nb::ndarray<nb::ro, nb::device::cpu>;

}  // namespace accel

// At the end of csrc/<op>.cpp:  ACCEL_BIND(crop) { m.def("crop", ...); }
#define ACCEL_BIND(name)                                                \
  static void accel_bind_##name(nb::module_& m);                        \
  static const accel::Registration accel_reg_##name(accel_bind_##name); \
  static void accel_bind_##name(nb::module_& m)
