#include <doctest/doctest.h>

#include "core/error.h"
#include "engine/memory_plan.h"

using namespace imp;

namespace {

constexpr uint64_t kMiB = 1 << 20;

MemoryQuery query() {
  return {.device_free_bytes = 1000 * kMiB,
          .budget_bytes = 0,
          .weight_bytes = 100 * kMiB,
          .workspace_bytes = 20 * kMiB,
          .vocab_size = 32768,
          .kv = {std::vector<KvLayerShape>(10, {4, 64}), 2},  // 10 KiB a token
          .model_context = 4096,
          .max_seq_len = 0,
          .max_batch_size = 4,
          .max_step_tokens = 512};
}

}  // namespace

TEST_CASE("with room for all, each sequence of the batch gets the model's context") {
  const MemoryPlan plan = plan_memory(query());
  CHECK(plan.budget_bytes == 750 * kMiB);
  CHECK(plan.max_seq_len == 4096);
  CHECK(plan.num_blocks == 4 * 256);
  CHECK(plan.kv_bytes == 160 * kMiB);
  CHECK(plan.max_logit_rows == 512);
  CHECK(plan.reduction == "");
  CHECK(plan.total_bytes() == (100 + 20 + 64 + 160) * kMiB);
  CHECK(plan.total_bytes() <= plan.budget_bytes);
}

TEST_CASE("a smaller context makes a smaller pool") {
  MemoryQuery small = query();
  small.max_seq_len = 1000;
  const MemoryPlan plan = plan_memory(small);
  CHECK(plan.max_seq_len == 1000);
  CHECK(plan.num_blocks == 4 * 63);
}

TEST_CASE("a context that does not fit is reduced to what does, and says why") {
  MemoryQuery tight = query();
  tight.budget_bytes = (100 + 20 + 64 + 25) * kMiB;
  const MemoryPlan plan = plan_memory(tight);
  CHECK(plan.max_seq_len == 2560);
  CHECK(plan.num_blocks == 160);
  CHECK(plan.total_bytes() <= tight.budget_bytes);
  CHECK(plan.reduction == "the KV cache of 25.0 MiB that the budget of 209.0 MiB leaves holds 2560 of 4096 tokens");
  CHECK(plan.table().find("max_seq_len reduced") != std::string::npos);
}

TEST_CASE("an impossible plan is refused with the budget that would do, and that budget does") {
  MemoryQuery tiny = query();
  tiny.budget_bytes = 64 * kMiB;
  std::string message;
  try {
    plan_memory(tiny);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::out_of_memory);
    message = error.what();
  }
  CHECK(message.find("need a budget of 185.2 MiB, found 64.0 MiB (asked for)") != std::string::npos);
  tiny.budget_bytes = 186 * kMiB;
  CHECK(plan_memory(tiny).max_seq_len >= 128);
}

TEST_CASE("a huge vocabulary still has one row of logits a sequence") {
  MemoryQuery wide = query();
  wide.vocab_size = 1 << 24;
  CHECK(plan_memory([&] {
          wide.device_free_bytes = uint64_t{4} << 30;
          return wide;
        }())
            .max_logit_rows == 4);
}

TEST_CASE("the table names every part") {
  const std::string table = plan_memory(query()).table();
  for (const char* part : {"weights", "workspace", "logits", "kv_pool", "total", "budget", "1024 blocks of 16 tokens"})
    CHECK(table.find(part) != std::string::npos);
}
