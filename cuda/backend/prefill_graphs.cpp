#include "backend/prefill_graphs.h"

#include <algorithm>

namespace imp::cuda {

void PrefillGraphs::run(const StepShape& shape, const LaunchContext& context, const std::function<void()>& forward) {
  const auto recorded = std::ranges::find(kept_, shape, &Kept::shape);
  if (recorded != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, recorded);
  } else {
    if (!comes_often(shape)) return forward();
    kept_.push_front({shape, make_()});
  }
  if (kept_.size() > kMaxGraphs) {
    // What is replayed last may still run, and a graph must outlive that.
    check(cudaStreamSynchronize(context.stream), "waiting for the device");
    kept_.pop_back();
  }
  StepGraphs& graphs = *kept_.front().graphs;
  const int64_t captures = graphs.captures(), replays = graphs.replays();
  const size_t refusals = graphs.refusals().size();
  graphs.run(shape, context, forward);
  captures_ += graphs.captures() - captures;
  replays_ += graphs.replays() - replays;
  refusals_.insert(refusals_.end(), graphs.refusals().begin() + static_cast<int64_t>(refusals),
                   graphs.refusals().end());
}

/// Counts a step of a shape that has no graph. Whoever has been counted out starts again when its graph is dropped.
bool PrefillGraphs::comes_often(const StepShape& shape) {
  const auto known = std::ranges::find(seen_, shape, &Seen::shape);
  if (known != seen_.end())
    seen_.splice(seen_.begin(), seen_, known);
  else
    seen_.push_front({shape, 0});
  if (seen_.size() > kMaxSeen) seen_.pop_back();
  if (++seen_.front().times < kTimesBefore) return false;
  seen_.pop_front();
  return true;
}

void PrefillGraphs::clear() {
  kept_.clear();
  seen_.clear();
}

}  // namespace imp::cuda
