#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "support/capture_stderr.h"
#include "support/engine_runs.h"

// Each key whose effect on a GPU differs from that on a CPU, flipped, with the change it makes.

using namespace imp;
using namespace imp::test;

namespace {

Engine on_device(const Overrides& overrides = {}, const std::string& name = "tiny-llama",
                 uint64_t budget = uint64_t{1} << 30) {
  return engine_with({.path = tiny_model(name), .device = "cuda", .budget_bytes = budget}, overrides);
}

double graphs(const Engine& engine, const std::string& field) {
  return report_number(engine.report_json(), {"graphs", field});
}

double launches(const Engine& engine, const std::string& kernel) {
  return std::max(0.0, report_number(engine.report_json(), {"launches", kernel}));
}

}  // namespace

TEST_CASE("runtime.cuda_graphs: steps are replayed, or never; the text is the same") {
  Completion eager;
  for (const std::string mode : {"never", "auto", "always"}) {
    CAPTURE(mode);
    Engine engine = on_device({{"runtime.cuda_graphs", mode}});
    CHECK(contains(engine.report_json(), "\"cuda_graphs\":\"" + mode + "\""));
    CHECK(contains(engine.explain_json({1}), "\"graphs\":{\"mode\":\"" + mode + "\""));
    const Completion text = complete(engine, prompt_of(20), greedy(40));
    if (mode == "never") {
      eager = text;
      CHECK(graphs(engine, "captures") == 0);
      CHECK(graphs(engine, "replays") == 0);
    } else {
      CHECK(text == eager);
      CHECK(graphs(engine, "captures") >= 1);
      CHECK(graphs(engine, "replays") >= 37);  // of 39 decode steps the first is run as it is
    }
  }
}

TEST_CASE("runtime.graph_capture_mode reaches the report") {
  for (const std::string mode : {"relaxed", "thread_local", "global"}) {
    Engine engine = on_device({{"runtime.graph_capture_mode", mode}});
    complete(engine, prompt_of(20), greedy(10));
    CHECK(contains(engine.report_json(), "\"capture_mode\":\"" + mode + "\",\"refusals\":[]"));
    CHECK(graphs(engine, "captures") >= 1);
  }
}

TEST_CASE("runtime.cuda_graphs = always with a diagnostic that needs the host is refused with both names") {
  const std::string text =
      error_of([] { on_device({{"runtime.cuda_graphs", "always"}, {"diagnostics.debug_forward", "true"}}); },
               ErrorCode::invalid_argument);
  CHECK(contains(text, "diagnostics.debug_forward needs runtime.cuda_graphs = \"never\""));
}

TEST_CASE("runtime.warmup runs the kernels and records the decode step before the first request") {
  Engine cold = on_device(), warm = on_device({{"runtime.warmup", "true"}});
  CHECK(launches(cold, "embed_rows") == 0);
  CHECK(launches(warm, "embed_rows") >= 3);
  CHECK(graphs(cold, "captures") == 0);
  CHECK(graphs(warm, "captures") >= 1);
  CHECK(report_number(warm.report_json(), {"kv", "blocks_used"}) == 0);
  const Completion text = complete(warm, prompt_of(20), greedy(30));
  CHECK(text == complete(cold, prompt_of(20), greedy(30)));
  Engine tiny = on_device({{"runtime.warmup", "true"}, {"runtime.max_seq_len", "16"}});
  CHECK(complete(tiny, prompt_of(5), greedy(4)).tokens.size() == 4);
}

TEST_CASE("runtime.no_pdl: no kernel starts early; the text is the same") {
  Engine early = on_device(), plain = on_device({{"runtime.no_pdl", "true"}});
  const Completion text = complete(early, prompt_of(20), greedy(30));
  CHECK(complete(plain, prompt_of(20), greedy(30)) == text);
  CHECK(graphs(plain, "pdl_launches") == 0);
  CHECK(contains(plain.explain_json({1}), "\"early_launch\":false"));
  if (contains(early.explain_json({1}), "\"early_launch\":true")) {
    CHECK(graphs(early, "pdl_launches") > 30 * 3 * 4);  // of each step, layer and op
  } else {
    CHECK(contains(plain.report_json(), "runtime.no_pdl has no effect"));
  }
}

TEST_CASE(
    "runtime.debug_raw: no graphs, no early launches, no integer kernels, nothing warmed up; contradictions are "
    "errors") {
  Engine raw = on_device({{"runtime.debug_raw", "true"}}, "tiny-llama-q8_0");
  Engine fast = on_device({}, "tiny-llama-q8_0");
  CHECK(launches(raw, "embed_packed") == 0);
  complete(raw, prompt_of(20), greedy(10));
  complete(fast, prompt_of(20), greedy(10));
  CHECK(graphs(raw, "captures") == 0);
  CHECK(graphs(raw, "pdl_launches") == 0);
  const auto integer_kernels = [](const Engine& engine) {
    const std::string report = engine.report_json();
    const size_t begin = report.find("\"launches\":{");
    return contains(report.substr(begin, report.find('}', begin) - begin), "dp4a");
  };
  CHECK_FALSE(integer_kernels(raw));
  CHECK(integer_kernels(fast));
  for (const auto& [key, value] : Overrides{{"runtime.cuda_graphs", "always"}, {"runtime.warmup", "true"}}) {
    const std::string text =
        error_of([&] { on_device({{"runtime.debug_raw", "true"}, {key, value}}); }, ErrorCode::invalid_argument);
    CHECK(contains(text, "runtime.debug_raw needs " + key));
  }
}

TEST_CASE("runtime.max_seq_len sizes the cache and bounds a prompt") {
  Engine whole = on_device(), small = on_device({{"runtime.max_seq_len", "64"}});
  const auto pool = [](const Engine& engine) { return report_number(engine.report_json(), {"mem", "kv_pool"}); };
  CHECK(pool(small) * 4 == pool(whole));
  CHECK(contains(error_of([&] { small.submit(prompt_of(64), greedy(1)); }, ErrorCode::invalid_argument),
                 "max_seq_len is 64"));
  CHECK(complete(small, prompt_of(60), greedy(50)).tokens.size() == 4);
}

TEST_CASE(
    "a plan that cannot be is refused with the budget that would do; one that nearly can gets a shorter context") {
  const uint64_t too_little = uint64_t{40} << 20;  // the library alone takes 64
  const std::string text = error_of([&] { on_device({}, "tiny-llama", too_little); }, ErrorCode::out_of_memory);
  CHECK(contains(text, "the model does not fit: weights"));
  CHECK(contains(text, "found 40.0 MiB (asked for)"));
  const size_t at = text.find("need a budget of ");
  REQUIRE(at != std::string::npos);
  const double needed = std::stod(text.substr(at + 17));  // MiB
  CHECK(contains(text.substr(at, 40), "MiB"));
  const auto enough = static_cast<uint64_t>((needed + 0.1) * 1048576);
  Engine engine = on_device({}, "tiny-llama", enough);
  const std::string report = engine.report_json();
  // The arrays of a step and RoPE tables, some kilobytes, are not part of the plan.
  CHECK(report_number(report, {"mem", "total"}) <= static_cast<double>(enough + 65536));
  CHECK(complete(engine, prompt_of(20), greedy(20)).tokens.size() == 20);
}

TEST_CASE("generation.lm_dequant_fp16: the head is held as f16, and gives nearly the same logits") {
  for (const std::string name : {"tiny-llama-q8_0", "tiny-qwen3-q4_k", "tiny-llama"}) {
    CAPTURE(name);
    Engine plain = on_device({}, name), half = on_device({{"generation.lm_dequant_fp16", "true"}}, name);
    CHECK(launches(plain, "dequant_lm_head") == 0);
    CHECK(launches(half, "dequant_lm_head") == 1);
    CHECK(contains(half.report_json(), "\"lm_head,F16,"));
    const double more =
        report_number(half.report_json(), {"mem", "weights"}) - report_number(plain.report_json(), {"mem", "weights"});
    const double vocab = report_number(half.explain_json({1}), {"vocab_size"});
    CHECK(more == 2 * vocab * report_number(half.explain_json({1}), {"hidden_size"}));
    const std::vector<float> expected = plain.logits(prompt_of(5), false), found = half.logits(prompt_of(5), false);
    float highest = 0, off = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      highest = std::max(highest, std::abs(expected[i]));
      off = std::max(off, std::abs(found[i] - expected[i]));
    }
    CHECK(off < 0.03f * highest);
  }
}

TEST_CASE("ffn.sparsity_threshold has no mechanism on a GPU, and the report says so") {
  Engine plain = on_device({}, "tiny-llama-q8_0");
  Engine asked = on_device({{"ffn.sparsity_threshold", "0.01"}}, "tiny-llama-q8_0");
  CHECK(contains(asked.report_json(), "ffn.sparsity_threshold has no effect on CUDA"));
  CHECK(complete(asked, prompt_of(8), greedy(12)) == complete(plain, prompt_of(8), greedy(12)));
}

TEST_CASE("diagnostics.graph_diag and graph_dump_dir: what they say is what the report counts") {
  TempDir dir;
  double captures = 0;
  const std::string text = stderr_of(dir, [&] {
    Engine engine = on_device({{"diagnostics.graph_diag", "true"}, {"diagnostics.graph_dump_dir", dir / "graphs"}});
    complete(engine, prompt_of(20), greedy(20));
    captures = graphs(engine, "captures");
  });
  CHECK(captures >= 1);
  size_t lines = 0;
  for (size_t at = text.find("imp: graph: capture ("); at != std::string::npos;
       at = text.find("imp: graph: capture (", at + 1))
    ++lines;
  CHECK(lines == static_cast<size_t>(captures));
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir / "graphs"))
    files += entry.path().extension() == ".dot";
  CHECK(files == static_cast<size_t>(captures));
}

TEST_CASE("diagnostics.profile: times, bytes and shares of the limit, which sum up to the time of the steps") {
  TempDir dir;
  Completion profiled;
  const std::string text = stderr_of(dir, [&] {
    Engine engine = on_device({{"diagnostics.profile", "true"}});
    profiled = complete(engine, prompt_of(100), greedy(40));
    const std::string report = engine.report_json();
    const auto of = [&](const std::string& op, const std::string& field) {
      return report_number(report, {"profile", op, field});
    };
    CHECK(of("attention", "calls") == 40 * 3);
    CHECK(of("linear_lm_head", "calls") == 40);
    CHECK(graphs(engine, "replays") == 0);
    double sum = 0;
    for (const char* op : {"embed", "linear_qkv", "qk_rope_kv", "attention", "linear_o", "linear_gate_up",
                           "linear_down", "linear_lm_head", "sample", "queueing"}) {
      CAPTURE(op);
      CHECK(of(op, "seconds") > 0);
      if (std::string(op) != "queueing") {
        CHECK(of(op, "bytes") > 0);
        CHECK(of(op, "of_limit") > 0);
        CHECK(of(op, "of_limit") < 1);
      }
      sum += of(op, "seconds");
    }
    // What the host does before and after a step is not the device's, and takes any time on a busy machine.
    const double forward = report_number(report, {"timings", "forward_s"});
    CHECK(sum < forward);
  });
  CHECK(contains(text, "imp: profile of 40 forward batches"));
  CHECK(contains(text, "of limit"));
  CHECK(contains(text, "imp: linear_lm_head"));
  Engine plain = on_device();
  CHECK(complete(plain, prompt_of(100), greedy(40)) == profiled);
  CHECK(contains(plain.report_json(), "\"profile\":{}"));
}
