// Byte-level BPE ("gpt2"): text is cut into words by the family's patterns, each word's bytes are tokens of their
// own, and pairs of tokens are joined in the order of the list of merges. The vocabulary writes each byte as a
// printable character.
#include <array>
#include <unordered_map>

#include "core/error.h"
#include "formats/model_file.h"
#include "text/merge.h"
#include "text/nfc.h"
#include "text/pre_tokenizer.h"
#include "text/vocab.h"

namespace imp {
namespace {

constexpr uint32_t kNumByteCharacters = 0x144;

/// The character that stands for a byte: itself where it is printable Latin-1, else one from U+0100 on, in order.
std::array<uint32_t, 256> byte_characters() {
  std::array<uint32_t, 256> characters{};
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    characters[byte] = printable ? byte : next++;
  }
  return characters;
}

class ByteBpe final : public VocabTokenizer {
 public:
  ByteBpe(const ModelFile& file, Vocab vocab, SpecialTokens special, const PreTokenizerSpec& spec, std::string pre_name)
      : VocabTokenizer(std::move(vocab), std::move(special)),
        pre_name_(std::move(pre_name)),
        pre_tokenizer_(spec),
        ignore_merges_(spec.ignore_merges) {
    if (spec.nfc) nfc_.emplace();
    read_pieces();
    read_byte_ids(file);
    read_merges(file);
  }

  std::string_view model_name() const override { return "gpt2"; }
  std::string_view pre_name() const override { return pre_name_; }
  bool strips_leading_space() const override { return false; }

 protected:
  std::string normal_piece(TokenId id) const override { return pieces_[id]; }

  void encode_text(std::string_view text, bool, EncodeScratch& scratch, std::vector<TokenId>& out) const override {
    if (nfc_ && nfc_->may_change(text)) text = scratch.texts.emplace_back(nfc_->normalize(text));
    const auto encode = [&](std::string_view word, std::vector<TokenId>& ids) {
      encode_word(word, scratch.merger, ids);
    };
    for (const std::string_view word : pre_tokenizer_.split(text)) scratch.cache.append(word, out, encode);
  }

 private:
  void encode_word(std::string_view word, Merger& merger, std::vector<TokenId>& out) const {
    if (ignore_merges_) {
      if (const auto whole = words_.find(word); whole != words_.end()) {
        out.push_back(whole->second);
        return;
      }
    }
    merger.clear();
    for (uint32_t i = 0; i < word.size(); ++i) {
      // a byte that the vocabulary lacks cannot be written at all
      const TokenId id = byte_ids_[static_cast<uint8_t>(word[i])];
      if (id >= 0) merger.add(i, 1, id);
    }
    merger.run([&](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
      const Merge* merge = merges_.find(pair_key(left.id, right.id));
      return merge ? std::optional(*merge) : std::nullopt;
    });
    for (const Symbol& symbol : merger.symbols) {
      if (symbol.length > 0) out.push_back(symbol.id);
    }
  }

  static uint64_t pair_key(TokenId left, TokenId right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  /// Tokens as bytes. One that has a character which stands for no byte is taken as it is written.
  void read_pieces() {
    std::array<int16_t, kNumByteCharacters> bytes;
    bytes.fill(-1);
    const auto characters = byte_characters();
    for (int byte = 0; byte < 256; ++byte) bytes[characters[byte]] = static_cast<int16_t>(byte);
    for (const std::string& text : vocab_.texts) {
      std::string piece;
      for (std::string_view rest = text; !rest.empty();) {
        const Utf8Char c = decode_utf8(rest);
        if (c.codepoint >= kNumByteCharacters || bytes[c.codepoint] < 0) {
          piece = text;
          break;
        }
        piece.push_back(static_cast<char>(bytes[c.codepoint]));
        rest.remove_prefix(c.length);
      }
      pieces_.push_back(std::move(piece));
    }
    if (!ignore_merges_) return;
    for (TokenId id = 0; id < vocab_.size(); ++id) {
      if (vocab_.types[id] == TokenType::normal) words_.try_emplace(pieces_[id], id);
    }
  }

  void read_byte_ids(const ModelFile& file) {
    const auto characters = byte_characters();
    int missing = 0;
    for (int byte = 0; byte < 256; ++byte) {
      std::string text;
      append_utf8(text, characters[byte]);
      byte_ids_[byte] = vocab_.find(text).value_or(-1);
      missing += byte_ids_[byte] < 0;
    }
    // Some real vocabularies lack the bytes that no UTF-8 has, and rare control characters
    if (missing == 256) fail(ErrorCode::invalid_model, file.path(), ": ", kTokensKey, ": has no token for any byte");
  }

  void read_merges(const ModelFile& file) {
    const std::vector<std::string>* list = file.find_strings(kMergesKey);
    if (!list) fail(ErrorCode::invalid_model, file.path(), ": ", kMergesKey, ": missing");
    merges_ = FlatMap<Merge>(list->size());
    std::string joined;
    for (size_t rank = 0; rank < list->size(); ++rank) {
      const std::string_view merge = (*list)[rank];
      const size_t space = merge.find(' ', 1);
      const auto wrong = [&](std::string_view what) {
        fail(ErrorCode::invalid_model, file.path(), ": ", kMergesKey, ": entry ", rank, " '", merge, "' ", what);
      };
      if (merge.empty() || space == std::string_view::npos) wrong("is not two tokens with a space between");
      joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
      const auto left = vocab_.find(merge.substr(0, space));
      const auto right = vocab_.find(merge.substr(space + 1));
      const auto result = vocab_.find(joined);
      if (!left || !right || !result) wrong("names a token that the vocabulary does not have");
      // of two equal entries the first counts
      merges_.insert(pair_key(*left, *right), {static_cast<float>(rank), *result});
    }
  }

  std::string pre_name_;
  PreTokenizer pre_tokenizer_;
  std::optional<NfcNormalizer> nfc_;
  bool ignore_merges_;
  std::vector<std::string> pieces_;                      // [id], bytes
  std::unordered_map<std::string_view, TokenId> words_;  // of pieces_, only for ignore_merges_
  std::array<TokenId, 256> byte_ids_{};                  // -1: none
  FlatMap<Merge> merges_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_bpe(const ModelFile& file, Vocab vocab) {
  constexpr std::string_view kPreKey = "tokenizer.ggml.pre";
  if (!file.has(kPreKey)) {
    fail(ErrorCode::unsupported, file.path(), ": ", kPreKey,
         ": missing, so how this model cuts text into words is not "
         "known; convert the model again, or set the key to one of: ",
         known_pre_tokenizers());
  }
  std::string pre = file.get_string(kPreKey);
  const PreTokenizerSpec* spec = find_pre_tokenizer(pre);
  if (!spec) {
    fail(ErrorCode::unsupported, file.path(), ": ", kPreKey, ": unknown pre-tokenizer '", pre,
         "'; known: ", known_pre_tokenizers());
  }
  SpecialTokens special = read_special_tokens(file, vocab, spec->add_bos, false);
  return std::make_unique<ByteBpe>(file, std::move(vocab), std::move(special), *spec, std::move(pre));
}

}  // namespace imp
