#include <algorithm>
#include <cmath>

#include "engine/engine.h"
#include "engine/state.h"
#include "sampling/row.h"

// Forward passes outside the scheduler: logits, perplexity, bench.

namespace imp {

ScratchSequence::ScratchSequence(Engine::State& state, int64_t num_tokens) : state_(state) {
  const MemoryPlan& plan = state.model.memory;
  if (num_tokens > plan.max_seq_len)
    fail(ErrorCode::invalid_argument, num_tokens, " tokens do not fit into max_seq_len = ", plan.max_seq_len,
         "; take fewer or raise runtime.max_seq_len");
  const int64_t needed = blocks_for(num_tokens);
  if (needed > state.pool.num_free())
    fail(ErrorCode::invalid_argument, num_tokens, " tokens need ", needed, " blocks of the KV cache, and ",
         state.pool.num_free(), " of ", state.pool.num_blocks(), " are free; finish running requests or reset() first");
  for (int64_t i = 0; i < needed; ++i) blocks_.push_back(state.pool.allocate().value());
}

ScratchSequence::~ScratchSequence() {
  for (BlockId block : blocks_) state_.pool.release(block);
}

std::span<float> ScratchSequence::run(std::span<const TokenId> tokens, int32_t num_logit_rows, bool draw) {
  const RunChunk chunk{.tokens = tokens, .begin = num_computed_, .blocks = blocks_, .num_logit_rows = num_logit_rows};
  state_.forward(chunk, draw);
  num_computed_ += static_cast<int64_t>(tokens.size());
  return state_.device.run(*state_.model.backend, [&] { return state_.runner.logits(0, num_logit_rows); });
}

namespace {

/// Runs `tokens` in steps; `see(first, rows)` gets the logits after tokens first, first + 1, ... from `scored_from` on.
template <class See>
void run_in_steps(Engine::State& state, std::span<const TokenId> tokens, size_t scored_from, const See& see) {
  ScratchSequence sequence(state, static_cast<int64_t>(tokens.size()));
  const auto most_tokens = static_cast<size_t>(state.model.memory.max_step_tokens);
  const auto most_rows = static_cast<size_t>(state.model.memory.max_logit_rows);
  for (size_t at = 0; at < tokens.size();) {
    const size_t first_row = std::max(at, scored_from);
    size_t end = std::min(at + most_tokens, tokens.size());
    if (end > first_row) end = std::min(end, first_row + most_rows);
    const size_t num_rows = end > first_row ? end - first_row : 0;
    const auto rows = sequence.run(tokens.subspan(at, end - at), static_cast<int32_t>(num_rows));
    if (num_rows > 0) see(first_row, rows);
    at = end;
  }
}

}  // namespace

std::vector<float> Engine::logits(std::span<const TokenId> tokens, bool all_rows) {
  check_prompt(tokens, 0);
  std::vector<float> out;
  run_in_steps(*state_, tokens, all_rows ? 0 : tokens.size() - 1,
               [&](size_t, std::span<const float> rows) { out.insert(out.end(), rows.begin(), rows.end()); });
  return out;
}

Engine::Perplexity Engine::perplexity(std::span<const TokenId> tokens, int context,
                                      const std::function<bool(int64_t, int64_t, double)>& progress) {
  State& s = *state_;
  if (context < 4 || context > s.model.memory.max_seq_len)
    fail(ErrorCode::invalid_argument, "a window of ", context,
         " tokens is not between 4 and max_seq_len = ", s.model.memory.max_seq_len);
  if (tokens.size() < 2 * static_cast<size_t>(context))
    fail(ErrorCode::invalid_argument, "perplexity over windows of ", context, " tokens needs at least ", 2 * context,
         ", found ", tokens.size(), "; give a longer text or a smaller window");
  const Tokenizer* tokenizer = s.vocab.tokenizer;
  const bool add_bos = tokenizer && tokenizer->special().add_bos && tokenizer->special().bos;
  const auto size = static_cast<size_t>(context), vocab_size = static_cast<size_t>(s.model.spec.vocab_size);
  const size_t first = size / 2;  // earlier tokens have too little context to count

  Perplexity result;
  const auto num_windows = static_cast<int64_t>(tokens.size() / size);
  double sum = 0, sum_squares = 0;
  for (; result.windows < num_windows; ++result.windows) {
    const std::span<const TokenId> window = tokens.subspan(static_cast<size_t>(result.windows) * size, size);
    std::vector<TokenId> input(window.begin(), window.end());
    if (add_bos) input[0] = *tokenizer->special().bos;
    input.pop_back();  // its logits would score a token of the next window
    run_in_steps(s, input, first, [&](size_t at, std::span<const float> rows) {
      for (size_t r = 0; r * vocab_size < rows.size(); ++r) {
        const std::span<const float> row = rows.subspan(r * vocab_size, vocab_size);
        const double nll = log_sum_exp(row) - row[static_cast<size_t>(window[at + r + 1])];
        sum += nll;
        sum_squares += nll * nll;
        ++result.scored_tokens;
      }
    });
    result.value = std::exp(sum / static_cast<double>(result.scored_tokens));
    if (progress && !progress(result.windows + 1, num_windows, result.value))
      fail(ErrorCode::cancelled, "perplexity was cancelled after ", result.windows + 1, " of ", num_windows,
           " windows");
  }
  const auto count = static_cast<double>(result.scored_tokens);
  const double mean = sum / count;
  const double variance = sum_squares / count - mean * mean;
  if (variance > 0) result.stderr_ = std::sqrt(variance / (count - 1)) * result.value;
  return result;
}

void Engine::bench_prefill(std::span<const TokenId> tokens) {
  State& s = *state_;
  const int64_t end = s.bench_tokens + static_cast<int64_t>(tokens.size());
  if (end > s.model.memory.max_seq_len)
    fail(ErrorCode::invalid_argument, "the bench needs ", end, " tokens of context, and max_seq_len is ",
         s.model.memory.max_seq_len, "; raise runtime.max_seq_len");
  while (static_cast<int64_t>(s.bench_blocks.size()) < blocks_for(end)) {
    const std::optional<BlockId> block = s.pool.allocate();
    if (!block) fail(ErrorCode::invalid_argument, "no KV block is free for the bench; reset() first");
    s.bench_blocks.push_back(*block);
  }
  const auto step = static_cast<size_t>(s.model.memory.max_step_tokens);
  for (size_t at = 0; at < tokens.size(); at += step) {
    const size_t count = std::min(step, tokens.size() - at);
    const RunChunk chunk{.tokens = tokens.subspan(at, count),
                         .begin = s.bench_tokens,
                         .blocks = s.bench_blocks,
                         .num_logit_rows = at + count == tokens.size() ? 1 : 0};
    s.forward(chunk);
    s.bench_tokens += static_cast<int64_t>(count);
  }
}

void Engine::bench_decode(TokenId token) { bench_prefill({&token, 1}); }

}  // namespace imp
