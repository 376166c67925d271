#pragma once
#include <cstdint>
#include <span>

#include "core/tensor_view.h"
#include "model/spec.h"
#include "model/weights.h"

// The vocabulary of the forward pass: one args struct an op, with its formula. Pointers are in the backend's memory.
// `tokens` below is the number of rows of a batch, sequences one after another (ragged). Activations are fp32 rows;
// attention's output, a gated linear's and their readers' input may be bf16 rows where the backend asks for it.

namespace imp {

/// What a linear is for; used in reports, switches of the configuration and budgets, never in the mathematics.
enum class LinearRole : uint8_t { qkv, o, gate_up, down, lm_head };

/// out[t, :] = scale * table[id(t), :], where id(t) is ids[t], or drawn[-1 - ids[t]] where that is negative: a token
/// that the step before drew (SampleArgs::ids), and that the host has not seen yet.
struct EmbedArgs {
  WeightView table;    // [vocab_size, hidden_size]
  const int32_t* ids;  // [tokens]
  float scale;
  TensorView out;  // [tokens, hidden_size]
  const int32_t* drawn = nullptr;

  int32_t id(int64_t t) const { return ids[t] < 0 ? drawn[-1 - ids[t]] : ids[t]; }
};

/// y[t, :] = weight * x[t, :] / sqrt(mean(x[t, :]^2) + epsilon); y may alias x.
/// With `add_to`: add_to[t, :] += that instead, and y is not written.
struct RmsNormArgs {
  TensorView x;         // [tokens, n]
  const float* weight;  // [n]
  float epsilon;
  TensorView y;
  TensorView add_to = {};
};

/// One product of a linear: y[t, :] (+)= h[t, :] * W^T + bias.
struct LinearOutput {
  WeightView weight;  // [n_i, k]
  const float* bias;  // [n_i] or null
  TensorView y;       // [tokens, n_i]; bf16 only where gated
};

/// h = rms_norm(x; norm_weight) where norm_weight is set, else x. Each output i is then h * W_i^T + bias_i:
///  - plain: y_i = that;       - accumulate: y_i += that (the residual);
///  - gated: two outputs g, u: y_0 = activation(g) * u, and y_1 is not written.
struct LinearArgs {
  TensorView x;                          // [tokens, k]; bf16 only without norm_weight
  const int32_t* row_indices = nullptr;  // where set, row t of h comes from x row row_indices[t], for num_rows rows
  int64_t num_rows = 0;                  // used with row_indices
  const float* norm_weight = nullptr;    // [k]
  float norm_epsilon = 0;
  std::span<const LinearOutput> outputs;  // 1 to 3, all with the same k
  bool accumulate = false;
  bool gated = false;
  Activation activation = Activation::silu;
  LinearRole role = LinearRole::qkv;
  float skip_threshold = 0;  // ffn.sparsity_threshold: 32-blocks of x whose amax is below count as zero

  int64_t tokens() const { return row_indices ? num_rows : x.rows; }
};

/// One layer of the paged KV cache. Element (block b, kv head h, slot s, dim d) of either tensor is at
/// ((b * num_kv_heads + h) * block_size + s) * head_dim + d.
struct KvLayerView {
  void* k;
  void* v;
  DType dtype;  // f16
  int num_kv_heads;
  int head_dim;
  int block_size;  // tokens in a block: 16
};

/// Where each token of a batch lives. Sequence s owns rows [query_start[s], query_start[s+1]) of the batch; its token
/// at position p is in slot block_tables[s * block_table_stride + p / block_size] * block_size + p % block_size.
struct SequenceBatch {
  int num_sequences = 0;
  const int32_t* query_start = nullptr;   // [num_sequences + 1]
  const int32_t* context_len = nullptr;   // [num_sequences], the new tokens included
  const int32_t* block_tables = nullptr;  // [num_sequences, block_table_stride]
  int block_table_stride = 0;
  const int32_t* positions = nullptr;  // [tokens]
  int max_query_len = 0;               // host-side hints for choosing kernels
  int max_context_len = 0;
};

/// q, k <- RoPE(RMS norm per head (where the weights are set)); then k and v go to their slots in the cache.
/// q is rewritten in place; k and v are left in an unspecified state.
struct QkRopeKvArgs {
  TensorView q;     // [tokens, num_heads * head_dim]
  TensorView k, v;  // [tokens, num_kv_heads * head_dim]
  int head_dim;
  const float *q_norm, *k_norm;  // [head_dim] or null
  float norm_epsilon;
  RopePairing pairing;
  int rotary_dim;
  const float* inv_freq;  // [rotary_dim / 2]
  float rope_magnitude;
  KvLayerView cache;
  SequenceBatch batch;
};

/// out[t, h, :] = sum_j softmax_j(cap(scale * q[t, h, :] . k_j)) v_j over the j <= position(t) of t's sequence that lie
/// in the window; cap(z) = softcap * tanh(z / softcap) where softcap > 0. kv head of h: h / (num_heads / num_kv_heads).
struct AttentionArgs {
  TensorView q;    // [tokens, num_heads * head_dim], after RoPE
  TensorView out;  // the same shape, f32 or bf16; may not alias q
  int num_heads;
  float scale;
  float softcap;
  int sliding_window;  // 0: none
  KvLayerView cache;
  SequenceBatch batch;
};

/// x[r, c] = cap * tanh(x[r, c] / cap)
struct SoftcapArgs {
  TensorView x;
  float cap;
};

/// How one token is drawn: sampling parameters (sampling/params.h) and what they act on. Made of 4-byte fields: it
/// travels among a step's int32 arrays.
struct SampleRow {
  int32_t logits_row = 0;
  int32_t result = 0;              // index in SampleArgs::results
  int32_t mask = 0;                // index in SampleArgs::allowed
  int32_t counts = -1, bias = -1;  // indices in SampleArgs::counts and bias; -1: no penalties, no bias
  int32_t leaves = -1;             // a token to take from the counts first: out of the window; -1: none
  float temperature = 0;           // 0: the best token
  int32_t top_k = 0;               // at most kMaxSampleTopK, or 0: all
  float top_p = 1, min_p = 0;
  float repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
  uint32_t seed_low = 0, seed_high = 0, stream = 0, position = 0;  // of the random number
  int32_t logprobs = -1;                                           // as the parameter

  /// Whether the best allowed token is all that is asked for.
  bool is_plain() const { return temperature == 0 && mask == 0 && counts < 0 && bias < 0 && logprobs < 0; }
};
constexpr int kMaxSampleTopK = 1024;
constexpr int kMaxSampleLogprobs = 20;

/// What became of one row, for the host. Log-probabilities are of the row as the model gave it.
struct SampleResult {
  int32_t id = -1;                                    // -1: the row is damaged, or no token of it may be drawn
  int32_t num_nan = 0, num_inf = 0, num_neg_inf = 0;  // values of the row that are NaN, +inf, -inf
  float logprob = 0;                                  // with logprobs >= 0: of the drawn token
  int32_t rank = 0;                                   // and its rank, from 1
  int32_t num_top = 0;                                // the likeliest tokens, at most `logprobs`
  int32_t top_ids[kMaxSampleLogprobs] = {};
  float top_logprobs[kMaxSampleLogprobs] = {};
};

/// Draws a token from each row of logits, by the rules and in the order of sampling/processors.h, without typical-p,
/// DRY, mirostat and grammars. A row that has NaN or +inf, or nothing but -inf, is damaged.
struct SampleArgs {
  TensorView logits;      // [>= every logits_row + 1, vocab_size]; left as it is
  const SampleRow* rows;  // [num_rows]
  int num_rows;
  bool plain;               // every row is_plain(): for choosing a kernel
  const uint32_t* allowed;  // [masks, (vocab_size + 31) / 32]: bit i of word w: token 32 w + i may be drawn
  int32_t* counts;          // [states, vocab_size]: how often a token is in the window of the penalties. What is drawn
                            // is added
  const float* bias;        // [states, vocab_size]: added to the logits
  int32_t* ids;             // [num_rows] drawn; 0 where none was
  SampleResult* results;    // in memory that the host can read

  int64_t mask_words() const { return (logits.cols + 31) / 32; }
};

}  // namespace imp
