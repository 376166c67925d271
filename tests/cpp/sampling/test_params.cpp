#include <doctest/doctest.h>

#include <functional>
#include <limits>

#include "core/error.h"
#include "sampling/params.h"

using namespace imp;

namespace {

std::string refusal(const std::function<void(SamplingParams&)>& change) {
  SamplingParams params;
  change(params);
  try {
    params.validate(100);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    return error.what();
  }
  return "";
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("defaults are allowed") { SamplingParams().validate(100); }

TEST_CASE("numbers out of range are named with value and range") {
  struct Field {
    const char* name;
    float SamplingParams::* member;
    std::vector<float> good, bad;
  };
  const std::vector<Field> fields = {
      {"temperature", &SamplingParams::temperature, {0, 1e-30f, 1, 100}, {-0.1f, kNan, kInf, -kInf}},
      {"top_p", &SamplingParams::top_p, {1e-6f, 1}, {0, -1, 1.01f, kNan, kInf}},
      {"min_p", &SamplingParams::min_p, {0, 0.99f}, {1, -0.1f, kNan, kInf}},
      {"typical_p", &SamplingParams::typical_p, {0.1f, 1}, {0, 1.5f, kNan, kInf}},
      {"repetition_penalty", &SamplingParams::repetition_penalty, {0.5f, 2}, {0, -1, kNan, kInf}},
      {"frequency_penalty", &SamplingParams::frequency_penalty, {-2, 0, 2}, {-2.1f, 2.1f, kNan, kInf}},
      {"presence_penalty", &SamplingParams::presence_penalty, {-2, 0, 2}, {-2.1f, 2.1f, kNan, kInf}},
      {"dry_multiplier", &SamplingParams::dry_multiplier, {0, 5}, {-1, kNan, kInf}},
      {"dry_base", &SamplingParams::dry_base, {1, 4}, {0.9f, kNan, kInf}},
      {"mirostat_tau", &SamplingParams::mirostat_tau, {0.1f, 20}, {0, -1, kNan, kInf}},
      {"mirostat_eta", &SamplingParams::mirostat_eta, {0.1f, 1}, {0, -1, kNan, kInf}},
  };
  for (const Field& field : fields) {
    CAPTURE(field.name);
    for (float value : field.good) CHECK(refusal([&](SamplingParams& p) { p.*field.member = value; }) == "");
    for (float value : field.bad) {
      CAPTURE(value);
      CHECK(refusal([&](SamplingParams& p) {
              p.*field.member = value;
            }).starts_with(cat("sampling parameter ", field.name, " = ", value, ": expected ")));
    }
  }
}

TEST_CASE("integers out of range are named") {
  struct Field {
    const char* name;
    int32_t SamplingParams::* member;
    std::vector<int32_t> good, bad;
  };
  const std::vector<Field> fields = {
      {"top_k", &SamplingParams::top_k, {0, 1, 1000000}, {-1}},
      {"penalty_last_n", &SamplingParams::penalty_last_n, {-1, 0, 64}, {-2}},
      {"dry_allowed_length", &SamplingParams::dry_allowed_length, {1, 9}, {0, -1}},
      {"dry_penalty_last_n", &SamplingParams::dry_penalty_last_n, {-1, 0, 9}, {-2}},
      {"mirostat", &SamplingParams::mirostat, {0, 2}, {1, 3, -1}},
      {"max_tokens", &SamplingParams::max_tokens, {-1, 1}, {0, -2}},
      {"min_tokens", &SamplingParams::min_tokens, {0, 5}, {-1}},
      {"n", &SamplingParams::n, {1, 4, 256}, {0, -1, 257, 2147483647}},
      {"logprobs", &SamplingParams::logprobs, {-1, 0, 20}, {-2, 21}},
      {"prompt_logprobs", &SamplingParams::prompt_logprobs, {-1, 0, 20}, {-2, 21}},
  };
  for (const Field& field : fields) {
    CAPTURE(field.name);
    for (int32_t value : field.good) CHECK(refusal([&](SamplingParams& p) { p.*field.member = value; }) == "");
    for (int32_t value : field.bad) {
      CHECK(refusal([&](SamplingParams& p) {
              p.*field.member = value;
            }).starts_with(cat("sampling parameter ", field.name, " = ", value, ": expected ")));
    }
  }
  CHECK(refusal([](SamplingParams& p) { p.max_tokens = 3, p.min_tokens = 4; }) ==
        "sampling parameter min_tokens = 4: expected at most max_tokens, 3");
}

TEST_CASE("token ids are checked against the vocabulary") {
  CHECK(refusal([](SamplingParams& p) { p.allowed_token_ids = {0, 99}; }) == "");
  CHECK(refusal([](SamplingParams& p) { p.allowed_token_ids = {0, 100}; }) ==
        "sampling parameter allowed_token_ids has token id 100: expected 0 to 99");
  CHECK(refusal([](SamplingParams& p) { p.banned_token_ids = {-1}; }).find("banned_token_ids has token id -1") !=
        std::string::npos);
  CHECK(refusal([](SamplingParams& p) { p.stop_token_ids = {100}; }).find("stop_token_ids") != std::string::npos);
  CHECK(refusal([](SamplingParams& p) { p.logit_bias[100] = 1; }).find("logit_bias has token id 100") !=
        std::string::npos);
  CHECK(refusal([](SamplingParams& p) { p.logit_bias[5] = -100; }) == "");
  for (float bad : {kNan, kInf, -kInf, 10001.0f}) {
    CHECK(refusal([&](SamplingParams& p) { p.logit_bias[5] = bad; }).find("logit_bias[5] = ") != std::string::npos);
  }
}

TEST_CASE("empty strings are refused") {
  CHECK(refusal([](SamplingParams& p) { p.stop = {"x", ""}; }).find("stop = \"\"") != std::string::npos);
  CHECK(refusal([](SamplingParams& p) { p.dry_sequence_breakers = {""}; }).find("dry_sequence_breakers") !=
        std::string::npos);
}
