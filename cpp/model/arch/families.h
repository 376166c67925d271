#pragma once
#include "model/spec.h"

namespace imp {

class ModelFile;

// One function a family, each in the file of its name; the registry in model/arch.cpp lists them.
ModelSpec read_llama_spec(const ModelFile& file);
ModelSpec read_qwen2_spec(const ModelFile& file);
ModelSpec read_qwen3_spec(const ModelFile& file);
ModelSpec read_gemma3_spec(const ModelFile& file);

}  // namespace imp
