#include "model/arch/metadata.h"

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "formats/quoted.h"
#include "model/rope.h"

namespace imp {
namespace {

// Far above any model there is, far below what would overflow 32-bit arithmetic on shapes.
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHiddenSize = 1 << 20;
constexpr int64_t kMaxIntermediateSize = 1 << 22;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxContext = int64_t{1} << 30;
constexpr int64_t kMaxVocab = int64_t{1} << 24;

std::vector<int64_t> as_integers(const MetaValue& value) {
  std::vector<int64_t> out;
  if (const auto* list = std::get_if<std::vector<int64_t>>(&value)) out = *list;
  if (const auto* list = std::get_if<std::vector<uint64_t>>(&value)) out.assign(list->begin(), list->end());
  return out;
}

}  // namespace

ArchMetadata::ArchMetadata(const ModelFile& file)
    : file_(file), architecture_(file.get_string("general.architecture")) {}

int ArchMetadata::checked_count(std::string_view key, int64_t value, int64_t max) const {
  if (value >= 1 && value <= max) return static_cast<int>(value);
  fail(ErrorCode::invalid_model, file_.path(), ": ", full(key), " is ", value, "; expected 1 to ", max);
}

int ArchMetadata::count(std::string_view key, int64_t max) const {
  return checked_count(key, file_.get_int(full(key)), max);
}

int ArchMetadata::count(std::string_view key, int64_t max, int64_t fallback) const {
  return checked_count(key, file_.get_int(full(key), fallback), max);
}

std::vector<int> ArchMetadata::per_layer_counts(std::string_view key, int num_layers, int64_t max,
                                                int64_t fallback) const {
  const MetaValue* value = file_.find(full(key));
  const std::vector<int64_t> list = value ? as_integers(*value) : std::vector<int64_t>();
  if (list.empty()) {
    const int same = fallback < 0 ? count(key, max) : count(key, max, fallback);
    return std::vector<int>(num_layers, same);
  }
  if (list.size() != static_cast<size_t>(num_layers)) {
    fail(ErrorCode::invalid_model, file_.path(), ": ", full(key), " has ", list.size(),
         " values; expected one for each of ", num_layers, " layers");
  }
  std::vector<int> counts;
  for (const int64_t entry : list) counts.push_back(checked_count(key, entry, max));
  return counts;
}

float ArchMetadata::positive(std::string_view key, double fallback) const {
  const double value = fallback == kRequired ? file_.get_float(full(key)) : file_.get_float(full(key), fallback);
  if (std::isfinite(value) && value > 0 && value < std::numeric_limits<float>::max()) return static_cast<float>(value);
  fail(ErrorCode::invalid_model, file_.path(), ": ", full(key), " is ", value, "; expected a finite number above 0");
}

void ArchMetadata::refuse(std::string_view key, std::string_view what) const {
  if (has(key) && file_.get_int(full(key)) > 0) {
    fail(ErrorCode::unsupported, file_.path(), ": ", full(key), " is ", file_.get_int(full(key)), ": ", what,
         " not supported for ", architecture_);
  }
}

RopeSpec ArchMetadata::read_rope(int head_dim, int context_length) const {
  RopeSpec rope;
  rope.rotary_dim = count("rope.dimension_count", head_dim, head_dim);
  rope.theta = positive("rope.freq_base", 10000.0);
  const std::string factor_key = has("rope.scale_linear") && !has("rope.scaling.factor")
                                     ? "rope.scale_linear"  // old files
                                     : "rope.scaling.factor";
  const bool has_factor = has(factor_key) && file_.get_float(full(factor_key)) != 0;
  const std::string type = file_.get_string(full("rope.scaling.type"), has_factor ? "linear" : "none");
  if (type == "none" || !has_factor) return rope;

  rope.factor = positive(factor_key);
  if (type == "linear") {
    rope.scaling = RopeScaling::linear;
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::yarn;
    rope.original_context = count("rope.scaling.original_context_length", kMaxContext, context_length);
    rope.beta_fast = positive("rope.scaling.yarn_beta_fast", 32);
    rope.beta_slow = positive("rope.scaling.yarn_beta_slow", 1);
    rope.attention_factor = positive("rope.scaling.attn_factor", 1) * yarn_magnitude(rope.factor);
    // Models with DeepSeek's two mscale values carry mscale_all_dim here (mscale itself is 1).
    const double log_multiplier = file_.get_float(full("rope.scaling.yarn_log_multiplier"), 0);
    if (log_multiplier > 0 && rope.factor > 1) {
      rope.attention_factor /= static_cast<float>(0.1 * log_multiplier * std::log(rope.factor) + 1);
    }
  } else {
    fail(ErrorCode::unsupported, file_.path(), ": ", full("rope.scaling.type"), " is ", quoted(type),
         "; supported: none, linear, yarn, and Llama 3's as rope_freqs.weight");
  }
  return rope;
}

std::vector<float> ArchMetadata::read_rope_freqs(int rotary_dim) const {
  const TensorInfo* tensor = file_.find_tensor("rope_freqs.weight");
  if (!tensor) return {};
  if (tensor->format != WeightFormat::f32 || tensor->num_elements() != rotary_dim / 2) {
    fail(ErrorCode::invalid_model, file_.path(), ": tensor rope_freqs.weight is ", info(tensor->format).name, " with ",
         tensor->num_elements(), " elements; expected F32 with ", rotary_dim / 2);
  }
  std::vector<float> divisors(rotary_dim / 2);
  std::memcpy(divisors.data(), tensor->data.data(), divisors.size() * sizeof(float));
  for (const float divisor : divisors) {
    if (!std::isfinite(divisor) || divisor <= 0) {
      fail(ErrorCode::invalid_model, file_.path(), ": rope_freqs.weight holds ", divisor,
           "; expected finite numbers above 0");
    }
  }
  return divisors;
}

/// The table of embeddings knows best how many rows there are; the key is optional in GGUF, and may be the smaller.
int ArchMetadata::read_vocab_size() const {
  const TensorInfo* table = file_.find_tensor("token_embd.weight");
  if (!table || table->shape.size() != 2) {
    fail(ErrorCode::invalid_model, file_.path(), ": there is no two-dimensional tensor token_embd.weight");
  }
  const int64_t rows = table->shape[0];
  if (rows < 1 || rows > kMaxVocab) {
    fail(ErrorCode::invalid_model, file_.path(), ": token_embd.weight has ", rows, " rows; expected 1 to ", kMaxVocab);
  }
  if (const int stated = count("vocab_size", kMaxVocab, rows); stated > rows) {
    fail(ErrorCode::invalid_model, file_.path(), ": ", full("vocab_size"), " is ", stated,
         ", but token_embd.weight has only ", rows, " rows");
  }
  return static_cast<int>(rows);
}

ModelSpec ArchMetadata::read_common() const {
  ModelSpec spec;
  spec.architecture = architecture_;
  spec.name = file_.get_string("general.name", "");
  spec.hidden_size = count("embedding_length", kMaxHiddenSize);
  spec.num_layers = count("block_count", kMaxLayers);
  spec.context_length = count("context_length", kMaxContext);
  spec.norm_epsilon = positive("attention.layer_norm_rms_epsilon");
  spec.tied_lm_head = !has_tensor("output.weight");

  spec.vocab_size = read_vocab_size();

  const std::vector<int> num_heads = per_layer_counts("attention.head_count", spec.num_layers, kMaxHeads);
  const std::vector<int> num_kv_heads = has("attention.head_count_kv")
                                            ? per_layer_counts("attention.head_count_kv", spec.num_layers, kMaxHeads)
                                            : num_heads;
  const std::vector<int> intermediate = per_layer_counts("feed_forward_length", spec.num_layers, kMaxIntermediateSize);
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    LayerSpec one;
    AttentionSpec& attention = one.attention;
    attention.num_heads = num_heads[layer];
    attention.num_kv_heads = num_kv_heads[layer];
    if (!has("attention.key_length") && spec.hidden_size % attention.num_heads != 0) {
      fail(ErrorCode::invalid_model, file_.path(), ": ", full("embedding_length"), " ", spec.hidden_size,
           " is not a multiple of ", full("attention.head_count"), " ", attention.num_heads);
    }
    attention.head_dim = count("attention.key_length", kMaxHeadDim, spec.hidden_size / attention.num_heads);
    if (count("attention.value_length", kMaxHeadDim, attention.head_dim) != attention.head_dim) {
      fail(ErrorCode::unsupported, file_.path(), ": ", full("attention.value_length"), " differs from the key length ",
           attention.head_dim, ", which is not supported");
    }
    attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
    attention.rope = read_rope(attention.head_dim, spec.context_length);
    one.ffn.intermediate_size = intermediate[layer];
    spec.layers.push_back(one);
  }
  return spec;
}

}  // namespace imp
