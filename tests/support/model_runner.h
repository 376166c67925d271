#pragma once
#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "config/config.h"
#include "exec/backend.h"
#include "exec/decoder.h"
#include "exec/load_weights.h"
#include "formats/model_file.h"
#include "model/arch.h"

namespace imp::test {

/// New tokens of one sequence in a batch.
struct Chunk {
  int sequence;
  std::vector<int32_t> tokens;
};

struct RunnerOptions {
  std::string force_isa = {};
  int num_threads = 1;
  int64_t max_tokens = 64;  // in one batch
  int max_sequences = 1;
  int64_t max_context = 64;  // of each sequence
  DecoderOptions decoder = {};
  bool profile = false;                           // diagnostics.profile
  std::function<void(Settings&)> configure = {};  // the rest of the configuration
  std::function<std::unique_ptr<Backend>(const BackendOptions&)> make_backend = make_cpu_backend;
};

/// A model file on a backend, the CPU's unless told, with a small KV cache, and nothing else of an engine: tests and
/// benchmarks of the forward pass. Blocks lie in the cache in reverse order, so that nobody gets away with taking ids
/// for positions.
class ModelRunner {
 public:
  ModelRunner(const std::string& path, const RunnerOptions& options = {})
      : options_(options),
        settings_(settings_for(options)),
        file_(open_model_file(path)),
        spec_(read_model_spec(*file_)),
        backend_(options.make_backend({.settings = &settings_,
                                       .num_threads = options.num_threads,
                                       .force_isa = options.force_isa,
                                       .force_linear = {}})),
        weights_(load_weights(match_tensors(*file_, spec_), spec_, *backend_)),
        blocks_per_sequence_((options.max_context + kBlockSize - 1) / kBlockSize) {
    options_.decoder.max_tokens = options.max_tokens;
    backend_->finish_load({options.max_tokens, options.max_sequences, options.max_tokens});
    decoder_ = std::make_unique<Decoder>(spec_, weights_, *backend_, make_kv(), options_.decoder);
    block_tables_.resize(options.max_sequences * blocks_per_sequence_);
    std::iota(block_tables_.rbegin(), block_tables_.rend(), 0);
    context_len_.resize(options.max_sequences);
    if (is_host()) return;
    const int64_t most = options.max_tokens + options.max_sequences * blocks_per_sequence_ + 1;
    for (void*& input : inputs_) input = backend_->allocate(most * sizeof(int32_t), MemoryTag::other);
    logits_ = backend_->allocate(options.max_tokens * spec_.vocab_size * sizeof(float), MemoryTag::logits);
  }

  enum class Rows { all, last, none };

  /// Logits of every token of the batch, of the last of each chunk, or of none: [rows, vocab_size].
  std::vector<float> forward(const std::vector<Chunk>& chunks, Rows wanted = Rows::all) {
    std::vector<int32_t> ids, positions, query_start = {0}, context_len, tables, rows;
    int max_query = 0, max_context = 0;
    for (const Chunk& chunk : chunks) {
      int32_t& length = context_len_[chunk.sequence];
      for (const int32_t id : chunk.tokens) {
        if (wanted == Rows::all) rows.push_back(static_cast<int32_t>(ids.size()));
        ids.push_back(id);
        positions.push_back(length++);
      }
      if (wanted == Rows::last) rows.push_back(static_cast<int32_t>(ids.size()) - 1);
      query_start.push_back(static_cast<int32_t>(ids.size()));
      context_len.push_back(length);
      const auto table = block_tables_.begin() + chunk.sequence * blocks_per_sequence_;
      tables.insert(tables.end(), table, table + blocks_per_sequence_);
      max_query = std::max(max_query, static_cast<int>(chunk.tokens.size()));
      max_context = std::max(max_context, static_cast<int>(length));
    }
    const ForwardBatch batch = {.num_tokens = static_cast<int64_t>(ids.size()),
                                .token_ids = input(0, ids),
                                .sequences = {.num_sequences = static_cast<int>(chunks.size()),
                                              .query_start = input(1, query_start),
                                              .context_len = input(2, context_len),
                                              .block_tables = input(3, tables),
                                              .block_table_stride = static_cast<int>(blocks_per_sequence_),
                                              .positions = input(4, positions),
                                              .max_query_len = max_query,
                                              .max_context_len = backend_->planned_context(max_context)},
                                .logit_rows = input(5, rows),
                                .num_logit_rows = static_cast<int64_t>(rows.size())};
    std::vector<float> logits(rows.size() * spec_.vocab_size);
    float* out = is_host() ? logits.data() : static_cast<float*>(logits_);
    const StepShape shape = {.num_tokens = batch.num_tokens,
                             .num_logit_rows = batch.num_logit_rows,
                             .num_sequences = batch.sequences.num_sequences,
                             .max_query_len = max_query,
                             .max_context_len = batch.sequences.max_context_len};
    backend_->run_step(shape, [&] { decoder_->forward(batch, f32_view(out, batch.num_logit_rows, spec_.vocab_size)); });
    if (!is_host()) backend_->download(logits.data(), out, logits.size() * sizeof(float));
    return logits;
  }

  void reset() { std::fill(context_len_.begin(), context_len_.end(), 0); }
  const ModelSpec& spec() const { return spec_; }
  const ModelFile& file() const { return *file_; }
  Backend& backend() { return *backend_; }
  Decoder& decoder() { return *decoder_; }

 private:
  static constexpr int kBlockSize = 16;

  bool is_host() const { return backend_->name() == "cpu"; }
  /// Where the backend finds `values`: always the same place for a slot, as replayed steps need it.
  const int32_t* input(size_t slot, const std::vector<int32_t>& values) {
    if (is_host()) return values.data();
    backend_->upload(inputs_[slot], values.data(), values.size() * sizeof(int32_t));
    return static_cast<const int32_t*>(inputs_[slot]);
  }

  static Settings settings_for(const RunnerOptions& options) {
    Settings settings;
    settings.diagnostics.profile = options.profile;
    if (options.configure) options.configure(settings);
    return settings;
  }

  std::vector<KvLayerView> make_kv() {
    std::vector<KvLayerView> kv;
    for (const LayerSpec& layer : spec_.layers) {
      const AttentionSpec& attention = layer.attention;
      const uint64_t elements = uint64_t{1} * options_.max_sequences * blocks_per_sequence_ * kBlockSize *
                                attention.num_kv_heads * attention.head_dim;
      kv.push_back({.k = backend_->allocate(elements * dtype_bytes(DType::f16), MemoryTag::kv_pool),
                    .v = backend_->allocate(elements * dtype_bytes(DType::f16), MemoryTag::kv_pool),
                    .dtype = DType::f16,
                    .num_kv_heads = attention.num_kv_heads,
                    .head_dim = attention.head_dim,
                    .block_size = kBlockSize});
    }
    return kv;
  }

  RunnerOptions options_;
  Settings settings_;
  std::unique_ptr<ModelFile> file_;
  ModelSpec spec_;
  std::unique_ptr<Backend> backend_;
  Weights weights_;
  int64_t blocks_per_sequence_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<int32_t> block_tables_;  // [max_sequences, blocks_per_sequence]
  std::vector<int32_t> context_len_;   // [max_sequences]
  std::array<void*, 6> inputs_ = {};   // a backend that is not the host: where its arrays are
  void* logits_ = nullptr;
};

}  // namespace imp::test
