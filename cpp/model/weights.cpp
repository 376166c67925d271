#include "model/weights.h"

#include <cmath>
#include <cstring>
#include <set>
#include <string>

#include "core/error.h"
#include "formats/model_file.h"
#include "formats/quoted.h"
#include "model/arch.h"

namespace imp {
namespace {

constexpr std::string_view kRoleNames[] = {
    "embed_tokens",   "final_norm", "lm_head",   "attn_norm", "q_proj",    "k_proj",        "v_proj",
    "o_proj",         "q_bias",     "k_bias",    "v_bias",    "o_bias",    "q_norm",        "k_norm",
    "attn_post_norm", "ffn_norm",   "gate_proj", "up_proj",   "down_proj", "ffn_post_norm",
};
static_assert(std::size(kRoleNames) == kNumWeightRoles);

/// Tensors that carry nothing a forward pass needs, and why.
struct Ignorable {
  std::string_view prefix, suffix;
};
constexpr Ignorable kIgnorable[] = {
    {"rope_freqs.weight", ""},            // read with the spec (model/arch/metadata.cpp)
    {"blk.", ".attn_rot_embd.inv_freq"},  // old converters: frequencies, which follow from rope.freq_base
    {"blk.", ".attn_rot_embd.weight"},    // the same under its later name
};

bool is_ignorable(std::string_view name) {
  for (const Ignorable& entry : kIgnorable) {
    if (name.starts_with(entry.prefix) && name.ends_with(entry.suffix)) return true;
  }
  return false;
}

std::string name_of(std::span<const TensorName> names, WeightRole role, int layer) {
  for (const TensorName& entry : names) {
    if (entry.role != role) continue;
    std::string name(entry.pattern);
    if (const size_t hole = name.find("{}"); hole != std::string::npos) name.replace(hole, 2, std::to_string(layer));
    return name;
  }
  fail(ErrorCode::internal, "the architecture has no name for ", weight_role_name(role));
}

/// Takes tensors out of a file one role at a time, and knows at the end what nobody took.
class Matcher {
 public:
  Matcher(const ModelFile& file, const ModelSpec& spec)
      : file_(file), spec_(spec), names_(find_architecture(file).tensor_names) {}

  void take(WeightRole role, int layer, std::vector<int64_t> shape) {
    const std::string name = name_of(names_, role, layer);
    const TensorInfo* tensor = file_.find_tensor(name);
    if (!tensor) {
      fail(ErrorCode::invalid_model, file_.path(), ": tensor ", name, " is missing (", weight_role_name(role), " of a ",
           spec_.architecture, " model)");
    }
    check_shape(*tensor, shape);
    taken_.insert(name);
    if (shape.size() == 2) take_scale(*tensor);
    ModelTensors::ByRole& home = layer < 0 ? tensors_.model : tensors_.layers[layer];
    home[static_cast<int>(role)] = tensor;
  }

  ModelTensors match() {
    tensors_.layers.resize(spec_.num_layers);
    take(WeightRole::embed_tokens, -1, {spec_.vocab_size, spec_.hidden_size});
    take(WeightRole::final_norm, -1, {spec_.hidden_size});
    if (!spec_.tied_lm_head) take(WeightRole::lm_head, -1, {spec_.vocab_size, spec_.hidden_size});
    for (int layer = 0; layer < spec_.num_layers; ++layer) take_layer(layer, spec_.layers[layer]);
    refuse_leftovers();
    return std::move(tensors_);
  }

 private:
  void take_layer(int layer, const LayerSpec& is) {
    const AttentionSpec& attention = is.attention;
    const int64_t hidden = spec_.hidden_size;
    const int64_t q_width = int64_t{attention.num_heads} * attention.head_dim;
    const int64_t kv_width = int64_t{attention.num_kv_heads} * attention.head_dim;
    take(WeightRole::attn_norm, layer, {hidden});
    take(WeightRole::q_proj, layer, {q_width, hidden});
    take(WeightRole::k_proj, layer, {kv_width, hidden});
    take(WeightRole::v_proj, layer, {kv_width, hidden});
    take(WeightRole::o_proj, layer, {hidden, q_width});
    if (attention.qkv_bias) {
      take(WeightRole::q_bias, layer, {q_width});
      take(WeightRole::k_bias, layer, {kv_width});
      take(WeightRole::v_bias, layer, {kv_width});
    }
    if (attention.o_bias) take(WeightRole::o_bias, layer, {hidden});
    if (attention.qk_norm) {
      take(WeightRole::q_norm, layer, {attention.head_dim});
      take(WeightRole::k_norm, layer, {attention.head_dim});
    }
    take(WeightRole::ffn_norm, layer, {hidden});
    take(WeightRole::gate_proj, layer, {is.ffn.intermediate_size, hidden});
    take(WeightRole::up_proj, layer, {is.ffn.intermediate_size, hidden});
    take(WeightRole::down_proj, layer, {hidden, is.ffn.intermediate_size});
    if (is.post_norms) {
      take(WeightRole::attn_post_norm, layer, {hidden});
      take(WeightRole::ffn_post_norm, layer, {hidden});
    }
  }

  void check_shape(const TensorInfo& tensor, const std::vector<int64_t>& expected) const {
    if (tensor.shape.size() != expected.size()) {
      fail(ErrorCode::invalid_model, file_.path(), ": tensor ", tensor.name, " has ", tensor.shape.size(),
           " dimensions; expected ", expected.size());
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      if (tensor.shape[i] == expected[i]) continue;
      fail(ErrorCode::invalid_model, file_.path(), ": tensor ", tensor.name, ": dimension ", i,
           " (outermost first) is ", tensor.shape[i], "; expected ", expected[i], " from the metadata");
    }
  }

  /// NVFP4 weights come with one fp32 factor in a tensor `<name>.scale` beside `<name>.weight`.
  void take_scale(const TensorInfo& weight) {
    const size_t stem = weight.name.rfind(".weight");
    if (weight.format != WeightFormat::nvfp4 || stem == std::string::npos) return;
    const TensorInfo* scale = file_.find_tensor(weight.name.substr(0, stem) + ".scale");
    if (!scale) return;
    if (scale->format != WeightFormat::f32 || scale->num_elements() != 1) {
      fail(ErrorCode::invalid_model, file_.path(), ": tensor ", scale->name, " is not one F32 number");
    }
    float value = 0;
    std::memcpy(&value, scale->data.data(), sizeof value);
    if (!std::isfinite(value)) fail(ErrorCode::invalid_model, file_.path(), ": tensor ", scale->name, " is ", value);
    tensors_.scales.emplace_back(&weight, value);
    taken_.insert(scale->name);
  }

  void refuse_leftovers() const {
    for (const TensorInfo& tensor : file_.tensors()) {
      if (taken_.contains(tensor.name) || is_ignorable(tensor.name)) continue;
      fail(ErrorCode::invalid_model, file_.path(), ": tensor ", quoted(tensor.name), " has no place in a ",
           spec_.architecture, " model of ", spec_.num_layers, " layers; without it the result would be wrong");
    }
  }

  const ModelFile& file_;
  const ModelSpec& spec_;
  std::span<const TensorName> names_;
  std::set<std::string, std::less<>> taken_;
  ModelTensors tensors_;
};

}  // namespace

std::string_view weight_role_name(WeightRole role) { return kRoleNames[static_cast<int>(role)]; }

float ModelTensors::scale_of(const TensorInfo* weight) const {
  for (const auto& [owner, scale] : scales) {
    if (owner == weight) return scale;
  }
  return 1.0f;
}

ModelTensors match_tensors(const ModelFile& file, const ModelSpec& spec) { return Matcher(file, spec).match(); }

}  // namespace imp
