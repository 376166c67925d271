#pragma once
#include <array>
#include <string_view>

#include "text/flat_map.h"
#include "text/tokenizer.h"

namespace imp {

/// A set of byte strings, each with a token id, to be walked along a text.
class ByteTrie {
 public:
  static constexpr uint32_t kRoot = 0;
  static constexpr uint32_t kNone = ~0u;

  void insert(std::string_view key, TokenId id) {
    uint32_t node = kRoot;
    for (const char c : key) {
      const uint64_t edge = edge_key(node, c);
      if (edges_.insert(edge, static_cast<uint32_t>(ids_.size()))) ids_.push_back(-1);
      node = *edges_.find(edge);
    }
    ids_[node] = id;
    if (!key.empty()) starts_[static_cast<uint8_t>(key[0])] = true;
  }

  /// The child of `node` for byte `c`, or kNone.
  uint32_t step(uint32_t node, char c) const {
    const uint32_t* child = edges_.find(edge_key(node, c));
    return child ? *child : kNone;
  }
  TokenId id(uint32_t node) const { return ids_[node]; }  // -1: no string ends here
  bool can_start(char c) const { return starts_[static_cast<uint8_t>(c)]; }

  struct Match {
    TokenId id = -1;
    size_t length = 0;
  };
  /// The longest string of the set that `text` starts with; id -1 where there is none.
  Match longest(std::string_view text) const {
    Match best;
    uint32_t node = kRoot;
    for (size_t i = 0; i < text.size(); ++i) {
      node = step(node, text[i]);
      if (node == kNone) break;
      if (ids_[node] >= 0) best = {ids_[node], i + 1};
    }
    return best;
  }

 private:
  static uint64_t edge_key(uint32_t node, char c) { return uint64_t{node} << 8 | static_cast<uint8_t>(c); }

  FlatMap<uint32_t> edges_;
  std::vector<TokenId> ids_ = {-1};  // [node]
  std::array<bool, 256> starts_{};
};

}  // namespace imp
