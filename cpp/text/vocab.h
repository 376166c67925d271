#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "text/byte_trie.h"
#include "text/text_index.h"
#include "text/tokenizer.h"

namespace imp {

inline constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
inline constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";
inline constexpr std::string_view kTokenTypeKey = "tokenizer.ggml.token_type";
inline constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";

/// The tokens of a model file, checked: lists of equal length, no text twice, finite scores.
struct Vocab {
  std::vector<std::string> texts;  // [id]
  std::vector<float> scores;       // [id], or empty where the file has none
  std::vector<TokenType> types;    // [id]

  explicit Vocab(const ModelFile& file);

  int32_t size() const { return static_cast<int32_t>(texts.size()); }
  std::optional<TokenId> find(std::string_view text) const {
    const TokenId id = index_.find(texts, text);
    return id < 0 ? std::nullopt : std::optional(id);
  }
  /// Ids of the tokens <0x00> to <0xFF> of type byte, -1 where there is none.
  std::vector<TokenId> byte_tokens() const;

 private:
  TextIndex index_;  // tokens without text are not in it
};

/// Which special ids the file names, checked against the vocabulary. May turn the type of end markers that the
/// file calls user-defined into control, so that a user's text cannot end a turn.
SpecialTokens read_special_tokens(const ModelFile& file, Vocab& vocab, bool default_add_bos, bool default_add_eos);

/// A stretch of the input: one token that stands in it literally, or text to encode.
struct Fragment {
  std::string_view text;
  TokenId token = -1;
};

/// Finds tokens that are matched before anything else is done to a text: user-defined ones always, control ones
/// when asked for. Leftmost first, then longest.
class SpecialMatcher {
 public:
  explicit SpecialMatcher(const Vocab& vocab);
  std::vector<Fragment> split(std::string_view text, bool parse_special) const;

 private:
  ByteTrie user_defined_, all_;
};

struct EncodeScratch;

/// What the tokenizers share: the vocabulary, special tokens, and the order of the steps.
class VocabTokenizer : public Tokenizer {
 public:
  VocabTokenizer(Vocab vocab, SpecialTokens special);

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const final;
  std::string piece(TokenId id, bool special) const final;
  int32_t size() const final { return vocab_.size(); }
  std::string_view token_text(TokenId id) const final;
  TokenType type(TokenId id) const final;
  std::optional<TokenId> find(std::string_view token_text) const final { return vocab_.find(token_text); }

 protected:
  /// Text between special tokens; `after_special` is true at the start of the input too.
  virtual void encode_text(std::string_view text, bool after_special, EncodeScratch& scratch,
                           std::vector<TokenId>& out) const = 0;
  /// The bytes that a token of type normal (or unused, or undefined) adds.
  virtual std::string normal_piece(TokenId id) const = 0;

  Vocab vocab_;

 private:
  SpecialMatcher matcher_;
};

std::unique_ptr<Tokenizer> make_byte_bpe(const ModelFile& file, Vocab vocab);
std::unique_ptr<Tokenizer> make_spm(const ModelFile& file, Vocab vocab);
std::unique_ptr<Tokenizer> make_unigram(const ModelFile& file, Vocab vocab);

}  // namespace imp
