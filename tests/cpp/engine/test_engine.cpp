#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <thread>

#include "engine/engine.h"
#include "engine/memory_plan.h"
#include "exec/decoder.h"
#include "formats/model_file.h"
#include "model/arch.h"
#include "support/engine_runs.h"

using namespace imp;
using namespace imp::test;

namespace {

/// A budget that leaves exactly `blocks` blocks of KV cache.
uint64_t budget_for(int blocks) {
  const auto file = open_model_file(tiny_model());
  const ModelSpec spec = read_model_spec(*file);
  MemoryQuery query{.device_free_bytes = 0,
                    .can_exceed_free = true,
                    .budget_bytes = uint64_t{1} << 40,
                    .weight_bytes = 0,
                    .workspace_bytes = Decoder::workspace_bytes(spec, 512),
                    .vocab_size = spec.vocab_size,
                    .kv = kv_layout(spec),
                    .model_context = 256,
                    .max_seq_len = 0,
                    .max_batch_size = 4,
                    .max_step_tokens = 512};
  for (const TensorInfo& tensor : file->tensors()) query.weight_bytes += tensor.data.size();
  const MemoryPlan plan = plan_memory(query);
  return plan.total_bytes() - plan.kv_bytes + static_cast<uint64_t>(blocks) * query.kv.block_bytes();
}

void open(const std::string& path, const std::string& device) {
  EngineOptions options;
  options.model_path = path;
  options.device = device;
  Engine(options, Config());
}

}  // namespace

TEST_CASE("a batch gives what each request gives alone, and repeats") {
  Engine engine = make_engine();
  std::vector<Completion> alone;
  for (int i = 0; i < 6; ++i) alone.push_back(complete(engine, prompt_of(5 + 17 * i, i), greedy(20 + i)));
  for (int i = 0; i < 6; ++i) CHECK(alone[size_t(i)].tokens.size() == size_t(20 + i));
  for (int repeat = 0; repeat < 2; ++repeat) {
    std::vector<RequestId> ids;
    for (int i = 0; i < 6; ++i) ids.push_back(engine.submit(prompt_of(5 + 17 * i, i), greedy(20 + i)));
    const auto together = finish_all(engine);
    for (int i = 0; i < 6; ++i) CHECK(together.at({ids[size_t(i)], 0}) == alone[size_t(i)]);
  }
  const std::string report = engine.report_json();
  CHECK(report_number(report, {"scheduler", "max_running"}) == 4);
  CHECK(report_number(report, {"kv", "blocks_used"}) == 0);
  CHECK(contains(report, "\"cuda_graphs\":\"never\",\"cuda_graphs_reason\":\"the CPU"));
  CHECK(report_number(report, {"graphs", "replays"}) == 0);
  CHECK(report_number(report, {"graphs", "eager_steps"}) == report_number(report, {"timings", "forward_batches"}));
}

TEST_CASE("preempted sequences give the same tokens") {
  Engine roomy = make_engine();
  Engine tight = make_engine({}, "tiny-llama", budget_for(12));
  CHECK(tight.max_seq_len() == 12 * 16);
  std::vector<RequestId> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(tight.submit(prompt_of(30 + i, i), greedy(60)));
  const auto results = finish_all(tight);
  for (int i = 0; i < 5; ++i)
    CHECK(results.at({ids[size_t(i)], 0}) == complete(roomy, prompt_of(30 + i, i), greedy(60)));
  CHECK(report_number(tight.report_json(), {"scheduler", "preemptions"}) > 0);
  CHECK(report_number(tight.report_json(), {"kv", "blocks_free"}) == 12);
}

TEST_CASE("a max_seq_len that was asked for and does not fit is reduced, and the report says why") {
  Engine engine = make_engine({{"runtime.max_seq_len", "250"}}, "tiny-llama", budget_for(10));
  CHECK(engine.max_seq_len() == 160);
  const std::string report = engine.report_json();
  CHECK(report_number(report, {"effective", "runtime.max_seq_len", "value"}) == 160);
  CHECK(contains(report, "holds 160 of 250 tokens"));
}

TEST_CASE("n samples share the prompt; each depends on seed and index alone") {
  Engine engine = make_engine();
  SamplingParams params = greedy(12);
  params.n = 3;
  const RequestId same = engine.submit(prompt_of(21), params);
  const auto equal = finish_all(engine);
  const Completion one = complete(engine, prompt_of(21), greedy(12));
  for (int i = 0; i < 3; ++i) CHECK(equal.at({same, i}) == one);
  CHECK(report_number(engine.report_json(), {"scheduler", "block_copies"}) == 2);
  CHECK(report_number(engine.report_json(), {"kv", "blocks_used"}) == 0);

  params.temperature = 1;
  params.seed = 77;
  params.n = 6;  // more than the batch has room for
  const RequestId first = engine.submit(prompt_of(21), params);
  const auto some = finish_all(engine);
  const RequestId noise = engine.submit(prompt_of(9), params);
  const RequestId second = engine.submit(prompt_of(21), params);
  const auto again = finish_all(engine);
  std::set<std::vector<TokenId>> different;
  for (int i = 0; i < 6; ++i) {
    CHECK(some.at({first, i}) == again.at({second, i}));
    CHECK(again.at({noise, i}).tokens.size() == 12);
    different.insert(some.at({first, i}).tokens);
  }
  CHECK(different.size() > 3);
}

TEST_CASE("cancel: from another thread, whatever the state; nothing comes after, blocks are free") {
  Engine engine = make_engine();
  std::vector<RequestId> ids;
  for (int i = 0; i < 8; ++i) ids.push_back(engine.submit(prompt_of(40, i), greedy(100)));
  engine.step();
  engine.step();
  std::thread([&] {
    for (RequestId id : ids) engine.cancel(id);
    engine.cancel(123456);  // nobody: ignored
  }).join();
  const auto results = finish_all(engine);
  CHECK(results.size() == 8);
  for (const auto& [id, completion] : results) CHECK(completion.finish == FinishReason::cancelled);
  CHECK(report_number(engine.report_json(), {"kv", "blocks_used"}) == 0);
  for (RequestId id : ids) engine.forget(id);
  CHECK(contains(error_of([&] { engine.timings(ids[0]); }), "there is no request"));
}

TEST_CASE("a sequence ends at the context's end") {
  Engine engine = make_engine({{"runtime.max_seq_len", "40"}});
  CHECK(engine.max_seq_len() == 40);
  SamplingParams params = greedy(-1);
  const Completion out = complete(engine, prompt_of(30), params);
  CHECK(out.tokens.size() == 10);
  CHECK(out.finish == FinishReason::length);
}

TEST_CASE("prompts and parameters that cannot be served are refused at once, in numbers") {
  Engine engine = make_engine({{"runtime.max_seq_len", "32"}});
  const auto submit = [&](std::vector<TokenId> prompt, SamplingParams params = {}) {
    return error_of([&] { engine.submit(prompt, params); });
  };
  CHECK(contains(submit({}), "the prompt has no tokens"));
  CHECK(contains(submit(prompt_of(32)), "the prompt has 32 tokens, but max_seq_len is 32"));
  CHECK(contains(submit({5, 100000}), "token id 100000 at position 1"));
  CHECK(contains(submit({5, -1}), "token id -1 at position 1"));
  SamplingParams bad;
  bad.top_p = 2;
  CHECK(contains(submit({5}, bad), "top_p"));
  CHECK_FALSE(engine.has_work());
  engine.submit(prompt_of(31), greedy(-1));
  CHECK(finish_all(engine).begin()->second.tokens.size() == 1);
}

TEST_CASE("memory that cannot hold the model is an error with the budget that would do") {
  const std::string message = error_of([] { make_engine({}, "tiny-llama", 4096); }, ErrorCode::out_of_memory);
  CHECK(contains(message, "need a budget of"));
  CHECK(contains(error_of([] { open(tiny_model(), "tpu"); }), "expected auto, cpu, cuda or cuda:N"));
  error_of([] { open("/nowhere.gguf", "cpu"); }, ErrorCode::file_not_found);
}

TEST_CASE("logprobs of tokens and of the prompt are those of the logits") {
  Engine engine = make_engine();
  const std::vector<TokenId> prompt = prompt_of(200);  // more rows than one step gives: several chunks
  SamplingParams params = greedy(3);
  params.logprobs = 4;
  params.prompt_logprobs = 2;
  const RequestId id = engine.submit(prompt, params);
  const Completion out = finish_all(engine).at({id, 0});
  CHECK(out.tokens == complete(engine, prompt, greedy(3)).tokens);  // chunked = whole

  const std::vector<float> logits = engine.logits(prompt, true);
  const auto vocab = static_cast<size_t>(engine.vocab_size());
  REQUIRE(logits.size() == prompt.size() * vocab);
  const auto logprob = [&](size_t row, TokenId token) {
    double sum = 0;
    for (size_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[row * vocab + i]));
    return logits[row * vocab + static_cast<size_t>(token)] - std::log(sum);
  };
  const auto rows = engine.prompt_logprobs(id);
  REQUIRE(rows.size() == prompt.size());
  CHECK(rows[0].empty());
  for (size_t t = 1; t < prompt.size(); ++t) {
    REQUIRE(rows[t].size() == 3);
    CHECK(rows[t][0].id == prompt[t]);
    CHECK(rows[t][0].logprob == doctest::Approx(logprob(t - 1, prompt[t])).epsilon(0.001));
    CHECK(rows[t][1].logprob >= rows[t][2].logprob);
  }
  REQUIRE(out.logprobs.size() == 3);
  REQUIRE(out.logprobs[0].size() == 5);
  CHECK(out.logprobs[0][0].id == out.tokens[0]);
  CHECK(out.logprobs[0][0].logprob == doctest::Approx(logprob(prompt.size() - 1, out.tokens[0])).epsilon(0.001));

  const std::vector<float> last = engine.logits(prompt, false);
  for (size_t i = 0; i < vocab; ++i) CHECK(last[i] == doctest::Approx(logits[logits.size() - vocab + i]).epsilon(0.01));
}

TEST_CASE("perplexity is the mean over the second halves of the windows") {
  Engine engine = make_engine();
  const int window = 32;
  const std::vector<TokenId> tokens = prompt_of(3 * window + 7);
  int64_t calls = 0;
  const auto measured = engine.perplexity(tokens, window, [&](int64_t done, int64_t total, double) {
    CHECK(done == ++calls);
    CHECK(total == 3);
    return true;
  });
  CHECK(measured.windows == 3);
  CHECK(measured.scored_tokens == 3 * (window - 1 - window / 2));

  const SpecialTokens& special = engine.tokenizer()->special();
  double sum = 0, squares = 0;
  const auto vocab = static_cast<size_t>(engine.vocab_size());
  for (int w = 0; w < 3; ++w) {
    std::vector<TokenId> input(tokens.begin() + w * window, tokens.begin() + (w + 1) * window);
    if (special.add_bos) input[0] = *special.bos;
    const std::vector<float> logits = engine.logits(input, true);
    for (int p = window / 2; p < window - 1; ++p) {
      double total = 0;
      for (size_t i = 0; i < vocab; ++i) total += std::exp(static_cast<double>(logits[size_t(p) * vocab + i]));
      const double nll = std::log(total) - logits[size_t(p) * vocab + size_t(input[size_t(p + 1)])];
      sum += nll;
      squares += nll * nll;
    }
  }
  const double count = 3 * (window - 1 - window / 2), mean = sum / count;
  CHECK(measured.value == doctest::Approx(std::exp(mean)).epsilon(1e-4));
  const double error = std::sqrt((squares / count - mean * mean) / (count - 1)) * std::exp(mean);
  CHECK(measured.stderr_ == doctest::Approx(error).epsilon(1e-3));

  CHECK(contains(error_of([&] { engine.perplexity(prompt_of(63), window, {}); }), "needs at least 64, found 63"));
  CHECK(contains(error_of([&] { engine.perplexity(tokens, 1000, {}); }), "max_seq_len = 256"));
  const auto stop = [](int64_t, int64_t, double) { return false; };
  error_of([&] { engine.perplexity(tokens, window, stop); }, ErrorCode::cancelled);
  CHECK(report_number(engine.report_json(), {"kv", "blocks_used"}) == 0);
}

TEST_CASE("stop strings work on text, across tokens") {
  Engine engine = make_engine();
  const Completion whole = complete(engine, prompt_of(12), greedy(40));
  const std::string text = whole.text;
  REQUIRE(text.size() > 12);
  size_t at = 4;
  while ((text[at] & 0x80) || (text[at + 1] & 0x80) || (text[at + 2] & 0x80)) ++at;
  SamplingParams params = greedy(40);
  params.stop = {"no such text", text.substr(at, 3)};
  const Completion cut = complete(engine, prompt_of(12), params);
  CHECK(cut.finish == FinishReason::stop);
  CHECK(cut.stop_reason == params.stop[1]);
  CHECK(cut.text == text.substr(0, text.find(params.stop[1])));
  CHECK(cut.tokens.size() < whole.tokens.size());
}

TEST_CASE("bench: prefill and decode extend one sequence until reset") {
  Engine engine = make_engine();
  const std::vector<TokenId> tokens = prompt_of(100);
  engine.bench_prefill(tokens);
  for (int i = 0; i < 28; ++i) engine.bench_decode(5);
  CHECK(report_number(engine.report_json(), {"kv", "blocks_used"}) == 8);
  CHECK(report_number(engine.report_json(), {"timings", "forward_tokens"}) == 128);
  CHECK(contains(error_of([&] { engine.bench_prefill(prompt_of(200)); }), "the bench needs 328 tokens"));
  engine.reset();
  CHECK(report_number(engine.report_json(), {"kv", "blocks_used"}) == 0);
}

TEST_CASE("a request that the bench left no memory for is told so, and runs after reset()") {
  Engine engine = make_engine({{"runtime.max_batch_size", "1"}});
  engine.bench_prefill(prompt_of(engine.max_seq_len()));
  engine.submit(prompt_of(30), greedy(4));
  CHECK(contains(error_of([&] { engine.step(); }), "are held by the bench; reset() gives them back"));
  engine.reset();
  CHECK(complete(engine, prompt_of(30), greedy(4)).tokens.size() == 4);
}

TEST_CASE("reset drops everything that runs or waits") {
  Engine engine = make_engine();
  for (int i = 0; i < 6; ++i) engine.submit(prompt_of(20, i), greedy(50));
  for (int i = 0; i < 5; ++i) engine.step();
  engine.reset();
  CHECK_FALSE(engine.has_work());
  CHECK(report_number(engine.report_json(), {"kv", "blocks_used"}) == 0);
  CHECK(complete(engine, prompt_of(8), greedy(4)).tokens.size() == 4);
}

TEST_CASE("timings add up") {
  Engine engine = make_engine();
  const RequestId id = engine.submit(prompt_of(30), greedy(10));
  finish_all(engine);
  const RequestTimings timings = engine.timings(id);
  CHECK(timings.prompt_tokens == 30);
  CHECK(timings.generated_tokens == 10);
  CHECK(timings.queued_s >= 0);
  CHECK(timings.prefill_s > 0);
  CHECK(timings.decode_s > 0);
}

TEST_CASE("a model without a tokenizer generates ids") {
  Engine engine = make_engine({}, "tiny-qwen3");
  CHECK(engine.tokenizer() == nullptr);
  const Completion out = complete(engine, {1, 2, 3}, greedy(5));
  CHECK(out.tokens.size() == 5);
  CHECK(out.text == "");
  SamplingParams params = greedy(5);
  params.stop = {"x"};
  CHECK(contains(error_of([&] { engine.submit({1}, params); }), "stop strings need a tokenizer"));
}

TEST_CASE("texts that name a device, and texts that name none") {
  CHECK(cuda_device_of("auto") == std::nullopt);
  CHECK(cuda_device_of("cpu") == std::nullopt);
  CHECK(cuda_device_of("cuda") == 0);
  CHECK(cuda_device_of("cuda:0") == 0);
  CHECK(cuda_device_of("cuda:12") == 12);
  for (const char* text : {"", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:1x", "cuda: 1", "cuda:4294967296",
                           "cpu:0", "cuda:0\n"}) {
    CAPTURE(text);
    try {
      cuda_device_of(text);
      FAIL("took it");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::invalid_argument);
      CHECK(contains(error.what(), "is unknown; expected auto, cpu, cuda or cuda:N"));
      CHECK_FALSE(contains(error.what(), "\n"));
    }
  }
}
