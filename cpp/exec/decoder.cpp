#include "exec/decoder.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "exec/blocks/blocks.h"
#include "exec/workspace.h"
#include "model/rope.h"

namespace imp {

struct Decoder::State {
  ModelSpec spec;
  Weights weights;
  Backend& backend;
  std::vector<KvLayerView> kv;  // [spec.num_layers]
  DecoderOptions options;
  int num_layers;  // that run: all, or those up to exit_layer
  Workspace workspace;
  std::vector<RopeView> ropes;  // [spec.num_layers]
  ForwardObserver* observer = nullptr;

  LayerContext layer_context(int layer) const;
  TensorView gather_rows(TensorView x, RowSelection rows) const;
  void head(TensorView x, RowSelection rows, TensorView logits) const;
};

/// The whole model. x is the residual stream, fp32 [tokens, hidden_size]; what adds to it is in exec/blocks/.
void Decoder::forward(const ForwardBatch& batch, TensorView logits) {
  State& s = *state_;
  assert(batch.num_tokens > 0 && batch.num_tokens <= s.options.max_tokens);
  assert(logits.rows == batch.num_logit_rows);

  TensorView x = s.workspace.hidden.head(batch.num_tokens);
  RowSelection wanted = {batch.logit_rows, batch.num_logit_rows};
  s.backend.embed({s.weights.embed_tokens, batch.token_ids, s.spec.embedding_scale, x, batch.drawn});
  if (s.observer) s.observer->on_hidden(-1, x);

  for (int layer = 0; layer < s.num_layers; ++layer) {
    const LayerContext in = s.layer_context(layer);
    // After the last attention nothing flows between tokens any more: go on with the rows whose logits are wanted.
    const bool narrow = layer == s.num_layers - 1 && wanted.count < batch.num_tokens && !s.observer;
    const RowSelection rows = narrow ? std::exchange(wanted, {}) : RowSelection{};
    const TensorView attended = attend(in, batch.sequences, x, narrow ? rows.count : x.rows);
    if (narrow && rows.count == 0) return;
    if (narrow) x = s.gather_rows(x, rows);

    add_attended(in, attended, rows, x);
    feed_forward(in, s.options.ffn_skip_threshold, s.observer, x);
    if (s.observer) s.observer->on_hidden(layer, x);
  }
  s.head(x, wanted, logits);
}

/// logits = softcap?(lm_head(norm(the chosen rows of x)))
void Decoder::State::head(TensorView x, RowSelection rows, TensorView logits) const {
  if (logits.rows == 0) return;
  const LinearOutput output[] = {{weights.lm_head, nullptr, logits}};
  backend.linear({.x = x,
                  .row_indices = rows.indices,
                  .num_rows = rows.count,
                  .norm_weight = weights.final_norm,
                  .norm_epsilon = spec.norm_epsilon,
                  .outputs = output,
                  .role = LinearRole::lm_head});
  if (spec.logit_softcap > 0 && !options.no_logit_softcap) backend.softcap({logits, spec.logit_softcap});
}

/// Rows of the residual, copied together. To a backend that is an embedding lookup in an fp32 table.
TensorView Decoder::State::gather_rows(TensorView x, RowSelection rows) const {
  const WeightView table = {.data = x.data, .format = WeightFormat::f32, .rows = x.rows, .cols = x.cols};
  const TensorView out = workspace.gathered.head(rows.count);
  backend.embed({table, rows.indices, 1.0f, out});
  return out;
}

LayerContext Decoder::State::layer_context(int layer) const {
  return {.layer = layer,
          .norm_epsilon = spec.norm_epsilon,
          .spec = spec.layers[layer],
          .weights = weights.layers[layer],
          .rope = ropes[layer],
          .cache = kv[layer],
          .workspace = workspace,
          .backend = backend};
}

namespace {

/// One table in the backend's memory for each kind of RoPE; most models have one, Gemma 3 two.
std::vector<RopeView> upload_ropes(const ModelSpec& spec, Backend& backend) {
  std::vector<RopeView> views;
  for (const LayerSpec& layer : spec.layers) {
    const RopeSpec& rope = layer.attention.rope;
    const auto same = std::find_if(spec.layers.begin(), spec.layers.begin() + views.size(),
                                   [&](const LayerSpec& earlier) { return earlier.attention.rope == rope; });
    if (const size_t earlier = same - spec.layers.begin(); earlier < views.size()) {
      views.push_back(views[earlier]);
      continue;
    }
    const RopeTable table = make_rope_table(rope);
    const uint64_t bytes = table.inv_freq.size() * sizeof(float);
    void* data = backend.allocate(bytes, MemoryTag::other);
    backend.upload(data, table.inv_freq.data(), bytes);
    views.push_back({static_cast<const float*>(data), table.magnitude});
  }
  return views;
}

}  // namespace

Decoder::Decoder(const ModelSpec& spec, const Weights& weights, Backend& backend, std::vector<KvLayerView> kv,
                 const DecoderOptions& options)
    : state_(new State{
          .spec = spec,
          .weights = weights,
          .backend = backend,
          .kv = std::move(kv),
          .options = options,
          .num_layers = options.exit_layer < 0 ? spec.num_layers : std::min(options.exit_layer + 1, spec.num_layers),
          .workspace = make_workspace(spec, options.max_tokens, backend),
          .ropes = upload_ropes(spec, backend)}) {
  assert(options.max_tokens > 0);
  assert(state_->kv.size() == static_cast<size_t>(spec.num_layers));
  assert(weights.layers.size() == static_cast<size_t>(spec.num_layers));
}

Decoder::~Decoder() = default;

void Decoder::set_observer(ForwardObserver* observer) { state_->observer = observer; }

uint64_t Decoder::workspace_bytes(const ModelSpec& spec, int64_t max_tokens) {
  return imp::workspace_bytes(spec, max_tokens);
}

}  // namespace imp
