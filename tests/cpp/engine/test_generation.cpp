#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "engine/generation.h"
#include "support/fake_tokenizer.h"

using namespace imp;
using test::FakeTokenizer;

namespace {

enum : TokenId { kBos, kEos, kThink, kEndThink, kUnused, kCall, kA, kB, kC, kEuro1, kEuro2 };

const FakeTokenizer& tokenizer() {
  static const FakeTokenizer fake({{"<s>", TokenType::control},
                                   {"</s>", TokenType::control},
                                   {"<think>", TokenType::control},
                                   {"</think>", TokenType::control},
                                   {"<unused>", TokenType::control},
                                   {"<tool_call>", TokenType::control},
                                   {"a"},
                                   {"b"},
                                   {"c"},
                                   {"\xe2\x82", TokenType::byte},
                                   {"\xac", TokenType::byte}},
                                  {kEos});
  return fake;
}

/// Three columns more than the tokenizer has tokens: padding rows of the embedding table.
constexpr int32_t kVocab = kEuro2 + 4;

struct Output {
  std::vector<TokenId> tokens;
  std::string text;
  FinishReason finish = FinishReason::none;
  std::string stop_reason;
  TokenEvent last;
};

/// Generates greedily from a "model" that wants `wishes` one after another.
Output run(const std::vector<TokenId>& wishes, SamplingParams params, const Settings& settings = {},
           std::vector<TokenId> prompt = {kBos, kA}, int64_t room = 1000) {
  params.temperature = 0;
  const VocabInfo vocab = make_vocab_info(&tokenizer(), kVocab, settings);
  Generation generation(vocab, std::make_shared<const SamplingParams>(params), prompt, 1, 0, {});
  Output out;
  for (TokenId wish : wishes) {
    std::vector<float> logits(kVocab);
    for (size_t i = 0; i < logits.size(); ++i)
      logits[i] = -static_cast<float>(i < kA ? 100 + i : i) / 100;  // then letters
    logits[static_cast<size_t>(wish)] = 5;
    TokenEvent event = generation.next(logits, room--);
    out.tokens.insert(out.tokens.end(), event.tokens.begin(), event.tokens.end());
    out.text += event.text;
    out.finish = event.finish;
    out.stop_reason = event.stop_reason;
    out.last = event;
    if (event.finish != FinishReason::none) break;
  }
  return out;
}

}  // namespace

TEST_CASE("a stop token ends the sequence, is handed out, and has no text") {
  const Output out = run({kB, kC, kEos, kA}, {});
  CHECK(out.tokens == std::vector<TokenId>{kB, kC, kEos});
  CHECK(out.text == "bc");
  CHECK(out.finish == FinishReason::stop);
  CHECK(out.stop_reason == "");
}

TEST_CASE("ignore_eos goes on; stop_token_ids stop all the same") {
  SamplingParams params;
  params.ignore_eos = true;
  params.stop_token_ids = {kC};
  const Output out = run({kEos, kB, kC, kA}, params);
  CHECK(out.tokens == std::vector<TokenId>{kEos, kB, kC});
  CHECK(out.finish == FinishReason::stop);
  CHECK(out.stop_reason == std::to_string(kC));
}

TEST_CASE("stop strings end the text before them, wherever tokens are cut") {
  SamplingParams params;
  params.stop = {"ca", "bcb"};
  const Output out = run({kA, kB, kC, kB, kA}, params);
  CHECK(out.text == "a");
  CHECK(out.stop_reason == "bcb");
  CHECK(out.finish == FinishReason::stop);
  params.include_stop_str_in_output = true;
  CHECK(run({kA, kB, kC, kB, kA}, params).text == "abcb");
}

TEST_CASE("text held back for a stop string comes out at the end") {
  SamplingParams params;
  params.stop = {"bcb"};
  CHECK(run({kA, kB, kC, kEos}, params).text == "abc");
  params.max_tokens = 3;
  const Output out = run({kA, kB, kC, kB}, params);
  CHECK(out.text == "abc");
  CHECK(out.finish == FinishReason::length);
}

TEST_CASE("min_tokens: neither stop token nor stop string before") {
  SamplingParams params;
  params.min_tokens = 3;
  params.stop = {"b"};
  const Output out = run({kB, kEos, kB, kC, kB}, params);
  CHECK(out.finish == FinishReason::stop);
  CHECK(out.tokens.size() == 5);
  CHECK(out.tokens[1] != kEos);
}

TEST_CASE("length: max_tokens, and the end of the context") {
  SamplingParams params;
  params.max_tokens = 2;
  CHECK(run({kA, kB, kC}, params).tokens.size() == 2);
  const Output out = run({kA, kB, kC, kA}, {}, {}, {kBos}, 3);
  CHECK(out.tokens.size() == 3);
  CHECK(out.finish == FinishReason::length);
}

TEST_CASE("only whole UTF-8 is shown") {
  SamplingParams params;
  params.max_tokens = 3;
  CHECK(run({kA, kEuro1, kEuro2}, params).text == "a€");
  params.max_tokens = 2;
  CHECK(run({kA, kEuro1, kEuro2}, params).text == "a\xef\xbf\xbd");
  // A character that began in the prompt is finished, not replaced.
  CHECK(run({kEuro2, kB, kEos}, {}, {}, {kA, kEuro1}).text == "€b");
}

TEST_CASE("control tokens that no protocol needs are never drawn, unless generation.no_ban") {
  const Output banned = run({kUnused, kBos, kCall, kEos}, {});
  CHECK(banned.tokens == std::vector<TokenId>{kA, kA, kCall, kEos});
  Settings settings;
  settings.generation.no_ban = true;
  const Output free = run({kUnused, kBos, kCall, kEos}, {}, settings);
  CHECK(free.tokens == std::vector<TokenId>{kUnused, kBos, kCall, kEos});
  // Padding rows are no tokens, whatever the settings say.
  CHECK(run({kVocab - 1, kEos}, {}, settings).tokens[0] < tokenizer().size());
}

TEST_CASE("thinking budget: at most so many tokens between the markers, then the closing one") {
  Settings settings;
  settings.generation.think_budget = 3;
  const std::vector<TokenId> wishes(12, kA);
  SamplingParams params;
  params.max_tokens = 8;
  const Output out = run(wishes, params, settings, {kBos, kThink});
  CHECK(out.tokens == std::vector<TokenId>{kA, kA, kA, kEndThink, kA, kA, kA, kA});
  CHECK(run(wishes, params, settings, {kBos, kThink, kB, kEndThink}).tokens == std::vector<TokenId>(8, kA));
  CHECK(run(wishes, params, {}, {kBos, kThink}).tokens == std::vector<TokenId>(8, kA));
  params.think_budget = 1;  // a request's own budget, also where none is configured
  const std::vector<TokenId> one = {kA, kEndThink, kA, kA, kA, kA, kA, kA};
  CHECK(run(wishes, params, settings, {kBos, kThink}).tokens == one);
  CHECK(run(wishes, params, {}, {kBos, kThink}).tokens == one);
  params.think_budget = 0;
  CHECK(run(wishes, params, settings, {kBos, kThink}).tokens == std::vector<TokenId>(8, kA));
}

TEST_CASE("special tokens are shown only when asked for") {
  Settings settings;
  SamplingParams params;
  params.max_tokens = 3;
  CHECK(run({kThink, kA, kEndThink}, params, settings).text == "a");
  params.skip_special_tokens = false;
  CHECK(run({kThink, kA, kEndThink}, params, settings).text == "<think>a</think>");
}

TEST_CASE("logprobs: the chosen token first, then the best") {
  SamplingParams params;
  params.logprobs = 2;
  params.max_tokens = 1;
  const Output out = run({kB}, params);
  REQUIRE(out.last.logprobs.size() == 1);
  const auto& row = out.last.logprobs[0];
  REQUIRE(row.size() == 3);
  CHECK(row[0].id == kB);
  CHECK(row[0].rank == 1);
  CHECK(row[1].id == kB);
  CHECK(row[1].logprob == row[0].logprob);
  CHECK(row[2].id == kA);
  CHECK(row[2].logprob < row[1].logprob);
}

TEST_CASE("logits that are not numbers end the sequence with an error, and keep its text") {
  const VocabInfo vocab = make_vocab_info(&tokenizer(), kVocab, {});
  SamplingParams params;
  params.stop = {"bc"};
  Generation generation(vocab, std::make_shared<const SamplingParams>(params), std::vector<TokenId>{kBos}, 1, 0, {});
  std::vector<float> logits(kVocab, -10.0f);
  logits[kB] = 10;
  CHECK(generation.next(logits, 100).text == "");  // held back: "b" may become "bc"
  logits.assign(kVocab, std::numeric_limits<float>::quiet_NaN());
  const TokenEvent event = generation.next(logits, 100);
  CHECK(event.finish == FinishReason::error);
  CHECK(event.error == ErrorCode::internal);
  CHECK_FALSE(event.error_message.empty());
  CHECK(event.tokens.empty());
  CHECK(event.text == "b");
}

TEST_CASE("a mask decides what may come, and may end the sequence") {
  const VocabInfo vocab = make_vocab_info(&tokenizer(), kVocab, {});
  const auto only_c_twice = [](std::span<const int32_t> generated, std::span<uint32_t> mask) {
    for (uint32_t& word : mask) word = 0;
    mask[kC / 32] |= 1u << (kC % 32);
    return generated.size() < 2;
  };
  Generation generation(vocab, std::make_shared<const SamplingParams>(), std::vector<TokenId>{kBos}, 1, 0,
                        only_c_twice);
  std::string text;
  TokenEvent event;
  for (int i = 0; i < 5 && event.finish == FinishReason::none; ++i) {
    std::vector<float> logits(kVocab, 0.0f);
    event = generation.next(logits, 100);
    text += event.text;
  }
  CHECK(text == "cc");
  CHECK(event.finish == FinishReason::stop);
  CHECK(event.tokens.empty());
}
