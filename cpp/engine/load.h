#pragma once
#include <memory>
#include <string>
#include <vector>

#include "config/config.h"
#include "engine/engine.h"
#include "engine/memory_plan.h"
#include "exec/backend.h"
#include "exec/decoder.h"
#include "formats/model_file.h"
#include "model/spec.h"
#include "model/weights.h"
#include "text/tokenizer.h"

namespace imp {

/// What loading spent its time on, in seconds.
struct LoadTimes {
  double file = 0;       // opening and checking it, and its vocabulary
  double device = 0;     // making the backend
  double weights = 0;    // until they lie on the device as its kernels want them
  double workspace = 0;  // the rest of the memory, libraries, the choice of their kernels
  double total = 0;
};

/// A model on its device, ready to run: what loading leaves behind. Members are in the order of their dependence.
struct LoadedModel {
  std::unique_ptr<ModelFile> file;
  ModelSpec spec;
  ModelTensors tensors;
  std::unique_ptr<Tokenizer> tokenizer;  // null: the file has none
  std::unique_ptr<Backend> backend;
  std::string device_line;
  Weights weights;
  MemoryPlan memory;
  std::vector<KvLayerView> kv;
  std::unique_ptr<Decoder> decoder;
  LoadTimes times;
};

/// Opens, checks, plans and prepares. Decisions that depend on the model are written into `config`
/// (Config::set_automatic); settings that this model or device cannot honour are warned about and listed in `inert`.
LoadedModel load_model(const EngineOptions& options, Config& config, std::vector<std::string>& inert);

/// Weight bytes as stored in the file.
uint64_t tensor_bytes(const ModelFile& file);

}  // namespace imp
