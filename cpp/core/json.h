#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace imp {

/// Writes JSON text front to back; commas and nesting are its business. Strings are escaped, bytes that are not UTF-8
/// become U+FFFD, and numbers that JSON cannot hold (NaN, infinities) become null.
///
///   JsonWriter json;
///   json.begin_object().field("blocks", 12).key("tags").begin_array().value("kv").end_array().end_object();
class JsonWriter {
 public:
  JsonWriter& begin_object();
  JsonWriter& end_object();
  JsonWriter& begin_array();
  JsonWriter& end_array();
  JsonWriter& key(std::string_view name);

  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(bool flag);
  JsonWriter& value(double number);
  JsonWriter& null();
  template <std::integral Integer>
    requires(!std::same_as<Integer, bool>)
  JsonWriter& value(Integer number) {
    return raw(std::to_string(number));
  }

  /// Text that already is one JSON value.
  JsonWriter& raw(std::string_view json);

  template <class Value>
  JsonWriter& field(std::string_view name, const Value& content) {
    return key(name).value(content);
  }

  /// The text so far; complete when every begin has met its end.
  const std::string& text() const { return text_; }

 private:
  void separate();

  std::string text_;
  std::vector<bool> has_items_;  // one an open object or array
  bool after_key_ = false;
};

/// `text` with quotes, as a JSON string.
std::string json_quote(std::string_view text);

}  // namespace imp
