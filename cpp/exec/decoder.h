#pragma once
#include <memory>
#include <vector>

#include "exec/backend.h"
#include "model/spec.h"
#include "model/weights.h"

namespace imp {

/// One step's work as the decoder sees it: tokens of several sequences, one after another.
struct ForwardBatch {
  int64_t num_tokens = 0;
  const int32_t* token_ids = nullptr;  // [num_tokens]; negative ones: see EmbedArgs::drawn
  const int32_t* drawn = nullptr;
  SequenceBatch sequences;
  const int32_t* logit_rows = nullptr;  // [num_logit_rows]: the batch rows whose logits are wanted
  int64_t num_logit_rows = 0;
};

/// Sees activations as they are made: dumps, debug prints and probes. Views are valid during the call only.
class ForwardObserver {
 public:
  virtual ~ForwardObserver() = default;
  virtual void on_hidden(int layer, TensorView hidden) = 0;       // residual stream; layer -1: embeddings
  virtual void on_ffn_activation(int layer, TensorView act) = 0;  // [tokens, intermediate_size], before down_proj
};

struct DecoderOptions {
  int64_t max_tokens = 0;  // in one batch
  int exit_layer = -1;     // diagnostics.exit_layer: stop after this layer; -1: all
  bool no_logit_softcap = false;
  float ffn_skip_threshold = 0;
};

/// THE forward pass: what is computed, for every model, on every backend.
class Decoder {
 public:
  Decoder(const ModelSpec& spec, const Weights& weights, Backend& backend, std::vector<KvLayerView> kv,
          const DecoderOptions& options);
  ~Decoder();

  /// logits[r, :] for each of batch.logit_rows; [num_logit_rows, vocab_size].
  void forward(const ForwardBatch& batch, TensorView logits);

  void set_observer(ForwardObserver* observer);  // null: none
  static uint64_t workspace_bytes(const ModelSpec& spec, int64_t max_tokens);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace imp
