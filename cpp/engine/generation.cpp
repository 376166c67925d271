#include "engine/generation.h"

#include <algorithm>
#include <array>

namespace imp {
namespace {

/// Control tokens that the protocols of chat templates write: thinking, tool calls, channels.
bool is_protocol_token(std::string_view text) {
  constexpr std::array<std::string_view, 8> kWords = {"think",   "tool", "channel",    "message",
                                                      "|start|", "call", "python_tag", "constrain"};
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return std::ranges::any_of(kWords, [&](std::string_view word) { return lower.find(word) != std::string::npos; });
}

/// Pieces join to text only in the context of the token before: the first generated one must keep its space.
void prime(IncrementalDecoder& decoder, std::span<const TokenId> prompt) {
  constexpr size_t kEnough = 4;  // tokens; no UTF-8 sequence is longer
  for (TokenId id : prompt.last(std::min(prompt.size(), kEnough))) decoder.push(id);
}

}  // namespace

VocabInfo make_vocab_info(const Tokenizer* tokenizer, int32_t vocab_size, const Settings& settings) {
  VocabInfo vocab{.tokenizer = tokenizer, .vocab_size = vocab_size, .banned = {}, .think = {}, .think_budget = 0};
  if (!tokenizer) return vocab;
  vocab.think_budget = settings.generation.think_budget;
  vocab.think = find_think_markers(*tokenizer);
  if (settings.generation.no_ban) return vocab;
  for (TokenId id = 0; id < tokenizer->size(); ++id) {
    if (tokenizer->type(id) != TokenType::control || tokenizer->is_stop(id)) continue;
    if (!is_protocol_token(tokenizer->token_text(id))) vocab.banned.push_back(id);
  }
  return vocab;
}

std::vector<uint32_t> drawable_tokens(const VocabInfo& vocab) {
  const int32_t known = vocab.tokenizer && vocab.tokenizer->size() > 0 ? vocab.tokenizer->size() : vocab.vocab_size;
  std::vector<uint32_t> bits(static_cast<size_t>(vocab.vocab_size + 31) / 32, ~uint32_t{0});
  const auto clear = [&](TokenId id) {
    if (id < vocab.vocab_size) bits[static_cast<size_t>(id) / 32] &= ~(uint32_t{1} << (id % 32));
  };
  for (TokenId id = known; id < vocab.vocab_size; ++id) clear(id);
  for (TokenId id : vocab.banned) clear(id);
  return bits;
}

SamplerVocab make_sampler_vocab(const VocabInfo& vocab, const SamplingParams& params) {
  SamplerVocab sampler;
  sampler.vocab_size = vocab.vocab_size;
  sampler.tokenizer_size = vocab.tokenizer ? vocab.tokenizer->size() : vocab.vocab_size;
  sampler.banned_ids = vocab.banned;
  sampler.stop_ids = params.stop_token_ids;
  if (!vocab.tokenizer) return sampler;
  const std::vector<TokenId>& stop = vocab.tokenizer->special().stop;
  if (!params.ignore_eos) sampler.stop_ids.insert(sampler.stop_ids.end(), stop.begin(), stop.end());
  if (params.dry_multiplier > 0) {
    for (const std::string& breaker : params.dry_sequence_breakers)
      sampler.dry_breakers.push_back(vocab.tokenizer->encode(breaker, {.add_special = false, .parse_special = false}));
  }
  return sampler;
}

Generation::Generation(const VocabInfo& vocab, std::shared_ptr<const SamplingParams> params,
                       std::span<const TokenId> prompt, uint64_t seed, int32_t index, LogitsMask mask)
    : vocab_(&vocab),
      params_(std::move(params)),
      sampler_(*params_, make_sampler_vocab(vocab, *params_), seed, index),
      stops_(params_->stop),
      seed_(seed),
      index_(index),
      prompt_size_(static_cast<int64_t>(prompt.size())) {
  if (vocab.tokenizer) {
    decoder_.emplace(*vocab.tokenizer, !params_->skip_special_tokens);
    prime(*decoder_, prompt);
  }
  const int64_t think_budget = params_->think_budget >= 0 ? params_->think_budget : vocab.think_budget;
  if (vocab.think && think_budget > 0) think_.emplace(*vocab.think, think_budget, prompt);
  sampler_.accept_prompt(prompt);
  host_reason_ = mask ? "mask" : think_ ? "think_budget" : parameter_for_host(*params_, kMaxSampleTopK);
  if (mask) sampler_.set_mask(std::move(mask));
}

TokenEvent Generation::next(std::span<float> logits, int64_t room) {
  const auto draw = [&] {
    if (think_) {
      if (const auto forced = think_->forced()) sampler_.force_next(*forced);
    }
    return sampler_.sample(logits);
  };
  return next(draw, room);
}

TokenEvent Generation::next(const SampleResult& drawn, int64_t room) {
  const auto draw = [&] {
    SampledToken token;
    token.id = drawn.id;
    token.logprob = drawn.logprob;
    token.rank = drawn.rank;
    token.top_ids.assign(drawn.top_ids, drawn.top_ids + drawn.num_top);
    token.top_logprobs.assign(drawn.top_logprobs, drawn.top_logprobs + drawn.num_top);
    return sampler_.accept(std::move(token), {drawn.num_nan, drawn.num_inf, drawn.num_neg_inf});
  };
  return next(draw, room);
}

void Generation::describe_draw(int64_t position, SampleRow& row) const {
  const SamplingParams& p = *params_;
  row.temperature = p.temperature;
  row.top_k = p.top_k < vocab_->vocab_size ? p.top_k : 0;
  row.top_p = p.top_p;
  row.min_p = p.min_p;
  row.repetition_penalty = p.repetition_penalty;
  row.frequency_penalty = p.frequency_penalty;
  row.presence_penalty = p.presence_penalty;
  row.seed_low = static_cast<uint32_t>(seed_);
  row.seed_high = static_cast<uint32_t>(seed_ >> 32);
  row.stream = static_cast<uint32_t>(index_);
  row.position = static_cast<uint32_t>(position);
  row.logprobs = p.logprobs;
}

DrawNeeds Generation::draw_needs() const {
  const SamplingParams& p = *params_;
  const bool penalties = p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
  return {.mask = p.min_tokens > 0 || !p.banned_token_ids.empty() || !p.allowed_token_ids.empty(),
          .counts = penalties && p.penalty_last_n != 0,
          .bias = !p.logit_bias.empty(),
          .window = p.penalty_last_n};
}

std::vector<uint32_t> Generation::allowed_tokens(const std::vector<uint32_t>& drawable, bool stops_banned) const {
  std::vector<uint32_t> bits = drawable;
  const auto ban = [&](const std::vector<int32_t>& ids) {
    for (int32_t id : ids)
      if (id >= 0 && id < vocab_->vocab_size) bits[static_cast<size_t>(id) / 32] &= ~(uint32_t{1} << (id % 32));
  };
  ban(params_->banned_token_ids);
  if (stops_banned) ban(make_sampler_vocab(*vocab_, *params_).stop_ids);
  if (params_->allowed_token_ids.empty()) return bits;
  std::vector<uint32_t> only(bits.size(), 0);
  for (int32_t id : params_->allowed_token_ids) only[static_cast<size_t>(id) / 32] |= uint32_t{1} << (id % 32);
  for (size_t word = 0; word < bits.size(); ++word) bits[word] &= only[word];
  return bits;
}

TokenEvent Generation::next(const std::function<SampledToken()>& draw, int64_t room) {
  try {
    return accept(draw(), room);
  } catch (const Error& error) {  // this sequence only; its neighbours go on
    TokenEvent event;
    event.finish = FinishReason::error;
    event.error = error.code();
    event.error_message = error.what();
    flush_text(event);
    return event;
  }
}

TokenEvent Generation::accept(const SampledToken& sampled, int64_t room) {
  TokenEvent event;
  if (sampled.id < 0) {  // the mask said that nothing can follow
    event.finish = FinishReason::stop;
    flush_text(event);
    return event;
  }
  event.tokens.push_back(sampled.id);
  ++num_generated_;
  if (think_) think_->accept(sampled.id);
  if (params_->logprobs >= 0) {
    std::vector<TokenLogprob> row = {{sampled.id, sampled.logprob, sampled.rank}};
    for (size_t i = 0; i < sampled.top_ids.size(); ++i)
      row.push_back({sampled.top_ids[i], sampled.top_logprobs[i], static_cast<int32_t>(i) + 1});
    event.logprobs.push_back(std::move(row));
  }

  if (ends_with(sampled.id, event)) {
    event.finish = FinishReason::stop;
    flush_text(event);
    return event;
  }
  if (decoder_ && add_text(decoder_->push(sampled.id), event)) return event;
  const bool at_limit = params_->max_tokens >= 0 && num_generated_ >= params_->max_tokens;
  if (at_limit || room <= 1) {
    event.finish = FinishReason::length;
    flush_text(event);
  }
  return event;
}

/// Whether `id` ends the sequence by itself.
bool Generation::ends_with(TokenId id, TokenEvent& event) const {
  if (std::ranges::find(params_->stop_token_ids, id) != params_->stop_token_ids.end()) {
    event.stop_reason = std::to_string(id);
    return true;
  }
  return !params_->ignore_eos && vocab_->tokenizer && vocab_->tokenizer->is_stop(id);
}

/// Shows text as soon as no stop string can begin in it; true when one was found. They count from min_tokens on.
bool Generation::add_text(std::string_view piece, TokenEvent& event) {
  if (num_generated_ <= params_->min_tokens) {
    event.text += piece;
    return false;
  }
  StopMatcher::Result result = stops_.push(piece);
  event.text += result.text;
  if (result.matched < 0) return false;
  const std::string& stop = params_->stop[static_cast<size_t>(result.matched)];
  if (params_->include_stop_str_in_output) event.text += stop;
  if (event.finish != FinishReason::stop && event.finish != FinishReason::error) {
    event.finish = FinishReason::stop;
    event.stop_reason = stop;
  }
  return true;
}

/// What decoder and matcher held back, at the end. It may still complete a stop string.
void Generation::flush_text(TokenEvent& event) {
  if (!decoder_) return;
  if (!add_text(decoder_->finish(), event)) event.text += stops_.finish();
}

}  // namespace imp
