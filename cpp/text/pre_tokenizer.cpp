#include "text/pre_tokenizer.h"

#include <algorithm>

#include "core/error.h"

namespace imp {
namespace {

// The patterns are those that the model publishers put into tokenizer.json. Names that are known to share one
// stand in one row.
#define IMP_CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kOneDigit = R"(\p{N})";

// OpenAI's cl100k and its descendants; they differ in how many digits stay together
constexpr std::string_view kCl100k =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kSeedCoder =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBailing =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kJais2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
    R"(|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})";

// o200k and Tekken split words where case changes: upper* lower+ or upper+ lower*
#define IMP_CASED_START R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
#define IMP_CASED_OTHER R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
#define IMP_CASED_REST R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
constexpr std::string_view kTekken = IMP_CASED_START "|" IMP_CASED_OTHER R"(|\p{N})" IMP_CASED_REST;
constexpr std::string_view kO200k =
    IMP_CASED_START IMP_CONTRACTION "?|" IMP_CASED_OTHER IMP_CONTRACTION R"(?|\p{N}{1,3})" IMP_CASED_REST;

constexpr std::string_view kDeepseek3Digits = R"(\p{N}{1,3})";
constexpr std::string_view kDeepseek3Cjk = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
constexpr std::string_view kDeepseek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::string_view kDeepseekLineBreak = R"([\r\n])";
// Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee, ... letters that have case
constexpr std::string_view kDeepseekLlmLetters =
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-"
    "\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-"
    "\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-"
    "\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-"
    "\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-"
    "\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-"
    "\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-"
    "\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+";
constexpr std::string_view kDeepseekLlmPunctuation =
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+";
constexpr std::string_view kDeepseekCjk = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

constexpr std::string_view kFalconPunctuation = R"([\p{P}\$\+<=>\^~\|`]+)";
constexpr std::string_view kDefaultPunctuation = R"([\p{P}\$\+<=>\^~\|]+)";
constexpr std::string_view kThreeDigits = "[0-9][0-9][0-9]";
constexpr std::string_view kBloom = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+";

#undef IMP_CONTRACTION
#undef IMP_CASED_START
#undef IMP_CASED_OTHER
#undef IMP_CASED_REST

const PreTokenizerSpec kTable[] = {
    {.names = {"default"}, .patterns = {kDefaultPunctuation, kGpt2, R"(\p{N}+)", kThreeDigits}},
    {.names = {"mpt", "olmo"}, .patterns = {kGpt2}, .nfc = true},
    {.names = {"gpt-2", "phi-2", "jais", "trillion", "granite-docling", "gigachat", "exaone4", "a.x-4.0", "mellum",
               "modern-bert", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"},
     .patterns = {kGpt2}},
    {.names = {"smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"},
     .patterns = {kOneDigit, kGpt2}},
    {.names = {"command-r"}, .patterns = {kOneDigit, kGpt2}, .nfc = true},
    {.names = {"falcon"}, .patterns = {kFalconPunctuation, kGpt2, kThreeDigits}},
    {.names = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     .patterns = {kCl100k},
     .ignore_merges = true,
     .add_bos = true},
    {.names = {"dbrx", "smaug-bpe", "chatglm-bpe"}, .patterns = {kCl100k}},
    {.names = {"glm4", "glm5"}, .patterns = {kCl100k}, .ignore_merges = true},
    {.names = {"qwen2"}, .patterns = {kQwen2}, .nfc = true},
    {.names = {"deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2", "solar-open", "kormo"},
     .patterns = {kQwen2}},
    {.names = {"qwen35"}, .patterns = {kQwen35}, .nfc = true},
    {.names = {"gpt-4o", "llama4", "kanana2", "minimax-m2"}, .patterns = {kO200k}},
    {.names = {"tekken"}, .patterns = {kTekken}, .ignore_merges = true, .add_bos = true},
    {.names = {"deepseek-llm"},
     .patterns = {kDeepseekLineBreak, kDeepseekLlmLetters, kDeepseekLlmPunctuation, R"(\s+$)", kDeepseekCjk,
                  R"(\p{N}+)"}},
    {.names = {"deepseek-coder"},
     .patterns = {kDeepseekLineBreak, R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepseekCjk, kOneDigit}},
    {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm"}, .patterns = {kDeepseek3Digits, kDeepseek3Cjk, kDeepseek3}},
    {.names = {"bloom", "poro-chat", "gpt3-finnish"}, .patterns = {kBloom}},
    {.names = {"viking"}, .patterns = {kBloom, kOneDigit}},
    {.names = {"seed-coder"}, .patterns = {kSeedCoder}},
    {.names = {"bailingmoe", "bailingmoe2", "llada-moe"}, .patterns = {kBailing}},
    {.names = {"jais-2"}, .patterns = {kJais2}},
};

}  // namespace

std::span<const PreTokenizerSpec> pre_tokenizers() { return kTable; }

const PreTokenizerSpec* find_pre_tokenizer(std::string_view name) {
  for (const PreTokenizerSpec& spec : kTable) {
    if (std::find(spec.names.begin(), spec.names.end(), name) != spec.names.end()) return &spec;
  }
  return nullptr;
}

std::string known_pre_tokenizers() {
  std::vector<std::string_view> names;
  for (const PreTokenizerSpec& spec : kTable) names.insert(names.end(), spec.names.begin(), spec.names.end());
  std::sort(names.begin(), names.end());
  std::string joined;
  for (const std::string_view name : names) joined += (joined.empty() ? "" : ", ") + std::string(name);
  return joined;
}

PreTokenizer::PreTokenizer(const PreTokenizerSpec& spec) {
  for (const std::string_view pattern : spec.patterns) patterns_.emplace_back(pattern, classes_);
  classes_.freeze();
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  std::vector<uint32_t> bits;     // [character]
  std::vector<uint32_t> offsets;  // [character + 1], bytes
  bits.reserve(text.size());
  offsets.reserve(text.size() + 1);
  for (size_t pos = 0; pos < text.size();) {
    offsets.push_back(static_cast<uint32_t>(pos));
    const auto byte = static_cast<uint8_t>(text[pos]);
    if (byte < 0x80) {
      bits.push_back(classes_.ascii_bits(byte));
      ++pos;
      continue;
    }
    const Utf8Char c = decode_utf8(text.substr(pos));
    bits.push_back(classes_.bits(c));
    pos += c.length;
  }
  offsets.push_back(static_cast<uint32_t>(text.size()));

  std::vector<CharRange> pieces, finer;
  if (!bits.empty()) pieces.push_back({0, static_cast<uint32_t>(bits.size())});
  for (const Pattern& pattern : patterns_) {
    finer.clear();
    for (const CharRange piece : pieces) pattern.split(bits, piece, finer);
    std::swap(pieces, finer);
  }
  std::vector<std::string_view> words;
  words.reserve(pieces.size());
  for (const CharRange piece : pieces) {
    words.push_back(text.substr(offsets[piece.begin], offsets[piece.end] - offsets[piece.begin]));
  }
  return words;
}

}  // namespace imp
