#include "backend/step_graphs.h"

namespace imp::cuda {

void StepGraphs::run(const StepShape& shape, const LaunchContext& context, const std::function<void()>& forward) {
  const auto [at, is_new] = entries_.try_emplace(shape);
  Entry& entry = at->second;
  if (is_new) return forward();  // library handles and attributes settle outside of a capture
  if (!entry.exec) {
    const std::map<std::string, int64_t> before = *context.launches;
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    try {
      forward();
    } catch (...) {
      // A stream left in a capture would refuse all later work.
      if (cudaStreamEndCapture(context.stream, &graph) == cudaSuccess) static_cast<void>(cudaGraphDestroy(graph));
      *context.launches = before;
      throw;
    }
    check(cudaStreamEndCapture(context.stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&entry.exec, graph, 0), "cudaGraphInstantiate");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    for (const auto& [name, count] : *context.launches) {
      const auto earlier = before.find(name);
      const int64_t own = count - (earlier == before.end() ? 0 : earlier->second);
      if (own > 0) entry.launches[name] = own;
    }
    *context.launches = before;  // capturing launched nothing
    ++captures_;
  }
  check(cudaGraphLaunch(entry.exec, context.stream), "cudaGraphLaunch");
  for (const auto& [name, count] : entry.launches) (*context.launches)[name] += count;
  ++replays_;
}

void StepGraphs::clear() {
  for (auto& [shape, entry] : entries_)
    if (entry.exec) static_cast<void>(cudaGraphExecDestroy(entry.exec));
  entries_.clear();
}

}  // namespace imp::cuda
