#pragma once
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>

#include "support/fake_model_file.h"
#include "text/tokenizer.h"

namespace imp::test {

/// A file of tests/data/text: a vocabulary, texts, and their tokens by other people's programs
/// (tools/make_tokenizer_goldens.py describes the format).
struct TokenizerGolden {
  FakeModelFile file;
  std::vector<std::string> texts;
  std::map<std::string, std::vector<std::vector<TokenId>>> families;  // [name][text]
};

inline std::string from_hex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

inline void read_metadata(TokenizerGolden& golden, const std::string& kind, std::istringstream& words) {
  std::string key, value;
  words >> key >> value;
  if (kind == "str") {
    golden.file.set(key, value);
  } else if (kind == "bool") {
    golden.file.set(key, value == "1");
  } else if (kind == "int") {
    golden.file.set(key, static_cast<uint64_t>(std::stoull(value)));
  } else if (kind == "bytes") {
    std::vector<uint64_t> bytes;
    for (const char byte : from_hex(value)) bytes.push_back(static_cast<uint8_t>(byte));
    golden.file.set(key, std::move(bytes));
  } else {
    throw std::runtime_error("unknown line of a tokenizer golden: " + kind);
  }
}

inline TokenizerGolden load_tokenizer_golden(const std::string& name) {
  std::ifstream in(std::string(IMP_TEST_DATA) + "/text/" + name);
  if (!in) throw std::runtime_error("no tests/data/text/" + name);
  TokenizerGolden golden;
  auto& tokens = golden.file.list<std::vector<std::string>>("tokenizer.ggml.tokens");
  std::vector<double> scores;
  std::vector<int64_t> types;
  std::vector<std::string> merges;
  std::vector<std::vector<TokenId>>* family = nullptr;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string kind, text;
    words >> kind;
    if (kind == "token") {
      int64_t type = 0;
      double score = 0;
      words >> type >> score >> text;
      types.push_back(type);
      scores.push_back(score);
      tokens.push_back(from_hex(text));
    } else if (kind == "merge") {
      size_t left = 0, right = 0;
      words >> left >> right;
      merges.push_back(tokens.at(left) + ' ' + tokens.at(right));
    } else if (kind == "text") {
      words >> text;
      golden.texts.push_back(from_hex(text));
    } else if (kind == "family") {
      words >> text;
      family = &golden.families[text];
    } else if (kind == "ids") {
      auto& ids = family->emplace_back();
      for (TokenId id; words >> id;) ids.push_back(id);
    } else {
      read_metadata(golden, kind, words);
    }
  }
  golden.file.set("tokenizer.ggml.scores", std::move(scores)).set("tokenizer.ggml.token_type", std::move(types));
  if (!merges.empty()) golden.file.set("tokenizer.ggml.merges", std::move(merges));
  return golden;
}

}  // namespace imp::test
