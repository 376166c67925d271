#pragma once
#include <string_view>

#include "ops/args.h"

namespace imp {

/// The name of a linear in profiles.
std::string_view op_class(LinearRole role);

/// The least that an op must move and compute: what the profile holds its time against.
struct OpCost {
  double bytes = 0;
  double flops = 0;
};

OpCost cost_of(const EmbedArgs& args);
OpCost cost_of(const RmsNormArgs& args);
OpCost cost_of(const LinearArgs& args);
OpCost cost_of(const QkRopeKvArgs& args);
OpCost cost_of(const AttentionArgs& args);  // the batch's arrays in the host's memory
OpCost cost_of(const SoftcapArgs& args);
OpCost cost_of(const SampleArgs& args);

}  // namespace imp
