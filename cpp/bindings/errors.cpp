// C++ errors become the exceptions of imp/errors.py, which the module imports at the first error: the classes
// need more than one base each, which is a line in Python.
#include <new>

#include "bindings/bind.h"
#include "core/error.h"

namespace imp::bindings {
namespace {

void set_python_error(ErrorCode code, const char* message) {
  // Where imp.errors cannot be imported, that ImportError is what the caller sees.
  try {
    nb::object make = nb::module_::import_("imp.errors").attr("from_code");
    nb::object error = make(static_cast<int>(code), to_str(message));
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  } catch (nb::python_error& e) {
    e.restore();
  }
}

void translate(const std::exception_ptr& p, void*) {
  try {
    std::rethrow_exception(p);
  } catch (const Error& e) {
    set_python_error(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    set_python_error(ErrorCode::out_of_memory, "the system refused an allocation");
  }
}

}  // namespace

void bind_errors(nb::module_&) { nb::register_exception_translator(translate); }

}  // namespace imp::bindings
