#include "formats/gguf_file.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/mapped_file.h"
#include "formats/gguf.h"
#include "formats/meta_value.h"
#include "formats/quoted.h"

namespace imp {
namespace {

/// Finds an index by name without hashing: what names a file chooses must not decide the cost.
class NameIndex {
 public:
  template <class NameOf>
  NameIndex(size_t count, NameOf name_of) {
    entries_.reserve(count);
    for (size_t i = 0; i < count; ++i) entries_.emplace_back(name_of(i), i);
    std::sort(entries_.begin(), entries_.end());
  }
  NameIndex() = default;

  std::optional<size_t> find(std::string_view name) const {
    const auto at = std::lower_bound(entries_.begin(), entries_.end(), std::pair<std::string_view, size_t>(name, 0));
    if (at == entries_.end() || at->first != name) return std::nullopt;
    return at->second;
  }

  /// Two entries of the same name, if there are any.
  std::optional<std::pair<size_t, size_t>> duplicate() const {
    const auto at = std::adjacent_find(entries_.begin(), entries_.end(),
                                       [](const auto& a, const auto& b) { return a.first == b.first; });
    if (at == entries_.end()) return std::nullopt;
    return std::pair(at->second, std::next(at)->second);
  }

 private:
  std::vector<std::pair<std::string_view, size_t>> entries_;
};

/// `<stem>-00001-of-00003.gguf`
struct ShardName {
  std::string stem;
  int64_t number;  // from 1
  int64_t count;
};

std::string five_digits(int64_t number) {
  const std::string digits = cat(number);
  return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
}

std::string shard_path(const std::string& stem, int64_t number, int64_t count) {
  return cat(stem, "-", five_digits(number), "-of-", five_digits(count), ".gguf");
}

std::optional<ShardName> parse_shard_name(const std::string& path) {
  constexpr size_t kTail = sizeof("-00001-of-00003.gguf") - 1;
  if (path.size() < kTail) return std::nullopt;
  ShardName name = {path.substr(0, path.size() - kTail), 0, 0};
  const char* tail = path.data() + name.stem.size();
  std::from_chars(tail + 1, tail + 6, name.number);
  std::from_chars(tail + 10, tail + 15, name.count);
  // Building the name again and comparing checks every character of it.
  if (shard_path(name.stem, name.number, name.count) != path) return std::nullopt;
  return name;
}

class GgufModelFile final : public ModelFile {
 public:
  explicit GgufModelFile(const std::string& path) {
    add_shard(path);
    open_siblings();
    tensors_by_name_ = NameIndex(tensors_.size(), [this](size_t i) -> std::string_view { return tensors_[i].name; });
    if (const auto twins = tensors_by_name_.duplicate()) {
      const TensorInfo& tensor = tensors_[twins->second];
      fail(ErrorCode::invalid_model, shards_[tensor.shard].path(), ": tensor ", quoted(tensor.name), " is also in ",
           shards_[tensors_[twins->first].shard].path());
    }
    // Everything up to here was checked against the size at opening.
    for (const MappedFile& shard : shards_) shard.require_unchanged();
  }

  const std::string& path() const override { return shards_.front().path(); }
  std::string_view format_name() const override { return "GGUF v3"; }
  uint64_t file_bytes() const override {
    uint64_t total = 0;
    for (const MappedFile& shard : shards_) total += shard.bytes().size();
    return total;
  }
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  const TensorInfo* find_tensor(std::string_view name) const override {
    const std::optional<size_t> at = tensors_by_name_.find(name);
    return at ? &tensors_[*at] : nullptr;
  }
  const MetaValue* find(std::string_view key) const override {
    const std::optional<size_t> at = metadata_by_key_.find(key);
    return at ? &metadata_[*at].second : nullptr;
  }
  std::vector<std::string> keys() const override {
    std::vector<std::string> names;
    names.reserve(metadata_.size());
    for (const auto& [key, value] : metadata_) names.push_back(key);
    return names;
  }

 private:
  using Metadata = std::vector<std::pair<std::string, MetaValue>>;

  /// Maps and parses one file. The first gives the metadata; returns those of the later ones.
  Metadata add_shard(const std::string& path) {
    const MappedFile& file = shards_.emplace_back(path);
    GgufContents contents = parse_gguf(file.bytes(), path);
    for (TensorInfo& tensor : contents.tensors) {
      tensor.shard = static_cast<int>(shards_.size()) - 1;
      tensors_.push_back(std::move(tensor));
    }
    if (shards_.size() > 1) return std::move(contents.metadata);
    metadata_ = std::move(contents.metadata);
    metadata_by_key_ = NameIndex(metadata_.size(), [this](size_t i) -> std::string_view { return metadata_[i].first; });
    return {};
  }

  void open_siblings() {
    const std::string first = path();
    const std::optional<ShardName> name = parse_shard_name(first);
    const int64_t count = get_int("split.count", 1);
    if (count < 0 || count > 65535) {
      fail(ErrorCode::invalid_model, first, ": key \"split.count\": expected 0 to 65535, found ", count);
    }
    if (count <= 1) {
      if (!name || name->count <= 1) return;
      fail(ErrorCode::invalid_model, first, ": the name says part ", name->number, " of ", name->count,
           ", but the file has no \"split.count\"; if it was cut into pieces, join them first");
    }
    const int64_t number = get_int("split.no");
    if (!name || name->count != count) {
      fail(ErrorCode::invalid_model, first, ": this is part ", number, " (from 0) of ", count,
           "; to find the others, its name must end in ", shard_path("", 1, count));
    }
    if (number != 0 || name->number != 1) {
      fail(ErrorCode::invalid_model, first, ": this is part ", number + 1, " of ", count, " by its metadata and ",
           name->number, " by its name; open the first part, ", shard_path(name->stem, 1, count));
    }
    for (int64_t i = 2; i <= count; ++i) add_sibling(shard_path(name->stem, i, count), i - 1, count);
    const auto expected = get_int("split.tensors.count", static_cast<int64_t>(tensors_.size()));
    if (expected != static_cast<int64_t>(tensors_.size())) {
      fail(ErrorCode::invalid_model, first, ": key \"split.tensors.count\": ", expected, " tensors expected, the ",
           count, " files hold ", tensors_.size());
    }
  }

  void add_sibling(const std::string& path, int64_t number, int64_t count) {
    const Metadata metadata = add_shard(path);
    const auto require_value = [&](std::string_view key, int64_t expected) {
      const auto at =
          std::find_if(metadata.begin(), metadata.end(), [&](const auto& pair) { return pair.first == key; });
      if (at == metadata.end()) fail(ErrorCode::invalid_model, path, ": key ", quoted(key), " is missing");
      const int64_t found = meta_int(path, key, at->second);
      if (found == expected) return;
      fail(ErrorCode::invalid_model, path, ": key ", quoted(key), ": expected ", expected, ", found ", found,
           "; the parts do not belong together");
    };
    require_value("split.no", number);
    require_value("split.count", count);
  }

  std::vector<MappedFile> shards_;
  Metadata metadata_;
  std::vector<TensorInfo> tensors_;
  NameIndex metadata_by_key_;
  NameIndex tensors_by_name_;
};

}  // namespace

std::unique_ptr<ModelFile> open_gguf_file(const std::string& path) { return std::make_unique<GgufModelFile>(path); }

}  // namespace imp
