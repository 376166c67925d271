#include "formats/model_file.h"

#include "core/error.h"
#include "formats/gguf_file.h"
#include "formats/meta_value.h"
#include "formats/quoted.h"

namespace imp {

int64_t TensorInfo::num_elements() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;  // the reader has bounded the product by 2^48
  return product;
}

static const MetaValue& require(const ModelFile& file, std::string_view key) {
  const MetaValue* value = file.find(key);
  if (!value) fail(ErrorCode::invalid_model, file.path(), ": key ", quoted(key), " is missing");
  return *value;
}

int64_t ModelFile::get_int(std::string_view key) const { return meta_int(path(), key, require(*this, key)); }

int64_t ModelFile::get_int(std::string_view key, int64_t fallback) const {
  const MetaValue* value = find(key);
  return value ? meta_int(path(), key, *value) : fallback;
}

double ModelFile::get_float(std::string_view key) const { return meta_float(path(), key, require(*this, key)); }

double ModelFile::get_float(std::string_view key, double fallback) const {
  const MetaValue* value = find(key);
  return value ? meta_float(path(), key, *value) : fallback;
}

bool ModelFile::get_bool(std::string_view key, bool fallback) const {
  const MetaValue* value = find(key);
  return value ? meta_bool(path(), key, *value) : fallback;
}

std::string ModelFile::get_string(std::string_view key) const { return meta_string(path(), key, require(*this, key)); }

std::string ModelFile::get_string(std::string_view key, std::string_view fallback) const {
  const MetaValue* value = find(key);
  return value ? meta_string(path(), key, *value) : std::string(fallback);
}

const std::vector<std::string>* ModelFile::find_strings(std::string_view key) const {
  const MetaValue* value = find(key);
  return value ? &meta_strings(path(), key, *value) : nullptr;
}

std::unique_ptr<ModelFile> open_model_file(const std::string& path) { return open_gguf_file(path); }

}  // namespace imp
