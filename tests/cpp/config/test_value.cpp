#include <doctest/doctest.h>

#include "config/value.h"
#include "core/error.h"

using namespace imp;

namespace {

/// The row with its mechanism there, so that limits show for pending keys too.
OptionRow active(std::string_view key) {
  OptionRow row = *find_option(key);
  row.status = OptionStatus::active;
  return row;
}

OptionValue value_of(std::string_view key, std::string_view text) { return coerce(active(key), text, "test").value; }
std::string text_of(std::string_view key, std::string_view text) { return std::get<std::string>(value_of(key, text)); }

std::string refusal(const OptionRow& row, std::string_view text) {
  try {
    coerce(row, text, "imp.conf:7");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("booleans take eight words in any case") {
  for (const char* text : {"true", "1", "yes", "on", "TRUE", "Yes", "oN"})
    CHECK(value_of("runtime.warmup", text) == OptionValue(true));
  for (const char* text : {"false", "0", "no", "off", "False"})
    CHECK(value_of("runtime.warmup", text) == OptionValue(false));
}

TEST_CASE("values that no key of a type takes") {
  for (const OptionRow& row : option_rows()) {
    CAPTURE(row.key);
    std::vector<std::string> bad;
    switch (row.limits.type) {
      case OptionType::boolean: bad = {"", "2", "truee", "t", "true ", " true", "1.0", "-1", "auto", "null"}; break;
      case OptionType::integer:
        bad = {"",
               "16k",
               "0x10",
               "1.0",
               "1e3",
               "+5",
               " 5",
               "5 ",
               "five",
               "true",
               "--5",
               "-",
               "_1",
               "1_",
               "1__0",
               "-_1",
               "9223372036854775808",
               "99999999999999999999999",
               "nan",
               "-2",
               "\xd9\xa3"};
        if (row.limits.clamp_below) std::erase(bad, "-2");
        if (row.limits.zero_is_off) bad.push_back("-2");
        break;
      case OptionType::number:
        bad = {"",      "nan",  "NaN", "inf", "-inf", "infinity", "1e400",
               "0x1p3", "0.1f", "1,5", ".",   "-0.5", "-1e-300",  "1_0.0"};
        break;
      case OptionType::choice: bad = {"2", "automatic", "FP16", "maybe", "auto|on", "|", " auto"}; break;
      case OptionType::path: bad = {std::string("a\0b", 3), "\xff", "ab\xc3", "\xed\xa0\x80", "\xc0\xaf"}; break;
    }
    const bool takes_empty = row.limits.type == OptionType::path || row.key == "gdn.layout_override";
    if (!takes_empty) bad.push_back("");
    for (const std::string& text : bad) {
      CAPTURE(text);
      const std::string message = refusal(row, text);
      CHECK(message.starts_with(cat("imp.conf:7: ", row.key, " = ")));
      CHECK(message.find(allowed_text(row)) != std::string::npos);
    }
  }
}

TEST_CASE("bounds refuse or clamp as the table says") {
  for (const OptionRow& pending_row : option_rows()) {
    const OptionLimits& limits = pending_row.limits;
    if (limits.type != OptionType::integer || !limits.choices.empty()) continue;
    const OptionRow row = active(pending_row.key);
    CAPTURE(row.key);
    CHECK(coerce(row, cat(limits.min), "").value == OptionValue(limits.min));
    CHECK(coerce(row, cat(limits.max), "").value == OptionValue(limits.max));
    const std::string above = cat(limits.max + 1), below = cat(limits.min - 1);
    if (limits.clamp_above) {
      const CoercedValue clamped = coerce(row, above, "imp.conf:7");
      CHECK(clamped.value == OptionValue(limits.max));
      CHECK(clamped.warning.starts_with(cat("imp.conf:7: ", row.key, ": ", above, " is above")));
    } else {
      CHECK(refusal(row, above) != "");
    }
    if (limits.clamp_below) {
      CHECK(coerce(row, below, "").value == OptionValue(limits.min));
    } else {
      CHECK(refusal(row, below) != "");
    }
  }
  CHECK(value_of("kv_cache.bitdecoding_residual_tokens", "0") == OptionValue(int64_t{0}));
  CHECK(value_of("kv_cache.bitdecoding_residual_tokens", "1") == OptionValue(int64_t{4}));
  CHECK(refusal(active("kv_cache.bitdecoding_residual_tokens"), "-1") != "");
  CHECK(refusal(active("moe.mr_nr"), "12").find("4, 8, 16 or 32") != std::string::npos);
  CHECK(value_of("moe.mr_nr", "32") == OptionValue(int64_t{32}));
  CHECK(refusal(active("gdn.norm_eps_override"), "1.0") != "");
  CHECK(value_of("gdn.norm_eps_override", "0.999") == OptionValue(0.999));
}

TEST_CASE("integers and floats are whole tokens") {
  CHECK(value_of("runtime.max_seq_len", "16_384") == OptionValue(int64_t{16384}));
  CHECK(value_of("runtime.max_seq_len", "1_0_0") == OptionValue(int64_t{100}));
  CHECK(value_of("diagnostics.exit_layer", "-1") == OptionValue(int64_t{-1}));
  CHECK(value_of("ffn.sparsity_threshold", "1e-2") == OptionValue(0.01));
  CHECK(value_of("ffn.sparsity_threshold", "2") == OptionValue(2.0));
  CHECK(format_value(value_of("ffn.sparsity_threshold", "-0.0")) == "0.0");
}

TEST_CASE("an integer that is too large is told the largest; others are not bothered with it") {
  const OptionRow row = active("runtime.max_seq_len");
  for (const char* text : {"2147483648", "9223372036854775808", "100_000_000_000"})
    CHECK(refusal(row, text).find("expected an integer >= 0, at most 2147483647 (default 0)") != std::string::npos);
  for (const char* text : {"-1", "1e3", "many"})
    CHECK(refusal(row, text).find("expected an integer >= 0 (default 0)") != std::string::npos);
  CHECK(value_of("runtime.max_seq_len", "2147483647") == OptionValue(int64_t{2147483647}));
}

TEST_CASE("tri-states share their words and keep each key's own") {
  struct Case {
    const char* key;
    const char* on;
    const char* off;
    const char* automatic;
  };
  for (const Case& is :
       {Case{"attention.fp8_prefill", "always", "never", "auto"}, Case{"attention.fp8_fmha", "on", "never", "never"},
        Case{"attention.fmha_fa2", "on", "never", "auto"}, Case{"gemm.cublas_fp16_acc", "on", "off", "auto"}}) {
    CAPTURE(is.key);
    for (const char* text : {"on", "always", "true", "1", "YES"}) CHECK(text_of(is.key, text) == is.on);
    for (const char* text : {"off", "never", "false", "0", "No"}) CHECK(text_of(is.key, text) == is.off);
    CHECK(text_of(is.key, "auto") == is.automatic);
  }
  // A plain enum has no such words.
  CHECK(refusal(active("runtime.cuda_graphs"), "on") != "");
  CHECK(text_of("runtime.cuda_graphs", "never") == "never");
  CHECK(text_of("gdn.layout_override", "") == "");
}

TEST_CASE("a pending key takes its default in every spelling and nothing else") {
  for (const OptionRow& row : option_rows()) {
    if (row.status != OptionStatus::pending || row.limits.type != OptionType::boolean) continue;
    CAPTURE(row.key);
    const bool is = std::get<bool>(default_value(row));
    CHECK(coerce(row, is ? "yes" : "no", "").value == OptionValue(is));
    const std::string message = refusal(row, is ? "off" : "on");
    CHECK(message == cat("imp.conf:7: ", row.key, " = ", !is,
                         " is not implemented yet: this version only accepts the default, ", is,
                         "; remove the setting or give it that value"));
  }
  const OptionRow& tri_state = *find_option("attention.fp8_fmha");
  REQUIRE(tri_state.status == OptionStatus::pending);
  for (const char* text : {"never", "off", "false", "auto"})
    CHECK(coerce(tri_state, text, "").value == OptionValue(std::string("never")));
  CHECK(refusal(tri_state, "on").find("not implemented yet") != std::string::npos);
}

TEST_CASE("format_value writes what a file reads") {
  CHECK(format_value(OptionValue(std::string("a\\b\"c\nd\te'#"))) == R"("a\\b\"c\nd\te'#")");
  CHECK(format_value(OptionValue(0.1)) == "0.1");
  CHECK(format_value(OptionValue(1e-20)) == "1e-20");
  CHECK(format_value(OptionValue(3.0)) == "3.0");
  CHECK(format_value(OptionValue(int64_t{-7})) == "-7");
}

TEST_CASE("quoted keeps text readable and valid UTF-8") {
  CHECK(quoted_text("plain \xc3\xa4") == "\"plain \xc3\xa4\"");
  CHECK(quoted_text(std::string_view("a\0\n\xff", 4)) == R"("a\x00\x0a\xff")");
  const std::string longer(200, 'x');
  CHECK(quoted_text(longer) == cat("\"", longer.substr(0, 80), "...\""));
}

TEST_CASE("suggestions are within two edits") {
  const auto suggest = [](std::string_view word) {
    Suggestion suggestion(word);
    for (std::string_view candidate : {"warmup", "max_seq_len", "k"}) suggestion.offer(candidate);
    return suggestion.text();
  };
  CHECK(suggest("warmpu") == " (did you mean warmup?)");
  CHECK(suggest("max_seqlen") == " (did you mean max_seq_len?)");
  CHECK(suggest("maximum") == "");
  CHECK(suggest(std::string(100000, 'w')) == "");
}
