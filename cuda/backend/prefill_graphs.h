#pragma once
#include <list>
#include <memory>

#include "backend/step_graphs.h"

namespace imp::cuda {

/// runtime.prefill_graph: short prefills whose shape comes by often. A step of a few hundred tokens may be over before
/// the host has launched it; a longer one hides the host's work behind its own. Recording takes as long as some 15
/// replays save, and prompts have many lengths: a shape is recorded when it comes by for the 16th time, and graphs are
/// kept for the shapes used last.
class PrefillGraphs {
 public:
  static constexpr int64_t kMaxTokens = 512;
  static constexpr int kTimesBefore = 15;  // as it is
  static constexpr size_t kMaxGraphs = 32, kMaxSeen = 256;

  using Make = std::function<std::unique_ptr<StepGraphs>()>;
  /// `make` gives the keeper of one shape; none where steps are not to be recorded.
  explicit PrefillGraphs(Make make) : make_(std::move(make)) {}

  bool takes(const StepShape& shape) const { return make_ && shape.num_tokens <= kMaxTokens; }
  void run(const StepShape& shape, const LaunchContext& context, const std::function<void()>& forward);
  void clear();

  int64_t captures() const { return captures_; }
  int64_t replays() const { return replays_; }
  const std::vector<std::string>& refusals() const { return refusals_; }

 private:
  struct Kept {
    StepShape shape;
    std::unique_ptr<StepGraphs> graphs;
  };
  struct Seen {
    StepShape shape;
    int times;
  };
  bool comes_often(const StepShape& shape);

  Make make_;
  std::list<Kept> kept_;  // the one used last first
  std::list<Seen> seen_;  // shapes without a graph; likewise
  int64_t captures_ = 0, replays_ = 0;
  std::vector<std::string> refusals_;
};

}  // namespace imp::cuda
