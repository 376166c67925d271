#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace imp {

class ModelFile;
using TokenId = int32_t;

enum class TokenType : uint8_t { undefined, normal, unknown, control, user_defined, unused, byte };

struct EncodeOptions {
  bool add_special = true;     // BOS / EOS as the model's metadata asks for
  bool parse_special = false;  // text of control tokens ("<|im_end|>") becomes the token; else it stays text
};

/// The special ids of a vocabulary, as its metadata names them.
struct SpecialTokens {
  std::optional<TokenId> bos, eos, eot, unk, pad;
  bool add_bos = false;
  bool add_eos = false;
  std::vector<TokenId> stop;  // every id that ends a generation (eos, eot, <|im_end|>, <end_of_turn>, ...), sorted
};

/// Text <-> token ids. Immutable after loading; every method may be called from any thread.
/// encode() of any bytes, valid UTF-8 or not, and decode() of its result never fail.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const = 0;

  /// The bytes of one token: what it adds to the text. Control tokens give their text only when `special`.
  virtual std::string piece(TokenId id, bool special = false) const = 0;

  /// Text of `ids`; `special` shows control tokens. A leading space that encoding added is taken off.
  std::string decode(std::span<const TokenId> ids, bool special = false) const;

  virtual int32_t size() const = 0;
  virtual std::string_view token_text(TokenId id) const = 0;  // as stored in the vocabulary
  virtual TokenType type(TokenId id) const = 0;
  virtual std::optional<TokenId> find(std::string_view token_text) const = 0;
  virtual std::string_view model_name() const = 0;  // "gpt2", "llama", "t5"
  virtual std::string_view pre_name() const = 0;    // pre-tokenizer, "" where there is none
  virtual bool strips_leading_space() const = 0;    // SentencePiece's dummy prefix

  const SpecialTokens& special() const { return special_; }
  bool is_stop(TokenId id) const;

 protected:
  SpecialTokens special_;
};

/// Builds the tokenizer that `tokenizer.ggml.*` describes. Null where the file says it has none
/// (`tokenizer.ggml.model` = "no_vocab"). An unknown model or pre-tokenizer name is an `unsupported` error
/// listing the known ones; inconsistent vocabularies are `invalid_model` errors with the key.
std::unique_ptr<Tokenizer> load_tokenizer(const ModelFile& file);

/// Turns tokens into text as they arrive. Only whole UTF-8 sequences come out; bytes that can never become
/// one come out as U+FFFD.
class IncrementalDecoder {
 public:
  explicit IncrementalDecoder(const Tokenizer& tokenizer, bool special = false);
  std::string push(TokenId id);
  std::string finish();  // what is still held back

 private:
  const Tokenizer* tokenizer_;
  bool special_;
  bool at_start_ = true;
  std::string held_;
};

}  // namespace imp
