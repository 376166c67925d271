#include <algorithm>
#include <array>
#include <cstdio>
#include <map>

#include "engine/engine.h"
#include "engine/state.h"

// What the loaded model is, in words and numbers.

namespace imp {
namespace {

/// The size as people say it: 135M, 0.6B, 8B.
std::string short_count(int64_t parameters) {
  const auto value = static_cast<double>(parameters);
  char text[32];
  if (value >= 1e10) {
    std::snprintf(text, sizeof text, "%.0fB", value / 1e9);
  } else if (value >= 1e9) {
    std::snprintf(text, sizeof text, "%.1fB", value / 1e9);
  } else if (value >= 1e6) {
    std::snprintf(text, sizeof text, "%.0fM", value / 1e6);
  } else {
    std::snprintf(text, sizeof text, "%.0fK", value / 1e3);
  }
  return text;
}

/// The format that holds most of the weights' bytes.
std::string_view main_format(const ModelFile& file) {
  std::map<WeightFormat, uint64_t> bytes;
  for (const TensorInfo& tensor : file.tensors()) bytes[tensor.format] += tensor.data.size();
  const auto most = std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; });
  return most == bytes.end() ? std::string_view("F32") : info(most->first).name;
}

}  // namespace

int64_t Engine::num_parameters() const {
  int64_t count = 0;
  for (const TensorInfo& tensor : state_->model.file->tensors()) count += tensor.num_elements();
  return count;
}

uint64_t Engine::model_bytes() const { return tensor_bytes(*state_->model.file); }

/// Everything but the rows of the embedding table that a lookup does not touch.
uint64_t Engine::bytes_per_token() const {
  const LoadedModel& model = state_->model;
  if (model.spec.tied_lm_head) return model_bytes();
  const TensorInfo* table = model.tensors.of(WeightRole::embed_tokens);
  return model_bytes() - table->data.size() + static_cast<uint64_t>(row_bytes(table->format, table->shape[1]));
}

std::string Engine::model_description() const {
  return cat(state_->model.spec.architecture, " ", short_count(num_parameters()), " ",
             main_format(*state_->model.file));
}

}  // namespace imp
