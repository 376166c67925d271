#include "config/describe.h"

#include "config/options.h"
#include "config/value.h"
#include "core/json.h"
#include "core/text.h"

namespace imp {

std::string options_json() {
  JsonWriter json;
  json.begin_array();
  for (const OptionRow& row : option_rows()) {
    json.begin_object().field("name", row.key).field("type", type_name(row.limits.type)).key("default");
    std::visit([&](const auto& value) { json.value(value); }, default_value(row));
    json.field("allowed", allowed_text(row)).field("status", status_name(row.status)).field("class", row.platform);
    json.field("doc", row.doc).end_object();
  }
  return json.end_array().text();
}

std::string options_help() {
  std::string out;
  for (const OptionRow& row : option_rows()) {
    out += cat(row.key, "  ", type_name(row.limits.type), ", default ", format_value(default_value(row)), ", ",
               status_name(row.status), "\n    ", row.doc, "\n    Allowed: ", allowed_text(row), "\n");
  }
  return out;
}

}  // namespace imp
