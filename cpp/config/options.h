#pragma once
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "config/config.h"

namespace imp {

/// The field of Settings that a row is bound to; its alternative is the type of the option.
using OptionField = std::variant<bool*, int64_t*, double*, std::string*>;

enum class OptionType : uint8_t { boolean, integer, number, choice, path };

/// pending: the mechanism is not built yet, so the key accepts its default and refuses every other value.
enum class OptionStatus : uint8_t { pending, active };

/// Which values a key takes. A bound that clamps warns and brings the value into range; the other bounds refuse.
struct OptionLimits {
  OptionType type = OptionType::boolean;
  int64_t min = 0;
  int64_t max = std::numeric_limits<int32_t>::max();
  bool clamp_below = false;
  bool clamp_above = false;
  bool zero_is_off = false;  // 0 is allowed although it lies below `min`; negative values never are
  double below = std::numeric_limits<double>::infinity();  // number: 0 <= value < below
  std::string_view choices{};  // choice: "auto|on|never"; integer: "4|8|16|32", "" for a range
  bool tri_state = false;      // choice: also takes on/always, off/never and booleans, kept in the words of `choices`
};

/// One setting. The default is the initialiser of its field in Settings.
struct OptionRow {
  std::string_view key;  // "section.name"
  OptionField (*field)(Settings&);
  OptionStatus status;
  std::string_view platform;  // a: any GPU, b: Blackwell's FP4 units, c: CPU; see docs/configuration.md
  OptionLimits limits;
  std::string_view doc;  // one sentence

  std::string_view section() const { return key.substr(0, key.find('.')); }
  std::string_view name() const { return key.substr(key.find('.') + 1); }
};

/// THE table of settings, in the order of the file. Parsing, help, example file, documentation and tests derive from
/// it.
std::span<const OptionRow> option_rows();

/// Null where no row has that key.
const OptionRow* find_option(std::string_view key);

OptionValue read_option(const OptionRow& row, const Settings& settings);
void write_option(const OptionRow& row, Settings& settings, const OptionValue& value);
OptionValue default_value(const OptionRow& row);

std::string_view type_name(OptionType type);
std::string_view status_name(OptionStatus status);

/// "true or false", "an integer from 1 to 256 (more becomes 256)", ...
std::string allowed_text(const OptionRow& row);

}  // namespace imp
