#pragma once
#include <span>
#include <string_view>

#include "model/spec.h"
#include "model/weights.h"

namespace imp {

class ModelFile;

/// Where a weight lies in the file: "blk.{}.attn_q.weight", with {} for the layer.
struct TensorName {
  WeightRole role;
  std::string_view pattern;
};

/// A family of models: one row of the registry (arch.cpp), one file in model/arch/.
struct Architecture {
  std::string_view name;                     // `general.architecture`
  ModelSpec (*read_spec)(const ModelFile&);  // metadata -> sizes and enums
  std::span<const TensorName> tensor_names;
};

std::span<const Architecture> all_architectures();

/// The row for this file; `unsupported`, listing the known ones, where there is none.
const Architecture& find_architecture(const ModelFile& file);

/// What the file's model is, read by its family and checked: every size within sane limits, heads that divide,
/// enough embedding rows for the tokenizer. Errors are invalid_model (or unsupported), naming key and value.
ModelSpec read_model_spec(const ModelFile& file);

/// The rules that every spec keeps, whoever made it; `where` (a path) opens the message.
void validate(const ModelSpec& spec, std::string_view where);

}  // namespace imp
