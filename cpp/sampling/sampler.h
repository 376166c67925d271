#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sampling/params.h"
#include "sampling/row.h"

namespace imp {

/// Clears the bits of the tokens that may not come next. `mask` has (vocab_size + 31) / 32 words, all set at first;
/// `generated` are the sequence's own tokens so far. False: the grammar cannot go on, which ends the sequence.
using LogitsMask = std::function<bool(std::span<const int32_t> generated, std::span<uint32_t> mask)>;

/// What the sampler needs of the model's vocabulary.
struct SamplerVocab {
  int32_t vocab_size = 0;             // columns of the logits
  int32_t tokenizer_size = 0;         // ids at and above it are padding rows and are never drawn; 0: there are none
  std::vector<int32_t> stop_ids{};    // banned until min_tokens
  std::vector<int32_t> banned_ids{};  // control tokens the model must not write (generation.no_ban lifts it)
  std::vector<std::vector<int32_t>> dry_breakers{};  // params.dry_sequence_breakers, tokenized
};

struct SampledToken {
  int32_t id = -1;
  float logprob = 0;             // with params.logprobs >= 0: of the raw distribution (log softmax of the logits)
  std::vector<int32_t> top_ids;  // with params.logprobs > 0: the best of the raw distribution
  std::vector<float> top_logprobs;
  int32_t rank = 0;  // with params.logprobs >= 0: 1 is the most likely
};

/// The parameter that lets only Sampler draw the tokens of such a request, or "" where a backend's sample() can.
std::string_view parameter_for_host(const SamplingParams& params, int32_t max_top_k);

/// Draws the tokens of one sequence. Holds what sampling depends on: the token history and mirostat's state.
/// The random number for position p depends on (seed, sequence index, p) alone, so neighbours in a batch,
/// preemption and replay change nothing.
class Sampler {
 public:
  Sampler(const SamplingParams& params, SamplerVocab vocab, uint64_t seed, int32_t sequence_index);
  ~Sampler();
  Sampler(Sampler&&) noexcept;

  /// History before generation: the prompt. Penalties look at it.
  void accept_prompt(std::span<const int32_t> tokens);
  void set_mask(LogitsMask mask);
  /// The next draw must be this id (a forced token: thinking budget); logprobs are still reported.
  void force_next(int32_t id);

  /// `logits` [vocab_size] is overwritten. Errors: a row with no finite value or with NaN is an `internal` error naming
  /// position and counts, an empty allowed set an `invalid_argument` error. The drawn token joins the history. An id
  /// of -1 says that the mask ended the sequence. The order of the steps stands in processors.h.
  SampledToken sample(std::span<float> logits);

  /// Takes what somebody else drew from the row by the same rules, and the same errors: `damage` is of the row, an id
  /// of -1 says that no token was allowed.
  SampledToken accept(SampledToken drawn, const RowDamage& damage);

  int32_t num_generated() const;
  /// How often each token occurs in the window of the penalties.
  const std::unordered_map<int32_t, int32_t>& counts() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Philox 4x32-10 (Salmon et al. 2011): a uniform double in [0, 1) for a counter, no state.
double counter_uniform(uint64_t seed, uint64_t stream, uint64_t position);

}  // namespace imp
