#pragma once
#include <memory>
#include <string>

#include "formats/model_file.h"

namespace imp {

/// A GGUF file, or the first shard of a split model together with its siblings.
std::unique_ptr<ModelFile> open_gguf_file(const std::string& path);

}  // namespace imp
