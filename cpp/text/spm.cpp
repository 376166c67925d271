// SentencePiece-style BPE ("llama"): spaces become U+2581, every character is a symbol, and the neighbours that
// together make the token of the highest score are joined, until none can be. What is no token then is written byte
// by byte.
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "formats/model_file.h"
#include "text/merge.h"
#include "text/spm_normalizer.h"
#include "text/unicode.h"
#include "text/vocab.h"

namespace imp {
namespace {

class Spm final : public VocabTokenizer {
 public:
  Spm(const ModelFile& file, Vocab vocab, SpecialTokens special)
      : VocabTokenizer(std::move(vocab), std::move(special)),
        pre_name_(file.get_string("tokenizer.ggml.pre", "")),
        normalizer_(file, true, false),
        byte_ids_(vocab_.byte_tokens()) {
    for (TokenId id = 0; id < vocab_.size(); ++id) {
      const std::string& text = vocab_.texts[id];
      if (!can_merge(id)) continue;
      longest_ = std::max<size_t>(longest_, text.size());
      for (size_t at = text.find(kSpmSpace, 1); at != std::string::npos; at = text.find(kSpmSpace, at + 1)) {
        joined_with_space_.insert(last_byte(text, at));
      }
    }
  }

  std::string_view model_name() const override { return "llama"; }
  std::string_view pre_name() const override { return pre_name_; }
  bool strips_leading_space() const override { return normalizer_.adds_prefix(); }

 protected:
  std::string normal_piece(TokenId id) const override { return spm_unescape(vocab_.texts[id]); }

  void encode_text(std::string_view text, bool after_special, EncodeScratch& scratch,
                   std::vector<TokenId>& out) const override {
    const std::string_view normalized = scratch.texts.emplace_back(normalizer_.normalize(text, after_special));
    const auto encode = [&](std::string_view word, std::vector<TokenId>& ids) {
      encode_word(word, scratch.merger, ids);
    };
    size_t start = 0;
    for (size_t at = 1; at < normalized.size(); ++at) {
      if (!can_cut(normalized, at)) continue;
      scratch.cache.append(normalized.substr(start, at - start), out, encode);
      start = at;
    }
    if (start < normalized.size()) scratch.cache.append(normalized.substr(start), out, encode);
  }

 private:
  /// Control tokens are never made out of a user's text, nor user-defined ones: those were found before.
  bool can_merge(TokenId id) const {
    const TokenType type = vocab_.types[id];
    return type == TokenType::normal || type == TokenType::unused || type == TokenType::undefined;
  }

  static uint8_t last_byte(std::string_view text, size_t at) { return static_cast<uint8_t>(text[at - 1]); }

  /// Merging never crosses `at` if no token has the bytes around it side by side; so words can be encoded one by one.
  bool can_cut(std::string_view text, size_t at) const {
    if (text[at] != kSpmSpace[0] || !text.substr(at).starts_with(kSpmSpace)) return false;
    return !joined_with_space_.contains(last_byte(text, at));
  }

  void encode_word(std::string_view word, Merger& merger, std::vector<TokenId>& out) const {
    merger.clear();
    for (uint32_t pos = 0; pos < word.size();) {
      const Utf8Char c = decode_utf8(word.substr(pos));
      merger.add(pos, c.length, id_of(word.substr(pos, c.length)));
      pos += c.length;
    }
    Splits splits;
    merger.run([&](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
      const size_t length = left.length + right.length;
      if (length > longest_) return std::nullopt;
      const TokenId id = id_of(word.substr(left.begin, length));
      if (id < 0) return std::nullopt;
      if (vocab_.types[id] == TokenType::unused) splits.insert_or_assign(id, left.length);
      return Merge{-vocab_.scores[id], id};
    });
    for (const Symbol& symbol : merger.symbols) {
      if (symbol.length > 0) append_symbol(word.substr(symbol.begin, symbol.length), symbol.id, splits, out);
    }
  }

  /// Tokens of type unused serve as steps of merging only; at the end they fall into their parts again.
  using Splits = std::unordered_map<TokenId, uint32_t>;  // id -> bytes of the left part
  void append_symbol(std::string_view text, TokenId id, const Splits& splits, std::vector<TokenId>& out) const {
    if (id >= 0 && vocab_.types[id] == TokenType::unused) {
      if (const auto split = splits.find(id); split != splits.end()) {
        const std::string_view left = text.substr(0, split->second), right = text.substr(split->second);
        append_symbol(left, id_of(left), splits, out);
        append_symbol(right, id_of(right), splits, out);
        return;
      }
    }
    if (id >= 0) {
      out.push_back(id);
      return;
    }
    for (const char byte : text) {
      const TokenId byte_id = byte_ids_[static_cast<uint8_t>(byte)];
      if (byte_id >= 0) {
        out.push_back(byte_id);
      } else if (special_.unk) {
        out.push_back(*special_.unk);  // once for the character
        return;
      }
    }
  }

  TokenId id_of(std::string_view text) const {
    const auto id = vocab_.find(text);
    return id && can_merge(*id) ? *id : -1;
  }

  std::string pre_name_;
  SpmNormalizer normalizer_;
  std::vector<TokenId> byte_ids_;                  // [byte], -1: none
  size_t longest_ = 0;                             // bytes of the longest token that merging can make
  std::unordered_set<uint8_t> joined_with_space_;  // bytes that stand right before U+2581 inside some token
};

}  // namespace

std::unique_ptr<Tokenizer> make_spm(const ModelFile& file, Vocab vocab) {
  if (vocab.scores.empty()) fail(ErrorCode::invalid_model, file.path(), ": ", kScoresKey, ": missing");
  SpecialTokens special = read_special_tokens(file, vocab, true, false);
  return std::make_unique<Spm>(file, std::move(vocab), std::move(special));
}

}  // namespace imp
