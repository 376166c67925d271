#pragma once
#include <nanobind/nanobind.h>

#include <string_view>

namespace imp::bindings {

namespace nb = nanobind;

// One function a file; module.cpp calls them in this order.
void bind_errors(nb::module_& m);
void bind_config(nb::module_& m);
void bind_sampling(nb::module_& m);
void bind_tokenizer(nb::module_& m);
void bind_engine(nb::module_& m);
void bind_model_file(nb::module_& m);
void bind_machine(nb::module_& m);

/// Text that may not be valid UTF-8 (tokens cut a character apart) as `str`, with U+FFFD for what is not.
inline nb::str to_str(std::string_view bytes) {
  PyObject* text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace");
  if (text == nullptr) throw nb::python_error();
  return nb::steal<nb::str>(text);
}

}  // namespace imp::bindings
