#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "formats/model_file.h"

namespace imp::test {

/// A model file that is only metadata, for what reads metadata.
class FakeModelFile final : public ModelFile {
 public:
  FakeModelFile& set(const std::string& key, MetaValue value) {
    values_[key] = std::move(value);
    return *this;
  }
  FakeModelFile& erase(const std::string& key) {
    values_.erase(key);
    return *this;
  }
  template <class List>
  List& list(const std::string& key) {
    return std::get<List>(values_.try_emplace(key, List{}).first->second);
  }

  const std::string& path() const override { return path_; }
  std::string_view format_name() const override { return "fake"; }
  uint64_t file_bytes() const override { return 0; }
  std::span<const TensorInfo> tensors() const override { return {}; }
  const TensorInfo* find_tensor(std::string_view) const override { return nullptr; }
  const MetaValue* find(std::string_view key) const override {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
  }
  std::vector<std::string> keys() const override {
    std::vector<std::string> names;
    for (const auto& [key, value] : values_) names.push_back(key);
    return names;
  }

 private:
  std::string path_ = "fake.gguf";
  std::map<std::string, MetaValue, std::less<>> values_;
};

}  // namespace imp::test
