// SentencePiece unigram ("t5"): of all ways to cut the text into tokens, the one with the highest sum of scores.
#include <algorithm>
#include <limits>

#include "core/error.h"
#include "formats/model_file.h"
#include "text/byte_trie.h"
#include "text/spm_normalizer.h"
#include "text/unicode.h"
#include "text/vocab.h"

namespace imp {
namespace {

constexpr float kUnknownPenalty = 10;  // below the lowest score of any token

class Unigram final : public VocabTokenizer {
 public:
  Unigram(const ModelFile& file, Vocab vocab, SpecialTokens special)
      : VocabTokenizer(std::move(vocab), std::move(special)),
        normalizer_(file, true, true),
        byte_ids_(vocab_.byte_tokens()) {
    float lowest = std::numeric_limits<float>::max();
    for (TokenId id = 0; id < vocab_.size(); ++id) {
      if (vocab_.types[id] != TokenType::normal || vocab_.texts[id].empty()) continue;
      lowest = std::min(lowest, vocab_.scores[id]);
      tokens_.insert(vocab_.texts[id], id);
    }
    unknown_score_ = lowest - kUnknownPenalty;
    has_bytes_ = std::find(byte_ids_.begin(), byte_ids_.end(), -1) == byte_ids_.end();
  }

  std::string_view model_name() const override { return "t5"; }
  std::string_view pre_name() const override { return {}; }
  bool strips_leading_space() const override { return normalizer_.adds_prefix(); }

 protected:
  std::string normal_piece(TokenId id) const override { return spm_unescape(vocab_.texts[id]); }

  void encode_text(std::string_view raw, bool after_special, EncodeScratch&, std::vector<TokenId>& out) const override {
    const std::string text = normalizer_.normalize(raw, after_special);
    const std::vector<Step> best = best_steps(text);
    std::vector<Cut> cuts;
    for (size_t end = text.size(); end > 0; end = best[end].begin) cuts.push_back({best[end].begin, end, best[end].id});
    std::reverse(cuts.begin(), cuts.end());
    bool after_unknown = false;
    for (const Cut& cut : cuts) {
      const bool unknown = cut.id < 0;
      if (!unknown) {
        out.push_back(cut.id);
      } else if (has_bytes_) {
        for (size_t i = cut.begin; i < cut.end; ++i) out.push_back(byte_ids_[static_cast<uint8_t>(text[i])]);
      } else if (special_.unk && !after_unknown) {
        out.push_back(*special_.unk);  // one for a run of unknown characters
      }
      after_unknown = unknown;
    }
  }

 private:
  struct Step {
    // Of the best way to this offset. In float, added from the left, as the programs do that made these vocabularies:
    // ways of the same sum are common, and rounding decides between them.
    float score = -std::numeric_limits<float>::infinity();
    size_t begin = 0;  // where its last token starts
    TokenId id = -1;   // -1: an unknown character
  };
  struct Cut {
    size_t begin, end;
    TokenId id;
  };

  std::vector<Step> best_steps(std::string_view text) const {
    std::vector<Step> best(text.size() + 1);
    best[0].score = 0;
    for (size_t begin = 0; begin < text.size();) {
      const size_t char_end = begin + decode_utf8(text.substr(begin)).length;
      const auto offer = [&](size_t end, float score, TokenId id) {
        const float sum = best[begin].score + score;
        if (sum > best[end].score) best[end] = {sum, begin, id};
      };
      bool char_is_token = false;
      uint32_t node = ByteTrie::kRoot;
      for (size_t end = begin; end < text.size();) {
        node = tokens_.step(node, text[end++]);
        if (node == ByteTrie::kNone) break;
        const TokenId id = tokens_.id(node);
        if (id < 0) continue;
        char_is_token |= end == char_end;
        offer(end, vocab_.scores[id], id);
      }
      if (!char_is_token) offer(char_end, unknown_score_, -1);
      begin = char_end;
    }
    return best;
  }

  SpmNormalizer normalizer_;
  std::vector<TokenId> byte_ids_;  // [byte], -1: none
  bool has_bytes_ = false;
  ByteTrie tokens_;
  float unknown_score_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> make_unigram(const ModelFile& file, Vocab vocab) {
  if (vocab.scores.empty()) fail(ErrorCode::invalid_model, file.path(), ": ", kScoresKey, ": missing");
  const bool has_normal = std::find(vocab.types.begin(), vocab.types.end(), TokenType::normal) != vocab.types.end();
  if (!has_normal) fail(ErrorCode::invalid_model, file.path(), ": ", kTokenTypeKey, ": no token is of type normal");
  SpecialTokens special = read_special_tokens(file, vocab, false, true);
  return std::make_unique<Unigram>(file, std::move(vocab), std::move(special));
}

}  // namespace imp
