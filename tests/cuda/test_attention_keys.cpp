#include <doctest/doctest.h>

#include <cmath>

#include "config/config.h"
#include "exec/backend.h"
#include "support/compare.h"
#include "support/cuda_engine.h"
#include "support/paged_batch.h"

// The keys of [attention] that concern prefill, flipped, and the kernels that then run. Which one is chosen on GPUs of
// other kinds is tested in test_attention_table.cpp.

using namespace imp;
using namespace imp::test;

namespace {

using Launches = std::map<std::string, int64_t>;

/// What a backend with these settings launches for one layer of one prompt, and what comes out.
struct Run {
  Launches launches;
  std::vector<float> out;
  std::map<MemoryTag, uint64_t> memory;

  bool ran(const std::string& kernel) const { return launches.contains(kernel); }
};
Run run(const Overrides& keys, int head_dim, int tokens) {
  Config config;
  for (const auto& [key, value] : keys) config.set("attention." + key, value);
  config.resolve();
  BackendOptions options = {};
  options.settings = &config.settings();
  const std::unique_ptr<Backend> backend = make_cuda_backend(options, 0);

  Random random(1);
  PagedBatch paged({{tokens, tokens}}, 2, head_dim, random);
  paged.fill(random, 1, 2);
  constexpr int kHeads = 8;
  const int64_t width = kHeads * head_dim;
  const std::vector<float> q = random.normals(tokens * width, 1);
  ModelSpec spec;
  spec.context_length = 4096;
  spec.layers.resize(1);
  AttentionSpec& layer = spec.layers[0].attention;
  layer.num_heads = kHeads, layer.num_kv_heads = 2, layer.head_dim = head_dim;
  backend->begin_load(spec);
  backend->finish_load({.max_tokens = tokens, .max_sequences = 1, .max_logit_rows = 1});

  const auto on_device = [&](const auto* data, size_t count) {
    void* memory = backend->allocate(count * sizeof(*data), MemoryTag::other);
    backend->upload(memory, data, count * sizeof(*data));
    return memory;
  };
  const SequenceBatch host = paged.batch();
  AttentionArgs args = {};
  args.q = f32_view(static_cast<float*>(on_device(q.data(), q.size())), tokens, width);
  args.out = f32_view(static_cast<float*>(backend->allocate(q.size() * 4, MemoryTag::other)), tokens, width);
  args.num_heads = kHeads;
  args.scale = 1 / std::sqrt(static_cast<float>(head_dim));
  args.cache = paged.cache();
  args.cache.k = on_device(paged.k().data(), paged.k().size());
  args.cache.v = on_device(paged.v().data(), paged.v().size());
  args.batch = host;
  args.batch.query_start = static_cast<int32_t*>(on_device(host.query_start, 2));
  args.batch.context_len = static_cast<int32_t*>(on_device(host.context_len, 1));
  args.batch.block_tables =
      static_cast<int32_t*>(on_device(host.block_tables, static_cast<size_t>(host.block_table_stride)));
  backend->attention(args);
  Run result;
  result.out.resize(q.size());
  backend->download(result.out.data(), args.out.data, q.size() * 4);
  result.launches = backend->launches();
  result.memory = backend->memory_by_tag();
  return result;
}

/// Of all values, as a share of their length.
double distance(const Run& a, const Run& b) { return test::distance(a.out, b.out); }

Engine engine(Overrides keys) {
  for (auto& [key, value] : keys) key = "attention." + key;
  return on_device(keys);
}

}  // namespace

TEST_CASE("attention.fmha_fa2: heads of 128 go to the tiled kernel without it") {
  const Run plain = run({}, 128, 300), without = run({{"fmha_fa2", "never"}}, 128, 300);
  CHECK_FALSE(plain.ran("attention_tiled"));
  CHECK(without.launches == Launches{{"attention_tiled", 1}});
  CHECK(distance(plain, without) < 1e-3);
  CHECK(run({{"fmha_fa2", "never"}}, 64, 300).launches == run({}, 64, 300).launches);
}

TEST_CASE("attention.fmha_sm120: other heads have no fused kernel without it") {
  const Launches scores = {{"attention_scores_softmax", 1}, {"attention_scores_values", 1}};
  for (int head_dim : {64, 96}) {
    const Run plain = run({}, head_dim, 300), without = run({{"fmha_sm120", "never"}}, head_dim, 300);
    CHECK_FALSE(plain.ran("attention_scores_softmax"));
    CHECK(plain.memory.count(MemoryTag::attn_scores) == 0);
    CHECK(without.launches == scores);
    CHECK(without.memory.at(MemoryTag::attn_scores) == uint64_t{384} << 20);
    CHECK(distance(plain, without) < 1e-3);
  }
  CHECK(run({{"fmha_sm120", "never"}}, 128, 300).launches == run({}, 128, 300).launches);
  CHECK(run({{"fmha_sm120", "never"}, {"fmha_fa2", "never"}}, 128, 300).launches == scores);
}

TEST_CASE("attention.fa2_fp16qk: short prompts of heads of 128, fused or not") {
  const Run fused = run({}, 128, 200), not_fused = run({{"fa2_fp16qk", "never"}}, 128, 200);
  CHECK_FALSE(fused.ran("attention_scores_softmax"));
  CHECK(not_fused.ran("attention_scores_softmax"));
  CHECK(distance(fused, not_fused) < 1e-3);
}

TEST_CASE("attention.fmha_prefill_threshold: 255 and 256 tokens") {
  const Overrides keys = {{"fmha_prefill_threshold", "256"}};
  CHECK(run(keys, 64, 255).ran("attention_scores_softmax"));
  CHECK_FALSE(run(keys, 64, 256).ran("attention_scores_softmax"));
}

TEST_CASE("attention.attn_scores_mib: memory, and the threshold that follows from it") {
  // 8 heads and 1 MiB: floor(sqrt(2^20 / 16)) = 256 tokens.
  const Overrides keys = {{"fa2_fp16qk", "never"}, {"attn_scores_mib", "1"}};
  const Run fits = run(keys, 128, 256);
  CHECK(fits.ran("attention_scores_softmax"));
  CHECK(fits.memory.at(MemoryTag::attn_scores) == 1 << 20);
  CHECK_FALSE(run(keys, 128, 257).ran("attention_scores_softmax"));
  const Run none = run({{"fa2_fp16qk", "never"}, {"attn_scores_mib", "0"}}, 128, 100);
  CHECK_FALSE(none.ran("attention_scores_softmax"));
  CHECK(none.memory.count(MemoryTag::attn_scores) == 0);
  // Where nothing else may serve, what does not fit comes in slices.
  const Run sliced = run({{"fmha_sm120", "never"}, {"attn_scores_mib", "1"}}, 64, 1000);
  CHECK(sliced.launches.at("attention_scores_softmax") > 10);
  CHECK(distance(sliced, run({}, 64, 1000)) < 1e-3);
}

TEST_CASE("the whole engine: the keys reach the kernels, the report and the memory, and change no answer") {
  Engine plain = engine({}), changed = engine({{"fmha_sm120", "never"}, {"attn_scores_mib", "2"}});
  const Completion expected = complete(plain, prompt_of(60), greedy(8));
  CHECK(complete(changed, prompt_of(60), greedy(8)) == expected);
  CHECK(report_number(plain.report_json(), {"launches", "attention_tiled"}) > 0);
  CHECK(report_number(changed.report_json(), {"launches", "attention_tiled"}) == -1);
  CHECK(report_number(changed.report_json(), {"launches", "attention_scores_softmax"}) > 0);
  CHECK(report_number(changed.report_json(), {"mem", "attn_scores"}) == 2 << 20);
}
