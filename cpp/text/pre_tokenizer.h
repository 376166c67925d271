#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/pattern.h"

namespace imp {

/// One row of the table of pre-tokenizers: how a family of vocabularies cuts text into words before merging.
struct PreTokenizerSpec {
  std::vector<std::string_view> names;     // values of tokenizer.ggml.pre
  std::vector<std::string_view> patterns;  // each cuts the pieces that the one before left
  bool ignore_merges = false;              // a whole word that is a token stays one, whatever the merges say
  bool nfc = false;                        // text is brought into Unicode's form NFC first
  bool add_bos = false;                    // where the file does not say
};

std::span<const PreTokenizerSpec> pre_tokenizers();
/// Null for an unknown name.
const PreTokenizerSpec* find_pre_tokenizer(std::string_view name);
/// "chatglm-bpe, command-r, ...": for messages.
std::string known_pre_tokenizers();

/// Cuts text into words. Immutable.
class PreTokenizer {
 public:
  explicit PreTokenizer(const PreTokenizerSpec& spec);

  /// The words of `text` in order; together they are the text.
  std::vector<std::string_view> split(std::string_view text) const;

 private:
  CharClasses classes_;
  std::vector<Pattern> patterns_;
};

}  // namespace imp
