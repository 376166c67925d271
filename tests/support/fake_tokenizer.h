#pragma once
#include <string>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace imp::test {

/// A vocabulary written down in a test: every token is its text, encoding takes the longest match at each place.
class FakeTokenizer final : public Tokenizer {
 public:
  struct Token {
    std::string text;
    TokenType type = TokenType::normal;
  };
  FakeTokenizer(std::vector<Token> tokens, std::vector<TokenId> stop) : tokens_(std::move(tokens)) {
    special_.stop = std::move(stop);
    if (!special_.stop.empty()) special_.eos = special_.stop.front();
  }

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<TokenId> ids;
    while (!text.empty()) {
      TokenId best = -1;
      size_t length = 0;
      for (TokenId id = 0; id < size(); ++id) {
        const Token& token = tokens_[static_cast<size_t>(id)];
        if (token.type == TokenType::control && !options.parse_special) continue;
        if (token.text.size() > length && text.starts_with(token.text)) best = id, length = token.text.size();
      }
      if (best >= 0) ids.push_back(best);
      text.remove_prefix(best >= 0 ? length : 1);
    }
    return ids;
  }
  std::string piece(TokenId id, bool special) const override {
    const Token& token = tokens_[static_cast<size_t>(id)];
    return token.type == TokenType::control && !special ? "" : token.text;
  }
  int32_t size() const override { return static_cast<int32_t>(tokens_.size()); }
  std::string_view token_text(TokenId id) const override { return tokens_[static_cast<size_t>(id)].text; }
  TokenType type(TokenId id) const override { return tokens_[static_cast<size_t>(id)].type; }
  std::optional<TokenId> find(std::string_view text) const override {
    for (TokenId id = 0; id < size(); ++id)
      if (tokens_[static_cast<size_t>(id)].text == text) return id;
    return std::nullopt;
  }
  std::string_view model_name() const override { return "fake"; }
  std::string_view pre_name() const override { return ""; }
  bool strips_leading_space() const override { return false; }

 private:
  std::vector<Token> tokens_;
};

}  // namespace imp::test
