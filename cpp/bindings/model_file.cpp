// imp._core.ModelFile: metadata and tensors of a file, for looking at it; nothing is loaded.
#include "formats/model_file.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "bindings/bind.h"
#include "core/error.h"

namespace imp::bindings {
namespace {

nb::object to_object(const std::string& text) { return to_str(text); }

template <class Number>
nb::object to_object(Number number) {
  return nb::cast(number);
}

template <class Item>
nb::object to_object(const std::vector<Item>& items) {
  nb::list list;
  for (const Item& item : items) list.append(to_object(item));
  return list;
}

nb::object get(const ModelFile& file, std::string_view key) {
  const MetaValue* value = file.find(key);
  if (value == nullptr) fail(ErrorCode::invalid_argument, file.path(), " has no key ", key);
  return std::visit([](const auto& held) -> nb::object { return to_object(held); }, *value);
}

// Copies whose `data` points into the file; Python sees its size only.
std::vector<TensorInfo> tensors(const ModelFile& file) { return {file.tensors().begin(), file.tensors().end()}; }

}  // namespace

void bind_model_file(nb::module_& m) {
  nb::class_<TensorInfo>(m, "TensorInfo")
      .def_ro("name", &TensorInfo::name)
      .def_prop_ro("format", [](const TensorInfo& self) { return std::string(info(self.format).name); })
      .def_ro("shape", &TensorInfo::shape, "outermost first")
      .def_prop_ro("num_bytes", [](const TensorInfo& self) { return self.data.size(); })
      .def_ro("shard", &TensorInfo::shard)
      .def_ro("file_offset", &TensorInfo::file_offset);
  nb::class_<ModelFile>(m, "ModelFile", "Metadata and tensors of a model file; nothing is loaded.")
      .def(nb::new_([](const std::string& path) { return open_model_file(path); }), nb::arg("path"))
      .def_prop_ro("path", [](const ModelFile& self) { return self.path(); })
      .def_prop_ro("format_name", [](const ModelFile& self) { return std::string(self.format_name()); })
      .def_prop_ro("file_bytes", &ModelFile::file_bytes)
      .def("keys", &ModelFile::keys, "in file order")
      .def("get", &get, nb::arg("key"), nb::sig("def get(self, key: str) -> Any"))
      .def("tensors", &tensors);
}

}  // namespace imp::bindings
