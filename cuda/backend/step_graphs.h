#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "exec/backend.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// "a step of 1 token of 1 sequence, context up to 256"
std::string words_of(const StepShape& shape);

/// runtime.cuda_graphs and what belongs to it.
struct GraphSettings {
  std::string mode = "auto";             // "always": a step that cannot be recorded is an error; "never"
  std::string capture_mode = "relaxed";  // "global", "thread_local"
  bool log = false;                      // diagnostics.graph_diag
  std::string dump_dir = {};             // diagnostics.graph_dump_dir; "" writes nothing
};
/// Errors: io, where the folder for graphs cannot be written.
GraphSettings graph_settings(const Settings& settings);
/// The same for prompts, which need not be recorded: runtime.cuda_graphs = "always" speaks of decode steps.
GraphSettings prefill_graph_settings(const Settings& settings);

/// Forward passes by shape: the first of a shape runs as it is, the second is captured, later ones are replayed. A
/// shape whose capture is refused runs as it is from then on, and the reason is kept. Graphs are kept for the shapes
/// used last; one that was dropped starts again.
class StepGraphs {
 public:
  /// A graph of an 8B model's step has some 180 kernels; batches of many sizes at many lengths make thousands of
  /// shapes.
  static constexpr int kMaxGraphs = 128;

  explicit StepGraphs(GraphSettings settings = {}) : settings_(std::move(settings)) {}
  ~StepGraphs() { clear(); }
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  bool enabled() const { return settings_.mode != "never"; }
  void run(const StepShape& shape, const LaunchContext& context, const std::function<void()>& forward);
  void clear();

  int64_t captures() const { return captures_; }
  int64_t replays() const { return replays_; }
  const std::vector<std::string>& refusals() const { return refusals_; }  // a sentence a shape
  GraphStats stats(const LaunchContext& context) const;

 private:
  struct Entry {
    cudaGraphExec_t exec = nullptr;
    bool refused = false;
    int64_t replays = 0;
    int64_t last_used = 0;                    // in replays_ of all
    std::map<std::string, int64_t> launches;  // of one replay
    int64_t pdl_launches = 0;
  };
  std::string capture(const StepShape& shape, Entry& entry, const LaunchContext& context,
                      const std::function<void()>& forward);
  void inspect(const StepShape& shape, cudaGraph_t graph) const;
  void drop_the_least_used(const LaunchContext& context);
  void release(const StepShape& shape, Entry& entry) const;

  GraphSettings settings_;
  std::map<StepShape, Entry> entries_;
  int num_graphs_ = 0;
  int64_t captures_ = 0, replays_ = 0;
  std::vector<std::string> refusals_;
};

}  // namespace imp::cuda
