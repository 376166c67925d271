#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "config/config.h"
#include "config/describe.h"
#include "config/options.h"
#include "config/value.h"

using namespace imp;

namespace {

const void* address(const OptionField& field) {
  return std::visit([](const auto* pointer) { return static_cast<const void*>(pointer); }, field);
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("every row has its own key, its own field and a sentence") {
  Settings settings;
  std::set<std::string_view> keys;
  std::set<const void*> fields;
  for (const OptionRow& row : option_rows()) {
    CAPTURE(row.key);
    CHECK(keys.insert(row.key).second);
    CHECK(fields.insert(address(row.field(settings))).second);
    CHECK(row.doc.ends_with("."));
    CHECK(find_option(row.key) == &row);
  }
  CHECK(option_rows().size() == 106);
  CHECK(find_option("runtime.nothing") == nullptr);
  CHECK(find_option("runtime") == nullptr);
}

TEST_CASE("the kind of a row fits the type of its field, and the default is allowed") {
  for (const OptionRow& row : option_rows()) {
    CAPTURE(row.key);
    const OptionValue value = default_value(row);
    switch (row.limits.type) {
      case OptionType::boolean: CHECK(std::holds_alternative<bool>(value)); break;
      case OptionType::integer: CHECK(std::holds_alternative<int64_t>(value)); break;
      case OptionType::number: CHECK(std::holds_alternative<double>(value)); break;
      case OptionType::choice:
      case OptionType::path: CHECK(std::holds_alternative<std::string>(value)); break;
    }
    const auto* text = std::get_if<std::string>(&value);
    const CoercedValue again = coerce(row, text != nullptr ? *text : format_value(value), "test");
    CHECK(again.value == value);
    CHECK(again.warning == "");
  }
}

TEST_CASE("rows bind every byte of the settings that is not padding") {
  // A field without a row would keep its value when all rows are written; sizes show it: each field counts once.
  Settings settings;
  size_t bytes = 0;
  for (const OptionRow& row : option_rows()) {
    bytes += std::visit([](const auto* pointer) { return sizeof(*pointer); }, row.field(settings));
  }
  const size_t sections = 13;
  CHECK(bytes <= sizeof(Settings));
  // Padding: bools stand in runs, each followed by an 8-byte field or the end of its section.
  CHECK(sizeof(Settings) - bytes < 8 * 2 * sections);
}

TEST_CASE("the founding list names exactly the keys of the table, in its order, with its defaults") {
  const std::string path = std::string(IMP_TEST_DATA) + "/seed.conf";
  Config config;
  config.load_file(path);
  CHECK(config.warnings().empty());
  for (const OptionRow& row : option_rows()) {
    CAPTURE(row.key);
    CHECK(config.get(row.key) == default_value(row));
    CHECK(config.source(row.key).origin == Origin::file);
  }
  std::vector<std::string> keys;
  std::istringstream lines(read_file(path));
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("[")) section = line.substr(1, line.find(']') - 1);
    if (const size_t end = line.find(" ="); end != std::string::npos)
      keys.push_back(section + "." + line.substr(0, end));
  }
  REQUIRE(keys.size() == option_rows().size());
  for (size_t i = 0; i < keys.size(); ++i) CHECK(keys[i] == option_rows()[i].key);
}

TEST_CASE("the list for programs names each key once with its status") {
  const std::string json = options_json();
  size_t count = 0;
  for (size_t at = json.find("\"name\":"); at != std::string::npos; at = json.find("\"name\":", at + 1)) ++count;
  CHECK(count == 106);
  CHECK(json.find(R"({"name":"runtime.max_batch_size","type":"int","default":4,)"
                  R"("allowed":"an integer from 1 to 256; more becomes 256","status":"active","class":"a,c")") !=
        std::string::npos);
  CHECK(options_help().find("kv_cache.dtype  enum, default \"fp16\", pending") != std::string::npos);
}
