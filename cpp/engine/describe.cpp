#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <utility>

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

/// What `general.file_type` calls the mix of formats; "" where the file does not say or imp does not know the number.
std::string_view mix_name(const ModelFile& file) {
  static constexpr std::pair<int64_t, std::string_view> kNames[] = {
      {0, "F32"},     {1, "F16"},     {2, "Q4_0"},    {3, "Q4_1"},    {7, "Q8_0"},    {8, "Q5_0"},    {9, "Q5_1"},
      {10, "Q2_K"},   {11, "Q3_K_S"}, {12, "Q3_K_M"}, {13, "Q3_K_L"}, {14, "Q4_K_S"}, {15, "Q4_K_M"}, {16, "Q5_K_S"},
      {17, "Q5_K_M"}, {18, "Q6_K"},   {25, "IQ4_NL"}, {30, "IQ4_XS"}, {32, "BF16"}};
  if (!file.has("general.file_type")) return {};
  const int64_t number = file.get_int("general.file_type");
  const auto known = std::ranges::find(kNames, number, [](const auto& entry) { return entry.first; });
  return known == std::end(kNames) ? std::string_view{} : known->second;
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
  const ModelFile& file = *state_->model.file;
  const std::string_view mix = mix_name(file);
  return cat(state_->model.spec.architecture, " ", short_count(num_parameters()), " ",
             mix.empty() ? main_format(file) : mix);
}

}  // namespace imp
