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

// An array that is looked at during one call. As nb::ndarray, but torch's tensors come in by the
// functions of C that DLPack 1.3 has for it: `__dlpack__` is one of Python, and costs 5 us for
// each.
template <typename... Args>
struct Given : nb::ndarray<Args...> {
  using nb::ndarray<Args...>::ndarray;
};

// Any CPU array; the op checks dtype and shape where memory safety needs it.
using Array = Given<nb::device::cpu>;
using ConstArray = Given<nb::ro, nb::device::cpu>;

// Describes what `object` holds, until it changes; false where its type has no functions for that.
bool describe(PyObject* object, nb::dlpack::dltensor& into);

// Whether values lie in C's order, or are as few as fit any.
bool in_order(const nb::dlpack::dltensor& array);

}  // namespace accel

template <typename... Args>
struct nb::detail::type_caster<accel::Given<Args...>> {
  using Plain = type_caster<ndarray<Args...>>;
  using Config = ndarray_config_t<int, Args...>;
  NB_TYPE_CASTER(accel::Given<Args...>, Plain::Name)

  bool from_python(handle source, uint32_t flags, cleanup_list* cleanup) noexcept {
    dlpack::dltensor found;
    if (accel::describe(source.ptr(), found) && suits(found)) {
      size_t shape[kMostDimensions];
      for (int i = 0; i < found.ndim; ++i) shape[i] = size_t(found.shape[i]);
      value = Value(found.data, size_t(found.ndim), shape, source, found.strides, found.dtype,
                    found.device.device_type, found.device.device_id, '\0', found.byte_offset);
      return true;
    }
    Plain plain;
    if (!plain.from_python(source, flags, cleanup)) return false;
    value = Value(plain.value.handle());
    return true;
  }

 private:
  static constexpr int kMostDimensions = 8;

  static bool suits(const dlpack::dltensor& a) {
    using Scalar = typename Config::Scalar;
    constexpr int kOn = Config::DeviceType::value;
    if (a.ndim > kMostDimensions || (kOn && a.device.device_type != kOn)) return false;
    if (!std::is_void_v<std::remove_const_t<Scalar>> && a.dtype != dtype<Scalar>()) return false;
    if constexpr (Config::N >= 0) {
      int64_t wanted[Config::N ? Config::N : 1];
      Config::Shape::put(wanted);
      if (a.ndim != Config::N) return false;
      for (int i = 0; i < Config::N; ++i)
        if (wanted[i] != -1 && wanted[i] != a.shape[i]) return false;
    }
    constexpr char kOrder = char(Config::Order::value);
    static_assert(kOrder == '\0' || kOrder == 'C', "another order needs its check here");
    return kOrder == '\0' || accel::in_order(a);
  }
};

// At the end of csrc/<op>.cpp:  ACCEL_BIND(crop) { m.def("crop", ...); }
#define ACCEL_BIND(name)                                                \
  static void accel_bind_##name(nb::module_& m);                        \
  static const accel::Registration accel_reg_##name(accel_bind_##name); \
  static void accel_bind_##name(nb::module_& m)
