// imp._core.Config: the settings with their sources, read by the same parser as the command line's.
#include "config/config.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "bindings/bind.h"
#include "config/options.h"
#include "core/error.h"

namespace imp::bindings {
namespace {

Origin origin_of(std::string_view name) {
  if (name == "set") return Origin::set;
  if (name == "flag") return Origin::flag;
  if (name == "api") return Origin::api;
  fail(ErrorCode::invalid_argument, "unknown origin '", name, "'; a caller may use set, flag or api");
}

// One row of the option table; `allowed` is the text of error messages and documentation.
nb::dict option_row(const OptionRow& row) {
  nb::dict out;
  out["name"] = row.key;
  out["type"] = type_name(row.limits.type);
  out["default"] = default_value(row);
  out["status"] = status_name(row.status);
  out["allowed"] = allowed_text(row);
  out["platform"] = row.platform;
  out["doc"] = row.doc;
  return out;
}

nb::list option_table() {
  nb::list rows;
  for (const OptionRow& row : option_rows()) rows.append(option_row(row));
  return rows;
}

}  // namespace

void bind_config(nb::module_& m) {
  nb::class_<Config>(m, "Config", "All settings, each with where its value came from.")
      .def(nb::init<>())
      .def(nb::init<const Config&>(), nb::arg("other"))
      .def_static("defaults_for_embedders", &Config::defaults_for_embedders)
      .def_static("load", &Config::load, nb::arg("explicit_path") = "")
      .def("load_file", &Config::load_file, nb::arg("path"))
      .def("load_text", &Config::load_text, nb::arg("text"), nb::arg("file_name"))
      .def(
          "set",
          [](Config& self, std::string_view key, std::string_view value, std::string_view origin,
             std::string_view detail) { self.set(key, value, origin_of(origin), detail); },
          nb::arg("key"), nb::arg("value"), nb::arg("origin") = "set", nb::arg("detail") = "")
      .def("set_assignment", &Config::set_assignment, nb::arg("text"), "One --set: \"section.key=value\"")
      .def("get", &Config::get, nb::arg("key"))
      .def(
          "source",
          [](const Config& self, std::string_view key) {
            const OptionSource& source = self.source(key);
            return std::make_tuple(std::string(origin_name(source.origin)), source.detail);
          },
          nb::arg("key"), "(origin, detail) of the effective value")
      .def("is_explicit", &Config::is_explicit, nb::arg("key"))
      .def_prop_ro("warnings", &Config::warnings)
      .def_prop_ro("file", &Config::file)
      .def("resolve", &Config::resolve)
      .def("dump", &Config::dump)
      .def("to_json", &Config::to_json);
  m.def("option_rows", &option_table, nb::sig("def option_rows() -> list[dict[str, bool | int | float | str]]"),
        "The option table: name, type, default, status, allowed, platform, doc.");
}

}  // namespace imp::bindings
