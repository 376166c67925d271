#include "engine/draw_states.h"

#include <cassert>

namespace imp {

DrawStates::DrawStates(LoadedModel& model, const VocabInfo& vocab, bool on_device)
    : backend_(*model.backend),
      vocab_size_(static_cast<size_t>(model.spec.vocab_size)),
      mask_words_((vocab_size_ + 31) / 32),
      drawable_(drawable_tokens(vocab)) {
  if (!on_device) return;
  const auto slots = static_cast<size_t>(model.memory.max_batch_size);
  const auto allocate = [&](size_t count) { return backend_.allocate(count * 4, MemoryTag::other); };
  allowed_ = static_cast<uint32_t*>(allocate((1 + 2 * slots) * mask_words_));
  counts_ = static_cast<int32_t*>(allocate(slots * vocab_size_));
  bias_ = static_cast<float*>(allocate(slots * vocab_size_));
  backend_.upload(allowed_, drawable_.data(), mask_words_ * sizeof(uint32_t));
  for (int32_t slot = 0; slot < model.memory.max_batch_size; ++slot) free_.push_back(slot);
}

uint64_t DrawStates::bytes(int32_t max_batch_size, int32_t vocab_size) {
  const uint64_t slots = static_cast<uint64_t>(max_batch_size), words = (static_cast<uint64_t>(vocab_size) + 31) / 32;
  return 4 * ((1 + 2 * slots) * words + 2 * slots * static_cast<uint64_t>(vocab_size));
}

void DrawStates::clear() {
  for (const auto& [id, slot] : slots_) free_.push_back(slot);
  slots_.clear();
}

void DrawStates::release(SequenceId id) {
  const auto found = slots_.find(id);
  if (found == slots_.end()) return;
  free_.push_back(found->second);
  slots_.erase(found);
}

void DrawStates::prepare(SequenceId id, const Generation& generation, std::span<const int32_t> tokens, SampleRow& row) {
  generation.describe_draw(static_cast<int64_t>(tokens.size()), row);
  const DrawNeeds needs = generation.draw_needs();
  if (!needs.mask && !needs.counts && !needs.bias) return;
  const auto known = slots_.find(id);
  int32_t slot = 0;
  if (known == slots_.end()) {
    assert(!free_.empty());
    slot = free_.back();
    free_.pop_back();
    slots_[id] = slot;
    fill(slot, generation);
  } else {
    slot = known->second;
    const int64_t leaving = static_cast<int64_t>(tokens.size()) - 1 - needs.window;
    if (needs.counts && needs.window > 0 && leaving >= 0) row.leaves = tokens[static_cast<size_t>(leaving)];
  }
  if (needs.counts) row.counts = slot;
  if (needs.bias) row.bias = slot;
  if (needs.mask) row.mask = 1 + 2 * slot + (generation.stops_banned_at(static_cast<int64_t>(tokens.size())) ? 0 : 1);
}

void DrawStates::fill(int32_t slot, const Generation& generation) {
  const DrawNeeds needs = generation.draw_needs();
  const auto at = static_cast<size_t>(slot);
  if (needs.mask) {
    for (const bool stops_banned : {true, false}) {
      const std::vector<uint32_t> bits = generation.allowed_tokens(drawable_, stops_banned);
      backend_.upload(allowed_ + (1 + 2 * at + (stops_banned ? 0 : 1)) * mask_words_, bits.data(), mask_words_ * 4);
    }
  }
  if (needs.counts) {
    std::vector<int32_t> counts(vocab_size_, 0);
    for (const auto& [token, count] : generation.counts()) counts[static_cast<size_t>(token)] = count;
    backend_.upload(counts_ + at * vocab_size_, counts.data(), vocab_size_ * 4);
  }
  if (needs.bias) {
    std::vector<float> bias(vocab_size_, 0);
    for (const auto& [token, amount] : generation.bias()) bias[static_cast<size_t>(token)] = amount;
    backend_.upload(bias_ + at * vocab_size_, bias.data(), vocab_size_ * 4);
  }
}

}  // namespace imp
