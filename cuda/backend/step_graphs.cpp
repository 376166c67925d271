#include "backend/step_graphs.h"

#include <algorithm>
#include <cstdio>
#include <exception>

#include "config/config.h"
#include "core/directory.h"
#include "core/error.h"

namespace imp::cuda {
namespace {

cudaStreamCaptureMode capture_mode(const std::string& name) {
  if (name == "global") return cudaStreamCaptureModeGlobal;
  return name == "thread_local" ? cudaStreamCaptureModeThreadLocal : cudaStreamCaptureModeRelaxed;
}

void print_line(const std::string& text) { std::fprintf(stderr, "imp: graph: %s\n", text.c_str()); }

/// "169 kernels, 1 other": the nodes of a graph by kind.
std::string nodes_of(cudaGraph_t graph) {
  size_t count = 0;
  check(cudaGraphGetNodes(graph, nullptr, &count), "cudaGraphGetNodes");
  std::vector<cudaGraphNode_t> nodes(count);
  check(cudaGraphGetNodes(graph, nodes.data(), &count), "cudaGraphGetNodes");
  size_t kernels = 0, copies = 0, fills = 0;
  for (cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    check(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
    kernels += type == cudaGraphNodeTypeKernel;
    copies += type == cudaGraphNodeTypeMemcpy;
    fills += type == cudaGraphNodeTypeMemset;
  }
  return cat(kernels, " kernels, ", copies, " copies, ", fills, " fills, ", count - kernels - copies - fills,
             " others");
}

}  // namespace

std::string words_of(const StepShape& shape) {
  return cat("a step of ", shape.num_tokens, shape.num_tokens == 1 ? " token" : " tokens", " of ", shape.num_sequences,
             shape.num_sequences == 1 ? " sequence" : " sequences", ", context up to ", shape.max_context_len);
}

GraphSettings graph_settings(const Settings& settings) {
  GraphSettings graphs{.mode = settings.runtime.cuda_graphs,
                       .capture_mode = settings.runtime.graph_capture_mode,
                       .log = settings.diagnostics.graph_diag,
                       .dump_dir = settings.diagnostics.graph_dump_dir};
  if (settings.diagnostics.profile) graphs.mode = "never";  // times are taken between ops
  if (!graphs.dump_dir.empty()) make_writable_directory(graphs.dump_dir, "diagnostics.graph_dump_dir");
  return graphs;
}

GraphSettings prefill_graph_settings(const Settings& settings) {
  GraphSettings graphs = graph_settings(settings);
  if (graphs.mode == "always") graphs.mode = "auto";
  return graphs;
}

void StepGraphs::run(const StepShape& shape, const LaunchContext& context, const std::function<void()>& forward) {
  const auto [at, is_new] = entries_.try_emplace(shape);
  Entry& entry = at->second;
  // Library handles and attributes settle outside of a capture.
  if (is_new || entry.refused) return forward();
  if (!entry.exec) {
    if (num_graphs_ == kMaxGraphs) drop_the_least_used(context);
    if (const std::string reason = capture(shape, entry, context, forward); !reason.empty()) {
      entry.refused = true;
      refusals_.push_back(cat(words_of(shape), ": ", reason));
      if (settings_.log) print_line(cat("refused: ", refusals_.back()));
      if (settings_.mode == "always")
        fail(ErrorCode::cuda, "runtime.cuda_graphs is \"always\", and ", refusals_.back(),
             "; \"auto\" runs such steps without a graph");
      return forward();
    }
    ++captures_;
    ++num_graphs_;
  }
  check(cudaGraphLaunch(entry.exec, context.stream), "cudaGraphLaunch");
  for (const auto& [name, count] : entry.launches) (*context.launches)[name] += count;
  if (context.pdl_launches) *context.pdl_launches += entry.pdl_launches;
  ++entry.replays;
  entry.last_used = ++replays_;
}

/// Records `forward` into the entry; "" or why that cannot be. What is no fault of the recording is thrown.
std::string StepGraphs::capture(const StepShape& shape, Entry& entry, const LaunchContext& context,
                                const std::function<void()>& forward) {
  const std::map<std::string, int64_t> before = *context.launches;
  const int64_t pdl_before = context.pdl_launches ? *context.pdl_launches : 0;
  std::exception_ptr thrown;
  std::string reason;
  check(cudaStreamBeginCapture(context.stream, capture_mode(settings_.capture_mode)), "cudaStreamBeginCapture");
  try {
    forward();
  } catch (const Error& error) {
    reason = error.what();
    if (error.code() != ErrorCode::cuda) thrown = std::current_exception();
  } catch (...) {
    thrown = std::current_exception();
  }
  // Also after an error: a stream left in a capture would refuse all later work.
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(context.stream, &graph);
  for (const auto& [name, count] : *context.launches) {
    const auto earlier = before.find(name);
    const int64_t own = count - (earlier == before.end() ? 0 : earlier->second);
    if (own > 0) entry.launches[name] = own;
  }
  *context.launches = before;  // capturing launched nothing
  if (context.pdl_launches) {
    entry.pdl_launches = *context.pdl_launches - pdl_before;
    *context.pdl_launches = pdl_before;
  }
  if (ended != cudaSuccess && reason.empty())
    reason = cat("cudaStreamEndCapture: ", cudaGetErrorName(ended), ": ", cudaGetErrorString(ended));
  if (reason.empty()) {
    inspect(shape, graph);
    const cudaError_t made = cudaGraphInstantiate(&entry.exec, graph, 0);
    if (made != cudaSuccess) {
      entry.exec = nullptr;
      reason = cat("cudaGraphInstantiate: ", cudaGetErrorName(made), ": ", cudaGetErrorString(made));
    }
  }
  if (graph) static_cast<void>(cudaGraphDestroy(graph));
  if (!reason.empty()) static_cast<void>(cudaGetLastError());  // it is told; later launches must not find it
  if (thrown) std::rethrow_exception(thrown);
  return reason;
}

/// diagnostics.graph_diag and graph_dump_dir.
void StepGraphs::inspect(const StepShape& shape, cudaGraph_t graph) const {
  if (settings_.log)
    print_line(cat("capture (", settings_.capture_mode, "): ", words_of(shape), ": ", nodes_of(graph)));
  if (settings_.dump_dir.empty()) return;
  const std::string path =
      cat(settings_.dump_dir, "/graph_tokens", shape.num_tokens, "_sequences", shape.num_sequences, "_query",
          shape.max_query_len, "_context", shape.max_context_len, "_rows", shape.num_logit_rows, "_drawn",
          shape.num_drawn, shape.plain_draws ? "" : "_filtered", ".dot");
  check(cudaGraphDebugDotPrint(graph, path.c_str(), cudaGraphDebugDotFlagsVerbose), path.c_str());
}

GraphStats StepGraphs::stats(const LaunchContext& context) const {
  return {.captures = captures_,
          .replays = replays_,
          .mode = settings_.mode,
          .reason = enabled() ? "decode steps are recorded when their shape comes by again"
                              : "runtime.cuda_graphs is \"never\", a diagnostic needs the host between ops, or sizes "
                                "change (attention.force_cublas_decode)",
          .capture_mode = settings_.capture_mode,
          .refusals = refusals_,
          .early_launch = context.pdl,
          .pdl_launches = context.pdl_launches ? *context.pdl_launches : 0};
}

void StepGraphs::drop_the_least_used(const LaunchContext& context) {
  const auto last_used = [](const auto& of) { return of.second.exec ? of.second.last_used : INT64_MAX; };
  const auto oldest = std::ranges::min_element(entries_, {}, last_used);
  check(cudaStreamSynchronize(context.stream), "waiting for the device");  // its last replay may still run
  release(oldest->first, oldest->second);
  entries_.erase(oldest);
  --num_graphs_;
}

void StepGraphs::release(const StepShape& shape, Entry& entry) const {
  if (!entry.exec) return;
  if (settings_.log) print_line(cat(words_of(shape), ": replayed ", entry.replays, " times"));
  static_cast<void>(cudaGraphExecDestroy(entry.exec));
}

void StepGraphs::clear() {
  for (auto& [shape, entry] : entries_) release(shape, entry);
  entries_.clear();
  num_graphs_ = 0;
}

}  // namespace imp::cuda
