#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <thread>

#include "core/error.h"
#include "support/tokenizer_golden.h"
#include "text/tokenizer.h"

using namespace imp;
using namespace imp::test;

namespace {

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};
constexpr EncodeOptions kParse{.add_special = false, .parse_special = true};
constexpr const char* kFiles[] = {"byte_bpe.txt", "spm.txt", "gemma_like.txt", "unigram.txt"};

TokenizerGolden load_golden(const std::string& name) {
  TokenizerGolden golden = load_tokenizer_golden(name);
  if (name == "byte_bpe.txt") golden.file.set("tokenizer.ggml.pre", std::string("gpt-2"));
  return golden;
}

std::unique_ptr<Tokenizer> load(const std::string& name) { return load_tokenizer(load_golden(name).file); }

void check_family(const Tokenizer& tokenizer, const TokenizerGolden& golden, const std::string& family) {
  const auto& expected = golden.families.at(family);
  REQUIRE(expected.size() == golden.texts.size());
  REQUIRE(expected.size() >= 200);
  for (size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(family);
    CAPTURE(golden.texts[i]);
    CHECK(tokenizer.encode(golden.texts[i], kPlain) == expected[i]);
  }
}

/// The error's message, or what it was instead of the expected kind.
std::string error_of(ErrorCode expected, const FakeModelFile& file) {
  try {
    load_tokenizer(file);
  } catch (const Error& error) {
    return error.code() == expected ? error.what() : cat("another code: ", error.what());
  }
  return "no error";
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

/// Random bytes, half of them cut out of valid text, so that sequences break in every place.
std::string random_bytes(std::mt19937& random, const std::vector<std::string>& texts) {
  std::string bytes;
  for (int part = 0; part < 4; ++part) {
    const std::string& text = texts[random() % texts.size()];
    if (!text.empty()) bytes += text.substr(random() % text.size(), random() % 9);
    for (uint32_t n = random() % 5; n > 0; --n) bytes.push_back(static_cast<char>(random()));
  }
  return bytes;
}

std::string repeated(std::string_view text, size_t bytes) {
  std::string out;
  while (out.size() < bytes) out += text;
  return out;
}

}  // namespace

TEST_CASE("byte-level BPE encodes as Hugging Face tokenizers does, with each family's pre-tokenizer") {
  TokenizerGolden golden = load_golden("byte_bpe.txt");
  REQUIRE(golden.families.size() >= 9);
  for (const auto& [family, unused] : golden.families) {
    golden.file.set("tokenizer.ggml.pre", family);
    check_family(*load_tokenizer(golden.file), golden, family);
  }
}

TEST_CASE("SentencePiece BPE encodes as sentencepiece does") {
  const TokenizerGolden golden = load_golden("spm.txt");
  check_family(*load_tokenizer(golden.file), golden, "sentencepiece");
}

TEST_CASE("a vocabulary with runs of spaces and newlines encodes as Hugging Face tokenizers does") {
  const TokenizerGolden golden = load_golden("gemma_like.txt");
  check_family(*load_tokenizer(golden.file), golden, "tokenizers");
}

TEST_CASE("unigram encodes as sentencepiece does, normalisation included") {
  const TokenizerGolden golden = load_golden("unigram.txt");
  check_family(*load_tokenizer(golden.file), golden, "sentencepiece");
}

TEST_CASE("byte-level BPE gives back any bytes, SentencePiece BPE any but its space mark") {
  const TokenizerGolden golden = load_golden("byte_bpe.txt");
  const auto bpe = load_tokenizer(golden.file);
  const auto spm = load("spm.txt");
  const auto unigram = load("unigram.txt");
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    const std::string bytes = random_bytes(random, golden.texts);
    CAPTURE(bytes);
    CHECK(bpe->decode(bpe->encode(bytes, kPlain)) == bytes);
    if (bytes.find('\xe2') == std::string::npos) CHECK(spm->decode(spm->encode(bytes, kPlain)) == bytes);
    for (const TokenId id : unigram->encode(bytes, kParse)) CHECK(id < unigram->size());
  }
}

TEST_CASE("special tokens in a text stay text unless asked for") {
  for (const char* name : {"byte_bpe.txt", "spm.txt"}) {
    CAPTURE(name);
    TokenizerGolden golden = load_golden(name);
    const auto tokenizer = load_tokenizer(golden.file);
    const TokenId bos = *tokenizer->special().bos;
    const std::string text = "a<s>b";
    const auto plain = tokenizer->encode(text, kPlain);
    CHECK(std::count(plain.begin(), plain.end(), bos) == 0);
    CHECK(tokenizer->decode(plain) == text);
    const auto parsed = tokenizer->encode(text, kParse);
    CHECK(std::count(parsed.begin(), parsed.end(), bos) == 1);
    CHECK(contains(tokenizer->decode(parsed, true), "<s>"));
    CHECK(!contains(tokenizer->decode(parsed, false), "<s>"));
  }
}

TEST_CASE("merging never makes a control token out of a text") {
  TokenizerGolden golden = load_golden("spm.txt");
  auto& tokens = golden.file.list<std::vector<std::string>>("tokenizer.ggml.tokens");
  tokens.push_back("ab");  // two characters that are tokens; the best score of all
  golden.file.list<std::vector<int64_t>>("tokenizer.ggml.token_type").push_back(3);
  golden.file.list<std::vector<double>>("tokenizer.ggml.scores").push_back(100);
  const auto control = static_cast<TokenId>(tokens.size() - 1);
  const auto tokenizer = load_tokenizer(golden.file);
  const auto ids = tokenizer->encode("ab", kPlain);
  CHECK(std::count(ids.begin(), ids.end(), control) == 0);
  CHECK(tokenizer->decode(ids) == "ab");
  CHECK(tokenizer->encode("ab", kParse) == std::vector<TokenId>{control});
}

TEST_CASE("a token with a space inside it is found across words") {
  TokenizerGolden golden = load_golden("spm.txt");
  auto& tokens = golden.file.list<std::vector<std::string>>("tokenizer.ggml.tokens");
  tokens.push_back("a\u2581");
  golden.file.list<std::vector<int64_t>>("tokenizer.ggml.token_type").push_back(1);
  golden.file.list<std::vector<double>>("tokenizer.ggml.scores").push_back(100);
  const auto ids = load_tokenizer(golden.file)->encode("xa yb a b", kPlain);
  CHECK(std::count(ids.begin(), ids.end(), static_cast<TokenId>(tokens.size() - 1)) == 2);
}

TEST_CASE("user-defined tokens are found in any text, the longest first; end markers among them are not") {
  TokenizerGolden golden = load_golden("byte_bpe.txt");
  auto& tokens = golden.file.list<std::vector<std::string>>("tokenizer.ggml.tokens");
  auto& types = golden.file.list<std::vector<int64_t>>("tokenizer.ggml.token_type");
  auto& scores = golden.file.list<std::vector<double>>("tokenizer.ggml.scores");
  const auto add = [&](const std::string& text) {
    tokens.push_back(text);
    types.push_back(4);
    scores.push_back(0);
    return static_cast<TokenId>(tokens.size() - 1);
  };
  const TokenId two = add("\n\n"), three = add("\n\n\n"), end_of_turn = add("<end_of_turn>");
  const auto tokenizer = load_tokenizer(golden.file);
  CHECK(tokenizer->encode("\n\n\n\n\n", kPlain) == std::vector<TokenId>{three, two});
  CHECK(tokenizer->type(end_of_turn) == TokenType::control);
  CHECK(tokenizer->encode("<end_of_turn>", kPlain).size() > 1);
  CHECK(tokenizer->encode("<end_of_turn>", kParse) == std::vector<TokenId>{end_of_turn});
  CHECK(tokenizer->is_stop(end_of_turn));
  CHECK(tokenizer->is_stop(1));  // eos
  CHECK(!tokenizer->is_stop(two));
}

TEST_CASE("BOS and EOS are added as the file asks, and only with add_special") {
  TokenizerGolden golden = load_golden("byte_bpe.txt");
  CHECK(load_tokenizer(golden.file)->encode("a", {}).size() == 1);
  golden.file.set("tokenizer.ggml.pre", std::string("llama-bpe"));  // this family adds BOS where the file says nothing
  CHECK(load_tokenizer(golden.file)->encode("a", {}).front() == 0);
  golden.file.set("tokenizer.ggml.add_bos_token", false).set("tokenizer.ggml.add_eos_token", true);
  const auto tokenizer = load_tokenizer(golden.file);
  const auto ids = tokenizer->encode("a", {});
  REQUIRE(ids.size() == 2);
  CHECK(ids.back() == 1);
  CHECK(tokenizer->encode("a", kPlain).size() == 1);
  CHECK(tokenizer->encode("", kPlain).empty());
}

TEST_CASE("incremental decoding gives whole characters, and in all the text of decode") {
  for (const char* name : kFiles) {
    CAPTURE(name);
    TokenizerGolden golden = load_golden(name);
    const auto tokenizer = load_tokenizer(golden.file);
    std::mt19937 random(3);
    for (int i = 0; i < 500; ++i) {
      const bool valid = i % 2 == 0;
      const std::string text =
          valid ? golden.texts[random() % golden.texts.size()] : random_bytes(random, golden.texts);
      const auto ids = tokenizer->encode(text, kPlain);
      IncrementalDecoder decoder(*tokenizer);
      std::string whole;
      for (const TokenId id : ids) {
        const std::string part = decoder.push(id);
        CHECK((part.empty() || (part[0] & 0xc0) != 0x80));  // starts with a character
        whole += part;
      }
      whole += decoder.finish();
      if (valid) CHECK(whole == tokenizer->decode(ids));
    }
  }
}

TEST_CASE("bytes that become no character come out as U+FFFD as soon as that is certain") {
  const auto tokenizer = load("spm.txt");
  const auto byte = [&](const char* hex) { return tokenizer->find(cat("<0x", hex, ">")).value(); };
  IncrementalDecoder decoder(*tokenizer);
  CHECK(decoder.push(byte("F0")) == "");
  CHECK(decoder.push(byte("9F")) == "");
  CHECK(decoder.push(byte("41")) == "\ufffdA");
  CHECK(decoder.push(byte("FF")) == "\ufffd");
  CHECK(decoder.push(byte("E2")) == "");
  CHECK(decoder.push(byte("82")) == "");
  CHECK(decoder.push(byte("AC")) == "\u20ac");
  CHECK(decoder.push(byte("C3")) == "");
  CHECK(decoder.finish() == "\ufffd");
  CHECK(decoder.finish() == "");
}

TEST_CASE("a mebibyte of anything takes time in proportion to its length") {
  // Quadratic behaviour would take hours here; the limit only has to tell the two apart on a slow machine.
  constexpr size_t kBytes = 1 << 20;
  TokenizerGolden golden = load_golden("byte_bpe.txt");
  for (const char* pre : {"gpt-2", "llama-bpe", "gpt-4o", "deepseek-llm", "deepseek-v3", "bailingmoe"}) {
    golden.file.set("tokenizer.ggml.pre", std::string(pre));
    const auto tokenizer = load_tokenizer(golden.file);
    for (const char* unit :
         {"a",    "A",  "\u01c5", "\u02b0", "\u5b57", "\u0301", "\u0903", "7",        "\u2167", "_",      "-",
          "(",    ")",  "\u00ab", "!",      "+",      "$",      "^",      "\u00a9",   " ",      "\u3000", "\n",
          "\r\n", "\t", "\x01",   "\u200d", " \n",    "' ",     "\xff",   "\xe2\x82", "A ",     "\u2029"}) {
      CAPTURE(pre);
      CAPTURE(unit);
      const std::string text = repeated(unit, kBytes / 8) + "x";
      CHECK(tokenizer->decode(tokenizer->encode(text, kPlain)) == text);
    }
  }
  for (const char* name : kFiles) {
    CAPTURE(name);
    const auto tokenizer = load(name);
    for (const char* unit : {"a", " ", "\u5b57", "\xff", "\n", "river", "\u2581"}) {
      CHECK(!tokenizer->encode(repeated(unit, kBytes) + "x", kPlain).empty());
    }
  }
}

TEST_CASE("threads may share a tokenizer") {
  const TokenizerGolden golden = load_golden("byte_bpe.txt");
  const auto tokenizer = load_tokenizer(golden.file);
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      const auto& expected = golden.families.at("gpt-2");
      for (size_t i = 0; i < expected.size(); ++i) count += tokenizer->encode(golden.texts[i], kPlain) != expected[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(std::count(wrong.begin(), wrong.end(), 0) == 4);
}

TEST_CASE("ids outside the vocabulary add no text") {
  const auto tokenizer = load("byte_bpe.txt");
  for (const TokenId id : {-1, tokenizer->size(), std::numeric_limits<TokenId>::max()}) {
    CHECK(tokenizer->piece(id, true).empty());
    CHECK(tokenizer->token_text(id).empty());
    CHECK(tokenizer->type(id) == TokenType::undefined);
    CHECK(!tokenizer->is_stop(id));
  }
}

TEST_CASE("unknown names are refused with the known ones") {
  TokenizerGolden golden = load_golden("byte_bpe.txt");
  golden.file.set("tokenizer.ggml.pre", std::string("qwen99"));
  std::string message = error_of(ErrorCode::unsupported, golden.file);
  CHECK(contains(message, "qwen99"));
  CHECK(contains(message, "qwen35"));
  golden.file.erase("tokenizer.ggml.pre");
  CHECK(contains(error_of(ErrorCode::unsupported, golden.file), "tokenizer.ggml.pre"));
  golden.file.set("tokenizer.ggml.model", std::string("wordlist"));
  message = error_of(ErrorCode::unsupported, golden.file);
  CHECK(contains(message, "wordlist"));
  CHECK(contains(message, "gpt2, llama, t5"));
  CHECK(load_tokenizer(golden.file.set("tokenizer.ggml.model", std::string("no_vocab"))) == nullptr);
}

TEST_CASE("inconsistent vocabularies are refused with the key") {
  const TokenizerGolden bpe = load_golden("byte_bpe.txt");
  const TokenizerGolden spm = load_golden("spm.txt");
  using Strings = std::vector<std::string>;
  const auto damaged = [](const TokenizerGolden& golden, const std::string& key, auto damage) {
    FakeModelFile file = golden.file;
    damage(file);
    const std::string message = error_of(ErrorCode::invalid_model, file);
    CAPTURE(key);
    CAPTURE(message);
    CHECK(contains(message, key));
  };
  const std::string tokens = "tokenizer.ggml.tokens", scores = "tokenizer.ggml.scores";
  const std::string types = "tokenizer.ggml.token_type", merges = "tokenizer.ggml.merges";
  damaged(bpe, tokens, [&](auto& file) { file.erase(tokens); });
  damaged(bpe, tokens, [&](auto& file) { file.set(tokens, Strings{}); });
  damaged(bpe, tokens,
          [&](auto& file) { file.template list<Strings>(tokens)[5] = file.template list<Strings>(tokens)[6]; });
  damaged(bpe, types, [&](auto& file) { file.template list<std::vector<int64_t>>(types).pop_back(); });
  damaged(bpe, types, [&](auto& file) { file.set(types, std::string("normal")); });
  damaged(bpe, merges, [&](auto& file) { file.erase(merges); });
  damaged(bpe, merges, [&](auto& file) { file.template list<Strings>(merges)[3] = "nospace"; });
  damaged(bpe, merges, [&](auto& file) { file.template list<Strings>(merges)[3] = ""; });
  damaged(bpe, merges, [&](auto& file) { file.template list<Strings>(merges)[3] = "a nowhere"; });
  damaged(spm, scores, [&](auto& file) { file.erase(scores); });
  damaged(spm, scores, [&](auto& file) { file.template list<std::vector<double>>(scores).pop_back(); });
  for (const double bad : {std::nan(""), HUGE_VAL, 1e300}) {
    damaged(spm, scores, [&](auto& file) { file.template list<std::vector<double>>(scores)[9] = bad; });
  }
  for (const char* key : {"bos", "eos", "eot", "unknown", "padding"}) {
    const std::string name = cat("tokenizer.ggml.", key, "_token_id");
    damaged(spm, name, [&](auto& file) { file.set(name, uint64_t{1} << 40); });
    damaged(spm, name, [&](auto& file) { file.set(name, int64_t{-2}); });
  }
  damaged(bpe, "tokenizer.ggml.eos_token_id",
          [](auto& file) { file.erase("tokenizer.ggml.eos_token_id").set("tokenizer.ggml.add_eos_token", true); });
}

TEST_CASE("a damaged table of replacements is refused or harmless, never read past its end") {
  const std::string key = "tokenizer.ggml.precompiled_charsmap";
  const TokenizerGolden golden = load_golden("unigram.txt");
  const auto original = std::get<std::vector<uint64_t>>(*golden.file.find(key));
  std::mt19937 random(11);
  for (size_t size : {size_t{1}, size_t{3}, size_t{4}, size_t{5}, original.size() / 2}) {
    FakeModelFile file = golden.file;
    file.list<std::vector<uint64_t>>(key).resize(size);
    CHECK(contains(error_of(ErrorCode::invalid_model, file), key));
  }
  for (int i = 0; i < 200; ++i) {
    FakeModelFile file = golden.file;
    auto& bytes = file.list<std::vector<uint64_t>>(key);
    for (int flips = 0; flips < 40; ++flips) bytes[4 + random() % (bytes.size() - 4)] = random() & 0xff;
    const auto tokenizer = load_tokenizer(file);
    for (const std::string& text : golden.texts) tokenizer->encode(text, kPlain);
  }
}

TEST_CASE("tokens may be empty, hold NUL, or be no UTF-8") {
  TokenizerGolden golden = load_golden("spm.txt");
  auto& tokens = golden.file.list<std::vector<std::string>>("tokenizer.ggml.tokens");
  tokens[tokens.size() - 1] = "";
  tokens[tokens.size() - 2] = std::string("a\0b", 3);
  tokens[tokens.size() - 3] = "\xff\xfe";
  tokens[tokens.size() - 4] = "";
  const auto tokenizer = load_tokenizer(golden.file);
  CHECK(!tokenizer->find("").has_value());
  CHECK(tokenizer->piece(static_cast<TokenId>(tokens.size() - 2)) == std::string("a\0b", 3));
  CHECK(tokenizer->decode(tokenizer->encode("\xff\xfe", kPlain)) == "\xff\xfe");
}
