#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace imp {

class ModelFile;
inline constexpr std::string_view kSpmSpace = "\xe2\x96\x81";  // U+2581, how SentencePiece writes a space

/// What SentencePiece does to text before it looks for pieces: replaces characters by the model's own table (a trie
/// of byte strings with their replacements), squeezes spaces, puts one in front, writes spaces as U+2581.
class SpmNormalizer {
 public:
  SpmNormalizer(const ModelFile& file, bool default_add_prefix, bool default_remove_extra);

  std::string normalize(std::string_view text, bool at_start) const;
  bool adds_prefix() const { return add_prefix_; }

 private:
  struct Step {
    std::string_view result;
    size_t consumed;
  };
  Step next(std::string_view text) const;
  Step replacement(std::string_view text) const;

  bool add_prefix_;
  bool remove_extra_;
  std::vector<uint32_t> trie_;  // a double array; empty: characters stay as they are
  std::string replacements_;    // zero-terminated strings
};

/// Undoes the writing of spaces.
std::string spm_unescape(std::string_view text);

}  // namespace imp
