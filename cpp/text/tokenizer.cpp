#include "text/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "formats/model_file.h"
#include "text/unicode.h"
#include "text/vocab.h"

namespace imp {
namespace {

bool adds_text(const Tokenizer& tokenizer, TokenId id) {
  const TokenType type = tokenizer.type(id);
  return type != TokenType::control && type != TokenType::unknown;
}

/// Moves what is certain from the front of `held` to the result: whole characters, and U+FFFD for bytes that no
/// continuation can mend. With `at_end` nothing can follow, so a sequence cut short is one more U+FFFD.
std::string take_whole_characters(std::string& held, bool at_end) {
  std::string text;
  size_t pos = 0;
  while (pos < held.size()) {
    const Utf8Char c = decode_utf8(std::string_view(held).substr(pos));
    if (c.state == Utf8State::partial && !at_end) break;
    append_utf8(text, c.codepoint);
    pos += c.length;
  }
  held.erase(0, pos);
  return text;
}

}  // namespace

std::string Tokenizer::decode(std::span<const TokenId> ids, bool special) const {
  std::string text;
  bool at_start = strips_leading_space();
  for (const TokenId id : ids) {
    std::string added = piece(id, special);
    if (at_start && adds_text(*this, id)) {
      if (added.starts_with(' ')) added.erase(0, 1);
      at_start = false;
    }
    text += added;
  }
  return text;
}

bool Tokenizer::is_stop(TokenId id) const { return std::binary_search(special_.stop.begin(), special_.stop.end(), id); }

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer, bool special)
    : tokenizer_(&tokenizer), special_(special), at_start_(tokenizer.strips_leading_space()) {}

std::string IncrementalDecoder::push(TokenId id) {
  std::string added = tokenizer_->piece(id, special_);
  if (at_start_ && adds_text(*tokenizer_, id)) {
    if (added.starts_with(' ')) added.erase(0, 1);
    at_start_ = false;
  }
  held_ += added;
  return take_whole_characters(held_, false);
}

std::string IncrementalDecoder::finish() { return take_whole_characters(held_, true); }

std::unique_ptr<Tokenizer> load_tokenizer(const ModelFile& file) {
  constexpr std::string_view kModelKey = "tokenizer.ggml.model";
  const std::string model = file.get_string(kModelKey);
  if (model == "no_vocab" || model == "none") return nullptr;
  using Make = std::unique_ptr<Tokenizer> (*)(const ModelFile&, Vocab);
  const Make make = model == "gpt2"    ? &make_byte_bpe
                    : model == "llama" ? &make_spm
                    : model == "t5"    ? &make_unigram
                                       : nullptr;
  if (!make) {
    fail(ErrorCode::unsupported, file.path(), ": ", kModelKey, ": unknown tokenizer model '", model,
         "'; known: gpt2, llama, t5, no_vocab");
  }
  return make(file, Vocab(file));
}

}  // namespace imp
