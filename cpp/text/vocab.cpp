#include "text/vocab.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "formats/model_file.h"
#include "text/merge.h"

namespace imp {
namespace {

[[noreturn]] void bad_vocab(const ModelFile& file, std::string_view key, std::string_view what) {
  fail(ErrorCode::invalid_model, file.path(), ": ", key, ": ", what);
}

void check_length(const ModelFile& file, std::string_view key, size_t found, size_t expected) {
  if (found != expected) {
    bad_vocab(file, key, cat("has ", found, " entries where ", kTokensKey, " has ", expected));
  }
}

std::vector<float> read_scores(const ModelFile& file, size_t expected) {
  std::vector<float> scores;
  const MetaValue* value = file.find(kScoresKey);
  if (!value) return scores;
  if (const auto* list = std::get_if<std::vector<double>>(value)) {
    scores.assign(list->begin(), list->end());
  } else if (const auto* integers = std::get_if<std::vector<int64_t>>(value)) {
    scores.assign(integers->begin(), integers->end());
  } else {
    bad_vocab(file, kScoresKey, "expected a list of numbers");
  }
  check_length(file, kScoresKey, scores.size(), expected);
  for (size_t id = 0; id < scores.size(); ++id) {
    if (!std::isfinite(scores[id])) bad_vocab(file, kScoresKey, cat("the score of token ", id, " is not a number"));
  }
  return scores;
}

TokenType token_type(int64_t stored) {
  // a type from a later version of the format is treated as undefined, that is, as plain text
  return stored >= 0 && stored <= 6 ? static_cast<TokenType>(stored) : TokenType::undefined;
}

std::vector<TokenType> read_types(const ModelFile& file, size_t expected) {
  std::vector<TokenType> types;
  const MetaValue* value = file.find(kTokenTypeKey);
  if (!value) return std::vector<TokenType>(expected, TokenType::normal);
  if (const auto* list = std::get_if<std::vector<int64_t>>(value)) {
    for (const int64_t stored : *list) types.push_back(token_type(stored));
  } else if (const auto* list = std::get_if<std::vector<uint64_t>>(value)) {
    for (const uint64_t stored : *list) types.push_back(token_type(stored > 6 ? -1 : static_cast<int64_t>(stored)));
  } else {
    bad_vocab(file, kTokenTypeKey, "expected a list of integers");
  }
  check_length(file, kTokenTypeKey, types.size(), expected);
  return types;
}

}  // namespace

Vocab::Vocab(const ModelFile& file) {
  const std::vector<std::string>* list = file.find_strings(kTokensKey);
  if (!list) bad_vocab(file, kTokensKey, "missing; the file names a tokenizer but has no vocabulary");
  if (list->empty()) bad_vocab(file, kTokensKey, "is empty");
  if (list->size() > static_cast<size_t>(std::numeric_limits<TokenId>::max())) {
    bad_vocab(file, kTokensKey, cat("has ", list->size(), " entries; at most 2^31 - 1 can be numbered"));
  }
  texts = *list;
  scores = read_scores(file, texts.size());
  types = read_types(file, texts.size());
  index_ = TextIndex(texts.size());
  for (TokenId id = 0; id < size(); ++id) {
    if (texts[id].empty()) continue;
    const TokenId other = index_.insert(texts, id);
    if (other >= 0) bad_vocab(file, kTokensKey, cat("tokens ", other, " and ", id, " have the same text"));
  }
}

std::vector<TokenId> Vocab::byte_tokens() const {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::vector<TokenId> ids(256, -1);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = cat("<0x", kHex[byte >> 4], kHex[byte & 15], '>');
    if (const auto id = find(text); id && types[*id] == TokenType::byte) ids[byte] = *id;
  }
  return ids;
}

SpecialMatcher::SpecialMatcher(const Vocab& vocab) {
  for (TokenId id = 0; id < vocab.size(); ++id) {
    const TokenType type = vocab.types[id];
    const bool user = type == TokenType::user_defined;
    if (vocab.texts[id].empty() || !(user || type == TokenType::control || type == TokenType::unknown)) continue;
    all_.insert(vocab.texts[id], id);
    if (user) user_defined_.insert(vocab.texts[id], id);
  }
}

std::vector<Fragment> SpecialMatcher::split(std::string_view text, bool parse_special) const {
  const ByteTrie& tokens = parse_special ? all_ : user_defined_;
  std::vector<Fragment> fragments;
  size_t plain = 0;  // start of the text not yet in `fragments`
  for (size_t pos = 0; pos < text.size();) {
    const ByteTrie::Match match = tokens.can_start(text[pos]) ? tokens.longest(text.substr(pos)) : ByteTrie::Match{};
    if (match.id < 0) {
      ++pos;
      continue;
    }
    if (pos > plain) fragments.push_back({text.substr(plain, pos - plain)});
    fragments.push_back({text.substr(pos, match.length), match.id});
    plain = pos += match.length;
  }
  if (plain < text.size()) fragments.push_back({text.substr(plain)});
  return fragments;
}

VocabTokenizer::VocabTokenizer(Vocab vocab, SpecialTokens special) : vocab_(std::move(vocab)), matcher_(vocab_) {
  special_ = std::move(special);
}

std::vector<TokenId> VocabTokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > std::numeric_limits<uint32_t>::max() / 4) {
    fail(ErrorCode::invalid_argument, "a text of ", text.size(), " bytes; at most 1 GiB can be encoded at once");
  }
  std::vector<TokenId> out;
  if (options.add_special && special_.add_bos) out.push_back(*special_.bos);
  bool after_special = true;
  EncodeScratch scratch(text.size());
  for (const Fragment& fragment : matcher_.split(text, options.parse_special)) {
    if (fragment.token >= 0) {
      out.push_back(fragment.token);
    } else {
      encode_text(fragment.text, after_special, scratch, out);
    }
    after_special = fragment.token >= 0;
  }
  if (options.add_special && special_.add_eos) out.push_back(*special_.eos);
  return out;
}

std::string_view VocabTokenizer::token_text(TokenId id) const {
  return id >= 0 && id < vocab_.size() ? std::string_view(vocab_.texts[id]) : std::string_view();
}

TokenType VocabTokenizer::type(TokenId id) const {
  return id >= 0 && id < vocab_.size() ? vocab_.types[id] : TokenType::undefined;
}

std::string VocabTokenizer::piece(TokenId id, bool special) const {
  // rows that only pad the embedding matrix have no token and add no text
  if (id < 0 || id >= vocab_.size()) return {};
  const std::string& text = vocab_.texts[id];
  switch (vocab_.types[id]) {
    case TokenType::control:
    case TokenType::unknown: return special ? text : std::string();
    case TokenType::user_defined: return text;
    case TokenType::byte: {
      const bool is_hex_form = text.size() == 6 && text.starts_with("<0x") && text.back() == '>';
      int value = 0;
      if (is_hex_form && std::from_chars(&text[3], &text[5], value, 16).ptr == &text[5]) {
        return std::string(1, static_cast<char>(value));
      }
      return normal_piece(id);
    }
    default: return normal_piece(id);
  }
}

}  // namespace imp
