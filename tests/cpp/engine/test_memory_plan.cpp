#include <doctest/doctest.h>

#include "core/error.h"
#include "engine/memory_plan.h"

using namespace imp;

namespace {

constexpr uint64_t kMiB = 1 << 20;

MemoryQuery query() {
  return {.device_free_bytes = 1000 * kMiB,
          .device_total_bytes = 0,
          .can_exceed_free = false,
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
  CHECK(message.find("need a budget of 185.3 MiB, found 64.0 MiB (asked for); set the memory budget to 185.3 MiB or "
                     "more") != std::string::npos);
  tiny.budget_bytes = static_cast<uint64_t>(185.3 * kMiB);  // what was said, taken at its word
  CHECK(plan_memory(tiny).max_seq_len == 128);
}

TEST_CASE("where even all that is free would not do, no budget is recommended") {
  MemoryQuery tiny = query();
  tiny.device_free_bytes = 150 * kMiB;
  for (const uint64_t asked : {uint64_t{0}, 100 * kMiB, 5000 * kMiB}) {
    CAPTURE(asked);
    tiny.budget_bytes = asked;
    try {
      plan_memory(tiny);
      FAIL("planned more than there is");
    } catch (const Error& error) {
      const std::string_view message = error.what();
      CHECK(message.ends_with("free memory (150.0 MiB are free), or take a smaller model or quantization"));
      CHECK(message.find(asked == 0 ? "found 112.5 MiB (3/4 of the free 150.0 MiB)"
                         : asked == 100 * kMiB
                             ? "found 100.0 MiB (asked for)"
                             : "found 150.0 MiB (all that is free; 4.9 GiB were asked for)") != std::string::npos);
    }
  }
}

TEST_CASE("a budget beyond what is free: a device plans with what is free, a host with the budget") {
  MemoryQuery greedy = query();
  greedy.device_free_bytes = 250 * kMiB;
  greedy.budget_bytes = 5000 * kMiB;
  const MemoryPlan device = plan_memory(greedy);
  CHECK(device.total_bytes() <= 250 * kMiB);
  CHECK(device.max_seq_len == 4096);
  CHECK(device.num_blocks == (250 - 184) * 1024 / 160);
  CHECK(device.table().find("all that is free; 4.9 GiB were asked for") != std::string::npos);
  greedy.can_exceed_free = true;
  CHECK(plan_memory(greedy).num_blocks == 4 * 256);
  CHECK(plan_memory(greedy).budget_bytes == 5000 * kMiB);
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

namespace {

/// A device with room for the copies, that weights in the shape of the others leave.
MemoryQuery with_copies() {
  MemoryQuery roomy = query();
  roomy.device_total_bytes = 1200 * kMiB;
  roomy.prefill_copy_bytes = 180 * kMiB;
  return roomy;
}

}  // namespace

TEST_CASE("copies of weights are kept from what is free beside the pool, and change nothing else") {
  const MemoryPlan without = plan_memory(query()), plan = plan_memory(with_copies());
  CHECK(plan.prefill_copy_bytes == 180 * kMiB);
  CHECK(plan.no_copies == "");
  CHECK(plan.num_blocks == without.num_blocks);
  CHECK(plan.max_seq_len == without.max_seq_len);
  CHECK(plan.total_bytes() == without.total_bytes() + 180 * kMiB);
  CHECK(plan.table().find("copies") != std::string::npos);
  CHECK(without.table().find("copies") == std::string::npos);
  CHECK(without.no_copies == "");  // nobody wants any
}

TEST_CASE("copies leave an eighth of the device alone") {
  // 344 MiB of the rest, 180 of copies and 150 of reserve.
  MemoryQuery tight = with_copies();
  tight.device_free_bytes = (344 + 180 + 150) * kMiB;
  CHECK(plan_memory(tight).prefill_copy_bytes == 180 * kMiB);
  tight.device_free_bytes -= 1;
  const MemoryPlan plan = plan_memory(tight);
  CHECK(plan.prefill_copy_bytes == 0);
  CHECK(plan.num_blocks == 4 * 256);
  CHECK(plan.no_copies == "180.0 MiB are wanted, and 180.0 MiB are left");
  CHECK(plan.table().find("no bf16 copies of weights for prompts: 180.0 MiB are wanted") != std::string::npos);
}

TEST_CASE("a budget that was asked for holds the copies too") {
  MemoryQuery asked = with_copies();
  asked.budget_bytes = (344 + 180) * kMiB;
  CHECK(plan_memory(asked).prefill_copy_bytes == 180 * kMiB);
  asked.budget_bytes -= 1;
  CHECK(plan_memory(asked).prefill_copy_bytes == 0);
  CHECK(plan_memory(asked).num_blocks == 4 * 256);
  // More than there is does not count.
  asked.budget_bytes = 5000 * kMiB;
  asked.device_free_bytes = (344 + 179) * kMiB;
  CHECK(plan_memory(asked).prefill_copy_bytes == 0);
}

TEST_CASE("no copies of more than a quarter of the device, and none where a context is reduced") {
  MemoryQuery large = with_copies();
  large.prefill_copy_bytes = 301 * kMiB;
  large.device_free_bytes = 1100 * kMiB;
  CHECK(plan_memory(large).no_copies == "301.0 MiB are more than a quarter of the device's 1.2 GiB");
  large.prefill_copy_bytes = 300 * kMiB;
  CHECK(plan_memory(large).prefill_copy_bytes == 300 * kMiB);

  MemoryQuery reduced = with_copies();
  reduced.budget_bytes = (100 + 20 + 64 + 25) * kMiB;
  reduced.prefill_copy_bytes = kMiB;
  const MemoryPlan plan = plan_memory(reduced);
  CHECK(plan.prefill_copy_bytes == 0);
  CHECK(plan.max_seq_len == 2560);
  CHECK(plan.no_copies == "memory is short: max_seq_len is reduced");
}
