#pragma once
#include "exec/backend.h"
#include "model/weights.h"

namespace imp {

/// Hands every tensor to the backend once, and collects what it made of them.
Weights load_weights(const ModelTensors& tensors, const ModelSpec& spec, Backend& backend);

}  // namespace imp
