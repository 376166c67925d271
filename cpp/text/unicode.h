#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace imp {

/// Unicode's general categories, by their usual two letters.
enum class Category : uint8_t {
  Lu,
  Ll,
  Lt,
  Lm,
  Lo,
  Mn,
  Mc,
  Me,
  Nd,
  Nl,
  No,
  Pc,
  Pd,
  Ps,
  Pe,
  Pi,
  Pf,
  Po,
  Sm,
  Sc,
  Sk,
  So,
  Zs,
  Zl,
  Zp,
  Cc,
  Cf,
  Cs,
  Co,
  Cn
};

inline constexpr uint32_t kMaxCodepoint = 0x10ffff;
inline constexpr uint32_t kReplacementCharacter = 0xfffd;

/// Both ends belong to the range.
struct CodepointRange {
  uint32_t first, last;
  bool operator==(const CodepointRange&) const = default;
};
using CodepointSet = std::vector<CodepointRange>;  // sorted, disjoint, not adjacent once normalised

/// The code points of a category ("Lu") or of a group of them ("L"); empty for an unknown name.
CodepointSet category_set(std::string_view name);
/// Unicode's White_Space property: what \s means in patterns.
CodepointSet white_space_set();
/// Sorts and joins.
void normalise(CodepointSet& set);

enum class Utf8State : uint8_t {
  whole,    // a code point
  partial,  // the text ends inside a sequence that is right so far
  invalid,  // bytes that no continuation can mend
};

/// One step through UTF-8. Where the state is not `whole`, `length` bytes are what one U+FFFD stands for
/// ("maximal subpart", as in the Unicode standard and WHATWG decoders).
struct Utf8Char {
  uint32_t codepoint;
  uint8_t length;  // bytes, 1 to 4
  Utf8State state;
};
Utf8Char decode_utf8(std::string_view text);  // the first character; text must not be empty
void append_utf8(std::string& out, uint32_t codepoint);

}  // namespace imp
