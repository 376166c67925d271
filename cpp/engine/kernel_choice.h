#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "engine/load.h"

namespace imp {

/// Linears of a model that are alike to the tables: role, format and shape.
struct LinearClass {
  LinearRole role;
  WeightFormat format;
  int64_t n = 0, k = 0;
  int num_layers = 0;  // that have it
};
std::vector<LinearClass> linear_classes(const LoadedModel& model);

std::string_view linear_role_name(LinearRole role);

/// Name of the candidate that is taken, "" where all refuse.
std::string_view chosen(const std::vector<Verdict>& verdicts);

AttentionQuery attention_query(const AttentionSpec& attention, int64_t tokens, int query_len, int context_len);

}  // namespace imp
