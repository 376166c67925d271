#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <deque>
#include <optional>
#include <string_view>
#include <vector>

#include "text/text_index.h"
#include "text/tokenizer.h"

namespace imp {

/// A stretch of a word that is one token, or one character that may be none (id -1).
struct Symbol {
  uint32_t begin, length;  // bytes of the word; length 0: merged into its left neighbour
  TokenId id;
  int32_t prev, next;  // indices of the neighbours that are left, -1: none
};

/// What joining two neighbours would give; the lowest order goes first.
struct Merge {
  float order;
  TokenId id;
};

/// Joins neighbouring symbols, the best pair of all first (of equals the leftmost), until none can be joined.
/// `lookup(left, right)` gives the optional Merge of two symbols. Keeps its heap between calls: O(n log n).
class Merger {
 public:
  std::vector<Symbol> symbols;  // fill with add(), then run()

  void clear() { symbols.clear(); }
  void add(uint32_t begin, uint32_t length, TokenId id) {
    const auto index = static_cast<int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({begin, length, id, index - 1, -1});
  }

  template <class Lookup>
  void run(const Lookup& lookup) {
    heap_.clear();
    for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) consider(i, lookup);
    std::make_heap(heap_.begin(), heap_.end(), later);
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), later);
      const Candidate best = heap_.back();
      heap_.pop_back();
      if (join(best)) {
        push(symbols[best.left].prev, lookup);
        push(best.left, lookup);
      }
    }
  }

 private:
  struct Candidate {
    float order;
    int32_t left;
    uint32_t length;  // of the result: tells whether one of the two has been merged since
    TokenId id;
  };
  static bool later(const Candidate& a, const Candidate& b) {
    return a.order != b.order ? a.order > b.order : a.left > b.left;
  }

  template <class Lookup>
  bool consider(int32_t left, const Lookup& lookup) {
    if (left < 0 || symbols[left].next < 0) return false;
    const Symbol& a = symbols[left];
    const Symbol& b = symbols[a.next];
    const std::optional<Merge> merge = lookup(a, b);
    if (!merge) return false;
    heap_.push_back({merge->order, left, a.length + b.length, merge->id});
    return true;
  }

  template <class Lookup>
  void push(int32_t left, const Lookup& lookup) {
    if (consider(left, lookup)) std::push_heap(heap_.begin(), heap_.end(), later);
  }

  bool join(const Candidate& candidate) {
    Symbol& left = symbols[candidate.left];
    if (left.length == 0 || left.next < 0) return false;
    Symbol& right = symbols[left.next];
    if (left.length + right.length != candidate.length) return false;
    left.length = candidate.length;
    left.id = candidate.id;
    right.length = 0;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].prev = candidate.left;
    return true;
  }

  std::vector<Candidate> heap_;
};

/// Remembers where a word's tokens already stand in the output of this call, so that a word is merged once.
class WordCache {
 public:
  /// `text_bytes`: of the text to come; a short text gets a small table.
  explicit WordCache(size_t text_bytes) : slots_(std::bit_ceil(std::clamp<size_t>(text_bytes / 16, 16, 1 << 14))) {}

  /// Appends the tokens of `word` to `out`: copied from where it was seen before, or by `encode(word, out)`.
  /// The views must stay valid as long as the cache does.
  template <class Encode>
  void append(std::string_view word, std::vector<TokenId>& out, const Encode& encode) {
    if (word.size() > kLongestWord) return encode(word, out);
    Slot& slot = slots_[(hash_bytes(word) >> 32) & (slots_.size() - 1)];
    if (slot.word == word) {
      for (uint32_t i = 0; i < slot.count; ++i) {
        const TokenId id = out[slot.begin + i];
        out.push_back(id);
      }
      return;
    }
    const auto begin = static_cast<uint32_t>(out.size());
    encode(word, out);
    slot = {word, begin, static_cast<uint32_t>(out.size()) - begin};
  }

 private:
  static constexpr size_t kLongestWord = 64;
  struct Slot {
    std::string_view word;
    uint32_t begin = 0, count = 0;
  };
  std::vector<Slot> slots_;
};

/// What the stretches of text of one encode() call share.
struct EncodeScratch {
  explicit EncodeScratch(size_t text_bytes) : cache(text_bytes) {}
  Merger merger;
  WordCache cache;
  std::deque<std::string> texts;  // normalised; the cache has views of them
};

}  // namespace imp
