#include "sampling/sampler.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "sampling/dry.h"
#include "sampling/mirostat.h"
#include "sampling/processors.h"
#include "sampling/row.h"

namespace imp {

struct Sampler::State {
  SamplingParams params;
  SamplerVocab vocab;
  uint64_t seed;
  uint64_t sequence_index;
  TokenCounts counts;
  Mirostat mirostat;
  LogitsMask mask;
  std::optional<int32_t> forced;
  std::vector<int32_t> history;  // prompt, then what was drawn
  size_t prompt_size = 0;
  std::vector<float> workspace;     // [vocab_size]
  std::vector<float> raw;           // [vocab_size], the row as the model gave it, where logprobs are asked for
  std::vector<uint32_t> mask_bits;  // [(vocab_size + 31) / 32]

  std::span<const int32_t> generated() const { return std::span(history).subspan(prompt_size); }
  void append(int32_t id);
  bool restrict_tokens(std::span<float> logits);
  void reshape(std::span<float> logits);
  int32_t pick(std::span<const float> logits);
  int32_t draw_at_temperature(std::span<const float> logits);
  [[noreturn]] void fail_nothing_allowed() const;
  void describe(SampledToken& token) const;
};

void Sampler::State::append(int32_t id) {
  history.push_back(id);
  counts.append(history);
}

/// False where the grammar cannot go on.
bool Sampler::State::restrict_tokens(std::span<float> logits) {
  if (vocab.tokenizer_size > 0 && vocab.tokenizer_size < vocab.vocab_size) {
    const auto padding = logits.subspan(static_cast<size_t>(vocab.tokenizer_size));
    std::fill(padding.begin(), padding.end(), -std::numeric_limits<float>::infinity());
  }
  ban_tokens(logits, vocab.banned_ids);
  ban_tokens(logits, params.banned_token_ids);
  if (generated().size() < static_cast<size_t>(params.min_tokens)) {
    ban_tokens(logits, vocab.stop_ids);
    ban_tokens(logits, params.stop_token_ids);
  }
  if (!params.allowed_token_ids.empty()) ban_all_but(logits, params.allowed_token_ids);
  if (!mask) return true;
  mask_bits.assign((logits.size() + 31) / 32, ~uint32_t{0});
  if (!mask(generated(), mask_bits)) return false;
  apply_mask(logits, mask_bits);
  return true;
}

void Sampler::State::reshape(std::span<float> logits) {
  add_bias(logits, params.logit_bias);
  if (params.repetition_penalty != 1 || params.frequency_penalty != 0 || params.presence_penalty != 0) {
    apply_penalties(logits, counts, {params.repetition_penalty, params.frequency_penalty, params.presence_penalty});
  }
  apply_dry(logits, history,
            {params.dry_multiplier, params.dry_base, params.dry_allowed_length, params.dry_penalty_last_n},
            vocab.dry_breakers);
}

int32_t Sampler::State::pick(std::span<const float> logits) {
  if (params.temperature == 0) {
    if (const int32_t id = argmax(logits); id >= 0) return id;
  } else if (summarize_row(logits).max > -std::numeric_limits<float>::infinity()) {
    return draw_at_temperature(logits);
  }
  fail_nothing_allowed();
}

void Sampler::State::fail_nothing_allowed() const {
  fail(ErrorCode::invalid_argument, "no token may be drawn at position ", history.size(),
       ": allowed_token_ids, banned_token_ids, min_tokens, the model's banned control tokens and the grammar together "
       "leave "
       "none; loosen one of them");
}

int32_t Sampler::State::draw_at_temperature(std::span<const float> logits) {
  const double uniform = counter_uniform(seed, sequence_index, history.size());
  workspace.resize(logits.size());
  const Filters filters{params.top_k, params.typical_p, params.top_p, params.min_p};
  if (params.mirostat == 0 && filters.any()) {
    return draw(filtered_tokens(logits, params.temperature, filters, workspace), uniform);
  }
  const double total = softmax_weights(logits, summarize_row(logits).max, params.temperature, workspace);
  if (params.mirostat == 2) return mirostat.draw(workspace, total, uniform);
  return draw(workspace, total, uniform);
}

/// Log probabilities of the raw row: of the drawn token and of the best ones.
void Sampler::State::describe(SampledToken& token) const {
  const double normalizer = log_sum_exp(raw);
  const auto logprob = [&](int32_t id) { return static_cast<float>(raw[id] - normalizer); };
  token.logprob = logprob(token.id);
  token.rank =
      1 + static_cast<int32_t>(std::count_if(raw.begin(), raw.end(), [&](float x) { return x > raw[token.id]; }));
  token.top_ids = largest(raw, params.logprobs);
  for (int32_t id : token.top_ids) token.top_logprobs.push_back(logprob(id));
}

Sampler::Sampler(const SamplingParams& params, SamplerVocab vocab, uint64_t seed, int32_t sequence_index)
    : state_(new State{.params = params,
                       .vocab = std::move(vocab),
                       .seed = seed,
                       .sequence_index = static_cast<uint64_t>(sequence_index),
                       .counts = TokenCounts(params.penalty_last_n),
                       .mirostat = Mirostat(params.mirostat_tau, params.mirostat_eta),
                       .mask = {},
                       .forced = {},
                       .history = {},
                       .workspace = {},
                       .raw = {},
                       .mask_bits = {}}) {
  params.validate(state_->vocab.vocab_size);
}

Sampler::~Sampler() = default;
Sampler::Sampler(Sampler&&) noexcept = default;

void Sampler::accept_prompt(std::span<const int32_t> tokens) {
  for (int32_t id : tokens) {
    if (id < 0 || id >= state_->vocab.vocab_size) {
      fail(ErrorCode::invalid_argument, "the prompt has token id ", id, ": expected 0 to ",
           state_->vocab.vocab_size - 1);
    }
    state_->append(id);
  }
  state_->prompt_size += tokens.size();
}

void Sampler::set_mask(LogitsMask mask) { state_->mask = std::move(mask); }

void Sampler::force_next(int32_t id) {
  if (id < 0 || id >= state_->vocab.vocab_size) {
    fail(ErrorCode::internal, "forced token id ", id, " is outside the vocabulary of ", state_->vocab.vocab_size);
  }
  state_->forced = id;
}

SampledToken Sampler::sample(std::span<float> logits) {
  State& state = *state_;
  if (logits.size() != static_cast<size_t>(state.vocab.vocab_size)) {
    fail(ErrorCode::internal, "a row of ", logits.size(), " logits for a vocabulary of ", state.vocab.vocab_size);
  }
  check_row(logits, static_cast<int64_t>(state.history.size()));
  if (state.params.logprobs >= 0) state.raw.assign(logits.begin(), logits.end());
  SampledToken token;
  if (state.forced) {
    token.id = *state.forced;
    state.forced.reset();
  } else {
    if (!state.restrict_tokens(logits)) return token;
    state.reshape(logits);
    token.id = state.pick(logits);
  }
  if (state.params.logprobs >= 0) state.describe(token);
  state.append(token.id);
  return token;
}

SampledToken Sampler::accept(SampledToken drawn, const RowDamage& damage) {
  State& state = *state_;
  check_damage(damage, state.vocab.vocab_size, static_cast<int64_t>(state.history.size()));
  if (drawn.id < 0) state.fail_nothing_allowed();
  state.append(drawn.id);
  return drawn;
}

std::string_view parameter_for_host(const SamplingParams& params, int32_t max_top_k) {
  if (params.dry_multiplier != 0) return "dry_multiplier";
  if (params.temperature == 0) return "";  // the rest shapes a distribution that is not drawn from
  if (params.mirostat != 0) return "mirostat";
  if (params.typical_p != 1) return "typical_p";
  if (params.top_k > max_top_k) return "top_k";
  return "";
}

const std::unordered_map<int32_t, int32_t>& Sampler::counts() const { return state_->counts.counts(); }

int32_t Sampler::num_generated() const { return static_cast<int32_t>(state_->generated().size()); }

}  // namespace imp
