#include <doctest/doctest.h>

#include "linear/gemv.h"
#include "support/few.h"
#include "support/linear_call.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

TEST_CASE(
    "outputs of two formats are one launch of a GEMV, in any order and with fewer rows than the card has blocks") {
  Random random(14);
  LinearWorkspace workspace;
  const auto& with = workspace.device.context();
  using F = WeightFormat;
  for (const auto& [q, k, v] : {std::tuple{F::q4_k, F::q4_k, F::q6_k},
                                {F::q6_k, F::q4_k, F::q4_k},
                                {F::q4_k, F::q6_k, F::q4_k},
                                {F::q6_k, F::q6_k, F::q4_k},
                                {F::q5_k, F::q5_k, F::q6_k},
                                {F::q6_k, F::q5_k, F::q5_k},
                                {F::q3_k, F::q3_k, F::q4_k},
                                {F::q2_k, F::q2_k, F::q4_k},
                                {F::q5_0, F::q5_0, F::q8_0},
                                {F::q8_0, F::q5_0, F::q8_0}}) {
    const bool is_rare = q == F::q3_k || q == F::q2_k || k == F::q5_0;  // more launches from 2 tokens on
    for (int64_t cols : {256, 1280, 2048}) {
      const Operand wq(q, 531, cols, random, with), wk(k, 1, cols, random, with), wv(v, 67, cols, random, with);
      for (int64_t m : {1, 2, 3, 8}) {
        workspace.device.launches.clear();
        LinearCall call(m, {&wq, &wk, &wv}, {.norm = true, .bias = true, .pdl = true}, random);
        std::vector<std::vector<float>> y;
        call.run(workspace, "gemv_dp4a", y);
        CAPTURE(info(q).name);
        CAPTURE(info(v).name);
        CAPTURE(cols);
        CAPTURE(m);
        CHECK(call.check(y, std::vector(3, Arithmetic::int8)) == "");
        const int64_t launches = m == 1 || !is_rare ? 1 : q == k ? 2 : 3;
        CHECK(workspace.device.launches == std::map<std::string, int64_t>{{"gemv_dp4a", launches}});
      }
    }
  }
}

TEST_CASE("the 99 KiB of shared memory that smaller GPUs have: the same products") {
  Random random(16);
  LinearWorkspace workspace;
  const auto& with = workspace.device.context();
  using F = WeightFormat;
  int64_t ran = 0;
  for (const auto& [first, second] :
       {std::pair{F::q8_0, F::q8_0}, {F::q4_k, F::q4_k}, {F::q6_k, F::q6_k}, {F::q5_1, F::q5_1}, {F::q4_k, F::q6_k}}) {
    for (int64_t k : {2048, 2304, 8192}) {
      const Operand a(first, 37, k, random, with), b(second, 37, k, random, with);
      workspace.device.max_shared_bytes = 99 * 1024;
      for (int64_t m : {1, 2, 3, 8}) {
        if (!can_run(workspace, "gemv_dp4a", a, m)) continue;
        LinearCall call(m, {&a, &b}, {.norm = true, .bias = true}, random);
        std::vector<std::vector<float>> y;
        call.run(workspace, "gemv_dp4a", y);
        CAPTURE(info(first).name);
        CAPTURE(info(second).name);
        CAPTURE(k);
        CAPTURE(m);
        CHECK(call.check(y, std::vector(2, Arithmetic::int8)) == "");
        ++ran;
      }
    }
  }
  CHECK(ran >= 5 * 3);  // single tokens at least
}

namespace {

/// With one SM a block has as many rows as its sums have room for, which leaves no room for a deep ring.
void check_least_shared_memory(std::initializer_list<std::pair<WeightFormat, WeightFormat>> pairs) {
  Random random(17);
  LinearWorkspace workspace;
  const auto& with = workspace.device.context();
  constexpr int64_t kRows = 1800, kCols = 1024;
  for (const auto& [first, second] : pairs) {
    const Operand a(first, kRows, kCols, random, with), b(second, kRows, kCols, random, with);
    workspace.device.num_sms = 1;
    for (int64_t m : {1, 2, 3, 8}) {
      CAPTURE(info(first).name);
      CAPTURE(info(second).name);
      CAPTURE(m);
      const int least = gemv_dp4a_shared_bytes(kCols, static_cast<int>(m));
      workspace.device.max_shared_bytes = least - 1;
      CHECK(!can_run(workspace, "gemv_dp4a", a, m));
      workspace.device.max_shared_bytes = least;
      REQUIRE(can_run(workspace, "gemv_dp4a", a, m));
      LinearCall call(m, {&a, &b}, {.bias = true}, random);
      std::vector<std::vector<float>> y;
      call.run(workspace, "gemv_dp4a", y);
      CHECK(call.check(y, std::vector(2, Arithmetic::int8)) == "");
    }
  }
}

using F = WeightFormat;

}  // namespace

TEST_CASE("the least shared memory with which the table takes a GEMV: rings are short, products the same") {
  check_least_shared_memory({{F::q8_0, F::q8_0},
                             {F::q4_k, F::q4_k},
                             {F::q6_k, F::q6_k},
                             {F::q5_k, F::q5_k},
                             {F::q4_k, F::q6_k},
                             {F::q5_k, F::q6_k}});
}
TEST_CASE("the least shared memory with which the table takes a GEMV: nibbles") {
  check_least_shared_memory({{F::q4_0, F::q4_0},
                             {F::q4_1, F::q4_1},
                             {F::iq4_nl, F::iq4_nl},
                             {F::iq4_xs, F::iq4_xs},
                             {F::mxfp4, F::mxfp4},
                             {F::nvfp4, F::nvfp4}});
}
TEST_CASE("the least shared memory with which the table takes a GEMV: few bits and five, and what is mixed with them") {
  check_least_shared_memory({{F::q5_0, F::q5_0},
                             {F::q5_1, F::q5_1},
                             {F::q3_k, F::q3_k},
                             {F::q2_k, F::q2_k},
                             {F::q3_k, F::q4_k},
                             {F::q2_k, F::q4_k},
                             {F::q5_0, F::q8_0}});
}

TEST_CASE("more rows a block than their sums have room for: more blocks") {
  Random random(15);
  LinearWorkspace workspace;
  const Operand w(WeightFormat::q8_0, 70001, 64, random, workspace.device.context());
  const Operand longer(WeightFormat::q8_0, 170001, 256, random, workspace.device.context());
  const Operand rows(WeightFormat::bf16, 70001, 16, random, workspace.device.context());
  for (int64_t m : few({1, 8}, {8})) {
    LinearCall call(m, {&w}, {}, random), call_long(m, {&longer}, {}, random), call_rows(m, {&rows}, {}, random);
    CHECK(run_and_check(workspace, call, "gemv_dp4a", 1) == "");
    if (m > 1) CHECK(run_and_check(workspace, call_long, "gemv_mma", 1) == "");
    CHECK(run_and_check(workspace, call_rows, "gemv_rows", 1) == "");
  }
}
