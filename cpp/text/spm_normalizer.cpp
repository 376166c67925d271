#include "text/spm_normalizer.h"

#include "core/error.h"
#include "formats/model_file.h"
#include "text/unicode.h"

namespace imp {
namespace {

constexpr std::string_view kCharsmapKey = "tokenizer.ggml.precompiled_charsmap";

std::string read_bytes(const ModelFile& file, std::string_view key) {
  std::string bytes;
  const MetaValue* value = file.find(key);
  if (!value) return bytes;
  if (const auto* list = std::get_if<std::vector<uint64_t>>(value)) {
    for (const uint64_t byte : *list) bytes.push_back(static_cast<char>(byte));
  } else if (const auto* list = std::get_if<std::vector<int64_t>>(value)) {
    for (const int64_t byte : *list) bytes.push_back(static_cast<char>(byte));
  } else {
    fail(ErrorCode::invalid_model, file.path(), ": ", key, ": expected a list of bytes");
  }
  return bytes;
}

uint32_t little_endian_32(std::string_view bytes) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

}  // namespace

SpmNormalizer::SpmNormalizer(const ModelFile& file, bool default_add_prefix, bool default_remove_extra)
    : add_prefix_(file.get_bool("tokenizer.ggml.add_space_prefix", default_add_prefix)),
      remove_extra_(file.get_bool("tokenizer.ggml.remove_extra_whitespaces", default_remove_extra)) {
  const std::string blob = read_bytes(file, kCharsmapKey);
  if (blob.empty()) return;
  const size_t trie_bytes = blob.size() < 4 ? 0 : little_endian_32(blob);
  if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > blob.size() - 4) {
    fail(ErrorCode::invalid_model, file.path(), ": ", kCharsmapKey, ": a trie of ", trie_bytes, " bytes in ",
         blob.size(), " bytes");
  }
  for (size_t at = 4; at < 4 + trie_bytes; at += 4)
    trie_.push_back(little_endian_32(std::string_view(blob).substr(at)));
  replacements_ = blob.substr(4 + trie_bytes);
}

/// The longest key of the table that `text` starts with. Every step is checked: the table comes from a file.
SpmNormalizer::Step SpmNormalizer::replacement(std::string_view text) const {
  const auto offset = [](uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); };
  Step best{{}, 0};
  if (trie_.empty()) return best;
  size_t node = offset(trie_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (node >= trie_.size()) break;
    const uint32_t unit = trie_[node];
    if ((unit & (1u << 31 | 0xff)) != byte) break;
    node ^= offset(unit);
    if (node >= trie_.size()) break;
    const bool ends_here = unit >> 8 & 1;
    if (!ends_here) continue;
    const size_t start = trie_[node] & ~(1u << 31);
    if (start >= replacements_.size()) break;
    const std::string_view rest = std::string_view(replacements_).substr(start);
    best = {rest.substr(0, rest.find('\0')), i + 1};
  }
  return best;
}

SpmNormalizer::Step SpmNormalizer::next(std::string_view text) const {
  const Step replaced = replacement(text);
  if (replaced.consumed > 0) return replaced;
  const size_t length = decode_utf8(text).length;
  return {text.substr(0, length), length};
}

std::string SpmNormalizer::normalize(std::string_view text, bool at_start) const {
  std::string out;
  out.reserve(text.size() + text.size() / 4 + 8);
  bool skip_spaces = remove_extra_;
  bool needs_prefix = add_prefix_ && at_start;
  for (size_t pos = 0; pos < text.size();) {
    const Step step = next(text.substr(pos));
    pos += step.consumed;
    for (const char c : step.result) {
      if (c == ' ' && skip_spaces) continue;
      if (needs_prefix) out += kSpmSpace;
      needs_prefix = false;
      if (c == ' ') {
        out += kSpmSpace;
        skip_spaces = remove_extra_;
      } else {
        out += c;
        skip_spaces = false;
      }
    }
  }
  // at the end a literal U+2581 counts as a space, as it does in SentencePiece
  while (remove_extra_ && out.ends_with(kSpmSpace)) out.resize(out.size() - kSpmSpace.size());
  return out;
}

std::string spm_unescape(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    if (text.substr(pos).starts_with(kSpmSpace)) {
      out += ' ';
      pos += kSpmSpace.size();
    } else {
      out += text[pos++];
    }
  }
  return out;
}

}  // namespace imp
