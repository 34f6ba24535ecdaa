// torch's tensors as arrays, by the functions of C that DLPack 1.3 has for it.
//
// Source: https://dmlc.github.io/dlpack/latest/c_api.html, DLPackExchangeAPI.
#include "binding.h"

namespace accel {
namespace {

using Describe = int (*)(void* object, nb::dlpack::dltensor* into);

struct ExchangeApi {
  uint32_t major, minor;
  void* older;
  void *allocate, *give, *take;
  Describe describe;  // may be missing
  void* stream;
};

Describe look_up(PyTypeObject* type) {
  PyObject* const capsule =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  const void* const at = capsule ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : nullptr;
  Py_XDECREF(capsule);  // the type keeps what it points to
  PyErr_Clear();
  const auto* const api = static_cast<const ExchangeApi*>(at);
  return api && api->major == nb::dlpack::major_version ? api->describe : nullptr;
}

// Types that came before are remembered, and never freed, so that no other takes their address.
Describe function_of(PyTypeObject* type) {
  struct Known {
    PyTypeObject* type;
    Describe describe;
  };
  static Known known[8];
  for (Known& one : known) {
    if (one.type == type) return one.describe;
    if (one.type) continue;
    const Describe found = look_up(type);
    Py_INCREF(type);
    one = {type, found};
    return found;
  }
  return look_up(type);
}

}  // namespace

bool describe(PyObject* object, nb::dlpack::dltensor& into) {
  const Describe by = function_of(Py_TYPE(object));
  if (!by) return false;
  if (by(object, &into)) {  // a sparse tensor, or one that stands for a negated one
    PyErr_Clear();
    return false;
  }
  int64_t size = 1;
  for (int32_t i = 0; i < into.ndim; ++i) size *= into.shape[i];
  return into.data || !size;  // a tensor that is only traced has no values
}

bool in_order(const nb::dlpack::dltensor& array) {
  int64_t size = 1;
  bool holds = true;
  for (int32_t i = array.ndim - 1; i >= 0; --i) {
    holds &= array.shape[i] == 1 || !array.strides || array.strides[i] == size;
    size *= array.shape[i];
  }
  return holds || size <= 1;
}

}  // namespace accel
