#pragma once
#include <string>
#include <vector>

#include "engine/engine.h"

namespace imp {

/// What the engine decided, ran and holds, as one JSON object. Fields: docs/report.md.
std::string make_report(const Engine::State& state);

/// Spec, memory plan and, for each linear role, attention and batch size, the chosen kernel with the reasons of those
/// refused, as one JSON object.
std::string make_explanation(const Engine::State& state, const std::vector<int>& batch_sizes);

/// On stderr, when the engine ends: diagnostics.profile's and ffn.sparsity_probe's tables.
void print_final_tables(const Engine::State& state);

}  // namespace imp
