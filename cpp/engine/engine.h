#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "core/error.h"
#include "sampling/params.h"
#include "sampling/sampler.h"
#include "text/tokenizer.h"

namespace imp {

using RequestId = int64_t;
struct Request;

enum class FinishReason : uint8_t { none, stop, length, cancelled, error };

struct TokenLogprob {
  TokenId id;
  float logprob;
  int32_t rank;  // 1: the most likely
};

/// What one sequence gained in a step.
struct TokenEvent {
  RequestId request = 0;
  int32_t index = 0;                                // which of the request's n sequences
  std::vector<TokenId> tokens;                      // new ids, in order (stop tokens included)
  std::string text;                                 // new whole UTF-8 text
  std::vector<std::vector<TokenLogprob>> logprobs;  // one row a token: the chosen one first, then the best
  FinishReason finish = FinishReason::none;
  std::string stop_reason;          // the stop string or token id text, "" where the model ended by itself
  ErrorCode error = ErrorCode::ok;  // with finish == error
  std::string error_message;
};

struct RequestTimings {
  double queued_s = 0, prefill_s = 0, decode_s = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;
};

struct EngineOptions {
  std::string model_path;
  std::string device = "auto";       // "auto", "cpu", "cuda", "cuda:N"
  int num_threads = 0;               // CPU: 0 = one a physical core
  uint64_t memory_budget_bytes = 0;  // weights + KV + workspace; 0: from what is free
  std::string force_isa;             // see BackendOptions
  std::string force_linear;
  /// "": the backend's choice. "host" draws on the host, "device" on the backend, "ahead" there and launches each step
  /// before the tokens of the one before are looked at. Tests and comparisons: the tokens are the same.
  std::string force_sampling = {};
};

/// The CUDA device that a text like EngineOptions::device names; nothing for "auto" and "cpu". Anything else is an
/// invalid_argument error.
std::optional<int> cuda_device_of(std::string_view device);

/// One model on one device. Every method is called from one thread at a time; cancel() from any.
/// submit() queues; step() runs one forward batch over what is queued and running.
class Engine {
 public:
  Engine(const EngineOptions& options, Config config);
  ~Engine();

  /// Ids of a prompt that does not fit, or parameters out of range, are invalid_argument errors here, not later.
  /// `mask`, where set, is asked before each token which ones may come (constrained decoding).
  RequestId submit(std::vector<TokenId> prompt, const SamplingParams& params, LogitsMask mask = {});
  /// Runs one batch; gives what each running sequence gained. Empty when there is nothing to do.
  std::vector<TokenEvent> step();
  bool has_work() const;
  void cancel(RequestId id);  // ends with FinishReason::cancelled at the next step()
  RequestTimings timings(RequestId id) const;
  /// Rows [prompt_tokens] of a finished or running request that asked for prompt_logprobs; row 0 is empty.
  std::vector<std::vector<TokenLogprob>> prompt_logprobs(RequestId id) const;
  void forget(RequestId id);  // drops what is kept about a finished request

  /// logits[t, :] after each token of `tokens` (all rows) or after the last only; a fresh sequence, nothing kept.
  std::vector<float> logits(std::span<const TokenId> tokens, bool all_rows);

  /// llama-perplexity's measure: windows of `context` tokens, the first half of each not scored.
  struct Perplexity {
    double value = 0, stderr_ = 0;
    int64_t windows = 0, scored_tokens = 0;
  };
  Perplexity perplexity(std::span<const TokenId> tokens, int context,
                        const std::function<bool(int64_t, int64_t, double)>& progress);

  const Tokenizer* tokenizer() const;  // null: the file has none
  const Config& config() const;
  int32_t vocab_size() const;
  int32_t max_seq_len() const;
  std::string device() const;             // "cpu" or "cuda"
  std::string device_line() const;        // one line: what was chosen and why
  std::string chat_template() const;      // "" where the file has none
  std::string model_description() const;  // "llama 135M Q4_1": architecture, size, main weight format
  int64_t num_parameters() const;
  uint64_t model_bytes() const;
  uint64_t bytes_per_token() const;  // weight bytes read for one token

  std::string report_json() const;  // spec of the fields: docs/report.md
  std::string explain_json(const std::vector<int>& batch_sizes) const;

  /// Bench and tests: drops all sequences, keeps weights and counters.
  void reset();
  /// Bench: forward passes over `tokens`, after those of the calls before; the caller times it. What was run is kept
  /// until reset(). Returns when the device is done; the logits of the last token are computed, but neither sampled nor
  /// copied to the host.
  void bench_prefill(std::span<const TokenId> tokens);
  void bench_decode(TokenId token);

  struct State;  // engine/state.h

 private:
  /// Fails where `prompt` and `more` tokens behind it cannot be computed.
  void check_prompt(std::span<const TokenId> prompt, int64_t more) const;
  const Request& request(RequestId id) const;

  std::unique_ptr<State> state_;
};

}  // namespace imp
