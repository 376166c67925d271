#include <algorithm>
#include <array>

#include "core/error.h"
#include "formats/model_file.h"
#include "text/vocab.h"

namespace imp {
namespace {

// End markers by their text: files often name one of several that a model was trained to stop with. Brackets and
// bars make these unmistakable, so they are end markers even where the file calls them user-defined.
constexpr std::array<std::string_view, 19> kEndMarkers = {"<|im_end|>",
                                                          "<|eot_id|>",
                                                          "<|eom_id|>",
                                                          "<end_of_turn>",
                                                          "<|end|>",
                                                          "<|endoftext|>",
                                                          "<|end_of_text|>",
                                                          "<|return|>",
                                                          "<|call|>",
                                                          "<|calls|>",
                                                          "<|flush|>",
                                                          "<end_of_utterance>",
                                                          "<turn|>",
                                                          "<|end_of_turn|>",
                                                          "<\uff5cend\u2581of\u2581sentence\uff5c>",
                                                          "<|tool_response>",
                                                          "[e~[",
                                                          "<EOT>",
                                                          "_<EOT>"};
// These are also words of HTML or of text: only where the file says that they are control tokens.
constexpr std::array<std::string_view, 5> kEndMarkersIfControl = {"</s>", "<eos>", "[EOS]", "[EOT]", "<|eos|>"};

std::optional<TokenId> read_id(const ModelFile& file, std::string_view key, const Vocab& vocab) {
  if (!file.has(key)) return std::nullopt;
  const int64_t id = file.get_int(key);
  // writers store -1, in 32 bits of either sign, for "none"
  if (id == -1 || id == 0xffffffff) return std::nullopt;
  if (id < 0 || id >= vocab.size()) {
    fail(ErrorCode::invalid_model, file.path(), ": ", key, ": token ", id, " of a vocabulary of ", vocab.size());
  }
  return static_cast<TokenId>(id);
}

/// The ids that files of this tokenizer model leave out because its first readers assumed them.
void assume_usual_ids(const ModelFile& file, const Vocab& vocab, SpecialTokens& special) {
  const auto assume = [&](std::optional<TokenId>& id, std::string_view key, TokenId usual, TokenType type) {
    if (!file.has(key) && usual < vocab.size() && vocab.types[usual] == type) id = usual;
  };
  const std::string model = file.get_string("tokenizer.ggml.model", "");
  if (model == "llama") {
    assume(special.bos, "tokenizer.ggml.bos_token_id", 1, TokenType::control);
    assume(special.eos, "tokenizer.ggml.eos_token_id", 2, TokenType::control);
    assume(special.unk, "tokenizer.ggml.unknown_token_id", 0, TokenType::unknown);
  } else if (model == "t5") {
    assume(special.eos, "tokenizer.ggml.eos_token_id", 1, TokenType::control);
    assume(special.unk, "tokenizer.ggml.unknown_token_id", 2, TokenType::unknown);
    assume(special.pad, "tokenizer.ggml.padding_token_id", 0, TokenType::control);
  }
}

void add_end_markers(Vocab& vocab, std::vector<TokenId>& stop) {
  for (const std::string_view text : kEndMarkers) {
    const auto id = vocab.find(text);
    if (!id || (vocab.types[*id] != TokenType::control && vocab.types[*id] != TokenType::user_defined)) continue;
    vocab.types[*id] = TokenType::control;
    stop.push_back(*id);
  }
  for (const std::string_view text : kEndMarkersIfControl) {
    const auto id = vocab.find(text);
    if (id && vocab.types[*id] == TokenType::control) stop.push_back(*id);
  }
  // Harmony-style vocabularies: <|end|> closes one message of several, and generation goes on after it
  const bool harmony = vocab.find("<|call|>") && vocab.find("<|return|>");
  const bool solar = vocab.find("<|calls|>") && vocab.find("<|flush|>");
  if (const auto end = vocab.find("<|end|>"); end && (harmony || solar)) std::erase(stop, *end);
}

}  // namespace

SpecialTokens read_special_tokens(const ModelFile& file, Vocab& vocab, bool default_add_bos, bool default_add_eos) {
  SpecialTokens special;
  special.bos = read_id(file, "tokenizer.ggml.bos_token_id", vocab);
  special.eos = read_id(file, "tokenizer.ggml.eos_token_id", vocab);
  special.eot = read_id(file, "tokenizer.ggml.eot_token_id", vocab);
  special.unk = read_id(file, "tokenizer.ggml.unknown_token_id", vocab);
  special.pad = read_id(file, "tokenizer.ggml.padding_token_id", vocab);
  const auto eom = read_id(file, "tokenizer.ggml.eom_token_id", vocab);
  assume_usual_ids(file, vocab, special);

  add_end_markers(vocab, special.stop);
  for (const auto& id : {special.eos, special.eot, eom}) {
    if (id) special.stop.push_back(*id);
  }
  std::sort(special.stop.begin(), special.stop.end());
  special.stop.erase(std::unique(special.stop.begin(), special.stop.end()), special.stop.end());

  const auto add = [&](std::string_view key, bool fallback, const std::optional<TokenId>& id, std::string_view id_key) {
    const bool wanted = file.get_bool(key, fallback && id);
    if (wanted && !id) {
      fail(ErrorCode::invalid_model, file.path(), ": ", key, " is true, but ", id_key, " is missing");
    }
    return wanted;
  };
  special.add_bos = add("tokenizer.ggml.add_bos_token", default_add_bos, special.bos, "tokenizer.ggml.bos_token_id");
  special.add_eos = add("tokenizer.ggml.add_eos_token", default_add_eos, special.eos, "tokenizer.ggml.eos_token_id");
  return special;
}

}  // namespace imp
