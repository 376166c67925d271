#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "engine/generation.h"
#include "engine/load.h"
#include "sched/request.h"

namespace imp {

/// What the backend holds of sequences whose draws depend on more than a few numbers: masks of allowed tokens, counts
/// of the tokens in the window of the penalties, biases. A slot is filled before a sequence's first draw; from then on
/// the backend adds each token it draws to the counts, and the engine says which one leaves the window.
class DrawStates {
 public:
  /// Takes memory for as many sequences as can run at once, where tokens are drawn by the backend.
  DrawStates(LoadedModel& model, const VocabInfo& vocab, bool on_device);

  /// Completes `row` for the next draw of a sequence whose tokens are `tokens`; the last may be one that the host does
  /// not know yet.
  void prepare(SequenceId id, const Generation& generation, std::span<const int32_t> tokens, SampleRow& row);
  /// The slot may go to another sequence: steps under way are done before it is written.
  void release(SequenceId id);
  void clear();

  const uint32_t* allowed() const { return allowed_; }
  int32_t* counts() const { return counts_; }
  const float* bias() const { return bias_; }
  static uint64_t bytes(int32_t max_batch_size, int32_t vocab_size);

 private:
  void fill(int32_t slot, const Generation& generation);

  Backend& backend_;
  size_t vocab_size_, mask_words_;
  std::vector<uint32_t> drawable_;  // what any request may draw
  uint32_t* allowed_ = nullptr;  // [1 + 2 slots, mask_words]: drawable_, then of each slot: before min_tokens and after
  int32_t* counts_ = nullptr;    // [slots, vocab_size]
  float* bias_ = nullptr;        // [slots, vocab_size]
  std::map<SequenceId, int32_t> slots_;
  std::vector<int32_t> free_;
};

}  // namespace imp
