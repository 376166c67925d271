#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/model_file.h"

namespace imp::test {

/// A ModelFile made up in memory: metadata to set and break, tensors with shapes, and values where a test needs them.
class MemoryModel : public ModelFile {
 public:
  MemoryModel& set(const std::string& key, MetaValue value) {
    metadata_.insert_or_assign(key, std::move(value));
    return *this;
  }
  MemoryModel& drop(const std::string& key) {
    metadata_.erase(key);
    return *this;
  }
  MemoryModel& tensor(const std::string& name, std::vector<int64_t> shape, std::vector<float> values = {}) {
    drop_tensor(name);
    TensorInfo info = {.name = name, .format = WeightFormat::f32, .shape = std::move(shape), .data = {}};
    if (!values.empty()) {
      stored_.push_back(std::make_shared<const std::vector<float>>(std::move(values)));
      info.data = std::as_bytes(std::span(*stored_.back()));
    }
    tensors_.push_back(std::move(info));
    return *this;
  }
  MemoryModel& drop_tensor(const std::string& name) {
    std::erase_if(tensors_, [&](const TensorInfo& tensor) { return tensor.name == name; });
    return *this;
  }
  TensorInfo& at(const std::string& name) { return *const_cast<TensorInfo*>(find_tensor(name)); }

  const std::string& path() const override { return path_; }
  std::string_view format_name() const override { return "memory"; }
  uint64_t file_bytes() const override { return 0; }
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  const TensorInfo* find_tensor(std::string_view name) const override {
    for (const TensorInfo& tensor : tensors_) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  const MetaValue* find(std::string_view key) const override {
    const auto entry = metadata_.find(key);
    return entry == metadata_.end() ? nullptr : &entry->second;
  }
  std::vector<std::string> keys() const override {
    std::vector<std::string> keys;
    for (const auto& [key, value] : metadata_) keys.push_back(key);
    return keys;
  }

 private:
  std::string path_ = "memory.gguf";
  std::map<std::string, MetaValue, std::less<>> metadata_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::shared_ptr<const std::vector<float>>> stored_;  // copies of a model share it
};

/// A complete two-layer model: hidden 64, 4 heads on 2 KV heads of 16, FFN 96, 40 tokens.
inline MemoryModel small_model(const std::string& architecture) {
  MemoryModel model;
  const auto number = [&](const std::string& key, uint64_t value) { model.set(architecture + "." + key, value); };
  model.set("general.architecture", architecture);
  number("embedding_length", 64);
  number("block_count", 2);
  number("context_length", 128);
  number("feed_forward_length", 96);
  number("attention.head_count", 4);
  number("attention.head_count_kv", 2);
  model.set(architecture + ".attention.layer_norm_rms_epsilon", 1e-5);
  model.tensor("token_embd.weight", {40, 64}).tensor("output.weight", {40, 64}).tensor("output_norm.weight", {64});
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    model.tensor(layer + "attn_norm.weight", {64}).tensor(layer + "ffn_norm.weight", {64});
    model.tensor(layer + "attn_q.weight", {64, 64}).tensor(layer + "attn_output.weight", {64, 64});
    model.tensor(layer + "attn_k.weight", {32, 64}).tensor(layer + "attn_v.weight", {32, 64});
    model.tensor(layer + "ffn_gate.weight", {96, 64}).tensor(layer + "ffn_up.weight", {96, 64});
    model.tensor(layer + "ffn_down.weight", {64, 96});
    if (architecture == "qwen2") {
      model.tensor(layer + "attn_q.bias", {64}).tensor(layer + "attn_k.bias", {32}).tensor(layer + "attn_v.bias", {32});
    }
    if (architecture == "qwen3" || architecture == "gemma3") {
      model.tensor(layer + "attn_q_norm.weight", {16}).tensor(layer + "attn_k_norm.weight", {16});
    }
    if (architecture == "gemma3") {
      model.tensor(layer + "post_attention_norm.weight", {64}).tensor(layer + "post_ffw_norm.weight", {64});
    }
  }
  return model;
}

}  // namespace imp::test
