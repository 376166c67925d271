// Which kernel a linear gets on which device, and what is said of the others: decided without one.
#include <doctest/doctest.h>

#include <string>

#include "backend/fp8_gemm.h"
#include "backend/linear_ops.h"
#include "linear/gemv.h"

using namespace imp;
using namespace imp::cuda;

namespace {

using F = WeightFormat;

std::string verdict(std::string_view name, const LinearProblem& problem) {
  for (const Verdict& v : linear_table().explain(problem))
    if (v.name == name) return v.chosen ? "chosen" : v.reason ? v.reason : "could run";
  return "not in the table";
}

/// "" where it can run, chosen or not.
std::string reason_of(std::string_view name, const LinearProblem& problem) {
  const std::string text = verdict(name, problem);
  return text == "chosen" || text == "could run" ? "" : text;
}

constexpr int64_t kSharedBytes = 227 << 10;  // that a block of sm_90 can have

LinearProblem problem(F format, int64_t m, int capability) {
  return {.role = LinearRole::down,
          .format = format,
          .m = m,
          .n = 4096,
          .k = 12288,
          .max_shared_bytes = 99 << 10,
          .switches = {},
          .capability = capability};
}

/// A device that has no wgmma and all else.
LinearProblem on_sm_120(LinearProblem p) {
  p.capability = 120;
  return p;
}

}  // namespace

TEST_CASE("gemm_hmma: Q4_K where gemm.q4k_hmma_enabled is set, from 32 tokens on, after gemm.q4k_imma_prefill") {
  for (int capability : {80, 90, 120}) {
    LinearProblem p = problem(F::q4_k, 512, capability);
    CHECK(verdict("gemm_hmma", p) == "gemm.q4k_hmma_enabled is off");
    p.switches.q4k_hmma = true;
    CHECK(verdict("gemm_hmma", p) == "chosen");
    p.m = 32;
    CHECK(verdict("gemm_hmma", p) == "chosen");
    if (capability >= 90) CHECK(verdict("gemm_imma", p) == "gemm.q4k_hmma_enabled is set");
    p.m = 31;
    CHECK(verdict("gemm_hmma", p) == "fewer than 32 tokens");
    if (capability < 90) continue;
    CHECK(verdict("gemm_imma", p) == "chosen");
    p.m = 256, p.switches.q4k_imma_prefill = true;
    CHECK(verdict("gemm_imma", p) == "chosen");
    CHECK(verdict("gemm_hmma", p) == "could run");
    p.m = 257;
    CHECK(verdict("gemm_hmma", p) == "chosen");
  }
  LinearProblem p = problem(F::q4_k, 512, 120);
  p.switches.q4k_hmma = true;
  for (F format : {F::q8_0, F::q6_k, F::q5_k, F::bf16}) {
    p.format = format;
    CHECK(verdict("gemm_hmma", p) == "weight is not Q4_K");
  }
  p.format = F::q4_k, p.max_shared_bytes = 64 << 10;
  CHECK(verdict("gemm_hmma", p) == "tiles do not fit into shared memory");
  p.mixed = true;
  CHECK(verdict("gemm_hmma", p) == "gate and up are stored in different formats");
  p.mixed = false, p.capability = 75;
  CHECK(verdict("gemm_hmma", p) == "bf16 tensor cores exist from sm_80 on");
}

TEST_CASE("gemm_wgmma: between the few tokens of integers and the many that pay for expanding first, on sm_90") {
  for (F format : {F::q8_0, F::q4_k, F::q6_k, F::q5_k}) {
    LinearProblem p = problem(format, 64, 90);
    CHECK(verdict("gemm_imma", p) == "chosen");
    for (int64_t m : {65, 128, 256}) {
      p.m = m;
      CHECK(verdict("gemm_wgmma", p) == "chosen");
    }
    p.m = 257;
    CHECK(verdict("gemm_wgmma", p) == "more than 256 tokens, and not gate and up");
    CHECK(verdict("dequant_gemm_bf16", p) == "chosen");
    p.m = 512, p.gated = true;
    CHECK(verdict("gemm_wgmma", p) == "chosen");
    p.m = 513;
    CHECK(verdict("gemm_wgmma", p) == "more than 512 tokens");
    p.m = 128, p.mixed = true;
    CHECK(verdict("gemm_wgmma", p) == "gate and up are stored in different formats");
    p.mixed = false, p.k = 4104;
    CHECK(verdict("gemm_wgmma", p) == "k is not a multiple of 32");
  }
  CHECK(verdict("gemm_wgmma", problem(F::f16, 128, 90)) == "this layout has no wgmma kernel");
  CHECK(verdict("gemm_wgmma", problem(F::q3_k, 128, 90)) == "this layout has no wgmma kernel");
  CHECK(verdict("gemm_wgmma", problem(F::q8_0, 128, 120)) == "wgmma exists on sm_90 alone");
  CHECK(verdict("gemm_imma", problem(F::q8_0, 128, 120)) == "chosen");
  CHECK(verdict("gemm_imma", problem(F::q8_0, 128, 90)) == "more than 64 tokens, and gemm_wgmma exists");
  LinearProblem asked = problem(F::q4_k, 128, 90);
  asked.switches.q4k_imma_prefill = true;
  CHECK(verdict("gemm_imma", asked) == "chosen");
}

TEST_CASE("gemm_imma beside a bf16 copy: up to 32 tokens where a format has one scale for 32 codes of 4 or 8 bits") {
  for (const auto& [format, most] : {std::pair<F, int64_t>{F::q8_0, 32},
                                     {F::q4_k, 32},
                                     {F::q4_0, 32},
                                     {F::q4_1, 32},
                                     {F::iq4_nl, 32},
                                     {F::iq4_xs, 32},
                                     {F::mxfp4, 32},
                                     {F::nvfp4, 16},
                                     {F::q6_k, 16}}) {
    LinearProblem p = problem(format, most, 90);
    p.bf16_copy = true;
    CHECK(verdict("gemm_imma", p) == "chosen");
    ++p.m;
    CHECK(verdict("gemm_imma", p) == (most == 32
                                          ? "products of a bf16 copy are faster from 33 tokens on"
                                          : "products of a bf16 copy are faster from 17 tokens on in this format"));
  }
}

TEST_CASE("gemm_stream: up to 128 tokens with copies on sm_90, where all multiprocessors get about the same") {
  LinearProblem p = problem(F::q8_0, 128, 90);  // down of an 8B model
  p.rows = 4096, p.num_sms = 132;
  CHECK(verdict("gemm_stream", p) == "no bf16 copy of the weight is kept");
  p.bf16_copy = true;
  for (int64_t m : {33, 64, 128}) {
    p.m = m;
    CHECK(verdict("gemm_stream", p) == "chosen");
  }
  p.m = 129;
  CHECK(verdict("gemm_stream", p) == "more than 128 tokens");
  CHECK(verdict("cublaslt_bf16", p) == "chosen");
  p.m = 128, p.k = 4096;  // o: too short to be cut into parts
  CHECK(verdict("gemm_stream", p) == "rows cannot be shared out to all multiprocessors");
  p.rows = 24576;  // gate and up
  CHECK(verdict("gemm_stream", p) == "chosen");
  p.scaled = true;
  CHECK(verdict("gemm_stream", p) == "the weight has a scale of its own");
  p.scaled = false, p.capability = 120;
  CHECK(verdict("gemm_stream", p) == "wgmma exists on sm_90 alone");
}

TEST_CASE("bf16 copies of weights serve from 33 tokens on, on every device") {
  for (int capability : {80, 90, 120}) {
    for (F format : {F::q8_0, F::q4_k, F::q6_k, F::q5_k}) {
      CAPTURE(info(format).name);
      LinearProblem p = problem(format, 512, capability);
      CHECK(verdict("cublaslt_bf16", p) == "no bf16 copy of the weight is kept");
      p.bf16_copy = true, p.max_shared_bytes = 227 << 10;
      for (int64_t m : {33, 128, 512, 4096}) {
        p.m = m;
        CHECK(verdict("cublaslt_bf16", p) == "chosen");
        if (capability >= 90) CHECK(verdict("gemm_imma", p) == "products of a bf16 copy are faster from 33 tokens on");
      }
      p.m = 1;
      CHECK(verdict("gemv_dp4a", p) == "chosen");
      p.m = 512, p.scaled = true;
      CHECK(verdict("cublaslt_bf16", p) == "the weight has a scale of its own");
    }
  }
  LinearProblem asked = problem(F::q4_k, 200, 90);
  asked.bf16_copy = asked.switches.q4k_imma_prefill = true;
  CHECK(verdict("gemm_imma", asked) == "chosen");
  LinearProblem half = problem(F::f16, 9, 90);
  half.bf16_copy = true;
  CHECK(verdict("cublaslt_bf16", half) == "chosen");
}

TEST_CASE("which tokens the GEMV of tensor cores takes, and which keys it heeds") {
  const auto reason = [](F format, int64_t m, const LinearSwitches& switches, LinearRole role = LinearRole::qkv,
                         int64_t k = 4096) {
    return verdict("gemv_mma", on_sm_120({role, format, m, 512, k, kSharedBytes, switches}));
  };
  for (F format : {F::q8_0, F::q4_k, F::q6_k}) CHECK(reason(format, 8, {}) == "chosen");
  CHECK(reason(F::q8_0, 2, {}) == "fewer than 3 tokens");
  CHECK(reason(F::q8_0, 17, {}) == "more than 16 tokens");
  CHECK(reason(F::q5_k, 8, {}) == "this layout has no gemv_mma kernel");
  CHECK(reason(F::bf16, 8, {}) == "weight is not a block format");
  CHECK(reason(F::q8_0, 8, {}, LinearRole::qkv, 4128) == "k is not a multiple of 256");
  CHECK(reason(F::q8_0, 16, {}, LinearRole::qkv, 32768) == "activations do not fit into shared memory");
  CHECK(reason(F::q4_k, 16, {.no_mmvq = true}) == "gemm.no_mmvq is set");
  CHECK(reason(F::q8_0, 16, {.no_mmvq_q8_0 = true}) == "gemm.no_mmvq_q8_0 is set");
  CHECK(reason(F::q4_k, 8, {.no_dp4a_gemv = true}) == "gemm.no_dp4a_gemv is set");
  CHECK(reason(F::q4_k, 9, {.no_dp4a_gemv = true}) == "chosen");
  CHECK(reason(F::q4_k, 9, {.no_dp4a_lm = true}, LinearRole::lm_head) == "gemm.no_dp4a_lm is set");
}

TEST_CASE("which tokens gemm_imma takes, and which keys it heeds") {
  const auto reason = [](F format, int64_t m, const LinearSwitches& switches, LinearRole role = LinearRole::qkv,
                         int64_t k = 4096) {
    return reason_of("gemm_imma", on_sm_120({role, format, m, 512, k, kSharedBytes, switches}));
  };
  CHECK(reason(F::q8_0, 8, {}) == "");
  CHECK(reason(F::q8_0, 128, {}) == "");
  CHECK(reason(F::q4_k, 64, {}) == "");
  CHECK(reason(F::q4_k, 128, {}) == reason(F::q5_k, 65, {}));
  CHECK(reason(F::q4_k, 128, {.q4k_imma_prefill = true}) == "");
  CHECK(reason(F::f16, 8, {}) == "weight is not a block format");
  CHECK(reason(F::q8_0, 2, {}) == "fewer than 3 tokens");
  CHECK(reason(F::q8_0, 65, {}, LinearRole::qkv, 2048) != "");
  CHECK(reason(F::q5_k, 64, {}) == "");
  CHECK(reason(F::q5_k, 65, {}) == reason(F::q8_0, 65, {}, LinearRole::qkv, 2048));
  CHECK(reason(F::q8_0, 129, {}) == "more than 128 tokens");
  CHECK(reason(F::q4_k, 129, {}) == "more than 128 tokens");
  CHECK(reason(F::q4_k, 129, {.q4k_imma_prefill = true}) == "");
  CHECK(reason(F::q6_k, 129, {.q4k_imma_prefill = true}) == "more than 128 tokens");
  CHECK(reason(F::q4_k, 257, {.q4k_imma_prefill = true}) == "more than 256 tokens");
  CHECK(reason(F::q8_0, 64, {.q8_imma = false}) == "gemm.q8_imma_enabled is off");
  CHECK(reason(F::q8_0, 63, {.q8_imma = false}) == "");
  CHECK(reason(F::q4_k, 64, {.q8_imma = false}) == "");
  CHECK(reason(F::q4_k, 16, {.no_mmvq = true}) == "gemm.no_mmvq is set");
  CHECK(reason(F::q8_0, 16, {.no_mmvq_q8_0 = true}) == "gemm.no_mmvq_q8_0 is set");
  CHECK(reason(F::q4_k, 16, {.no_mmvq_q8_0 = true}) == "");
  CHECK(reason(F::q4_k, 8, {.no_dp4a_gemv = true}) == "gemm.no_dp4a_gemv is set");
  CHECK(reason(F::q4_k, 9, {.no_dp4a_gemv = true}) == "");
  CHECK(reason(F::q4_k, 9, {.no_dp4a_lm = true}, LinearRole::lm_head) == "gemm.no_dp4a_lm is set");
}

TEST_CASE("GEMVs refuse bf16 activations in words") {
  for (F format : {F::q8_0, F::f16}) {
    LinearProblem problem{LinearRole::down, format, 1, 64, 256, kSharedBytes, {}};
    problem.bf16_activations = true;
    for (const Verdict& verdict : linear_table().explain(problem)) {
      CAPTURE(verdict.name);
      CHECK((verdict.reason == nullptr) == (verdict.name == "dequant_gemm_bf16"));
    }
  }
}

TEST_CASE("fp8: what refuses, in words") {
  LinearProblem problem{LinearRole::down, F::q8_0, 512, 64, 256, 0, {}};
  const auto reason = [](const LinearProblem& p) { return std::string(reject_fp8_gemm(p) ? reject_fp8_gemm(p) : ""); };
  CHECK(reason(problem) == "attention.fp8_prefill is not set");
  problem.fp8 = true;
  CHECK(reason(problem) == "");
  problem.m = 128;
  CHECK(reason(problem) == "at most 128 tokens");
  problem.m = 512, problem.k = 264;
  CHECK(reason(problem) == "k is not a multiple of 16");
  problem.k = 256, problem.scaled = true;
  CHECK(reason(problem) == "the weight has a scale of its own");
  problem.role = LinearRole::lm_head;
  CHECK(reason(problem) == "the head is no prefill product");
}

TEST_CASE("every format has a layout of its size, a GEMV and, where it has integer codes, gemm_imma") {
  for (const FormatInfo& format : all_formats()) {
    CAPTURE(format.name);
    const PackedLayout layout = packed_layout_of(format.format);
    const PackedSizes sizes = packed_sizes(layout, format.format, 3, 1024);
    const int64_t packed = sizes.codes_bytes + sizes.scales_bytes + sizes.supers_bytes;
    const int64_t in_file = 3 * row_bytes(format.format, 1024);
    CHECK(packed >= in_file);
    CHECK(packed <= in_file * 106 / 100);  // Q3_K's scales are whole bytes
    const bool integers = format.block_elements > 1;
    CHECK((layout == PackedLayout::kRows) == !integers);
    CHECK(gemv_dp4a_mixes(layout, layout) == integers);
    LinearProblem p = problem(format.format, 1, 90);
    p.k = 4096, p.max_shared_bytes = kSharedBytes;
    CHECK(reason_of(integers ? "gemv_dp4a" : "gemv_rows", p) == "");
    p.m = 8;
    CHECK((reason_of("gemm_imma", p) == "") == integers);
  }
}

TEST_CASE("gemm.no_*: which products lose their integer kernels, and which take over") {
  const auto with = [](const LinearSwitches& switches, F format, int64_t m, LinearRole role = LinearRole::down) {
    LinearProblem p = problem(format, m, 90);
    p.switches = switches, p.role = role;
    p.k = 4096, p.max_shared_bytes = kSharedBytes;
    return p;
  };
  const char* const kInteger[] = {"gemv_dp4a", "gemv_mma", "gemm_imma"};
  const auto none_chosen = [&](const LinearProblem& p, const std::string& reason) {
    for (const char* name : kInteger) {
      CAPTURE(name);
      CHECK(verdict(name, p) != "chosen");
      CHECK(verdict(name, p) != "could run");
    }
    CHECK(verdict(p.m <= 2 ? "gemv_dp4a" : "gemm_imma", p) == reason);
    CHECK((verdict("dequant_gemm_bf16", p) == "chosen" || verdict("gemm_wgmma", p) == "chosen"));
  };
  CHECK(verdict("gemv_dp4a", with({}, F::q8_0, 1)) == "chosen");
  CHECK(verdict("gemm_imma", with({}, F::q8_0, 20)) == "chosen");

  for (F format : {F::q8_0, F::q4_k}) {
    for (int64_t m : {1, 5, 20}) none_chosen(with({.no_mmvq = true}, format, m), "gemm.no_mmvq is set");
    for (int64_t m : {1, 5}) none_chosen(with({.no_dp4a_gemv = true}, format, m), "gemm.no_dp4a_gemv is set");
    CHECK(verdict("gemv_mma", with({.no_dp4a_gemv = true}, format, 9)) == "chosen");  // more than 8 rows
    none_chosen(with({.no_dp4a_lm = true}, format, 1, LinearRole::lm_head), "gemm.no_dp4a_lm is set");
    for (LinearRole role : {LinearRole::qkv, LinearRole::down})
      CHECK(verdict("gemv_dp4a", with({.no_dp4a_lm = true}, format, 1, role)) == "chosen");
  }
  for (int64_t m : {1, 5, 20}) none_chosen(with({.no_mmvq_q8_0 = true}, F::q8_0, m), "gemm.no_mmvq_q8_0 is set");
  CHECK(verdict("gemv_dp4a", with({.no_mmvq_q8_0 = true}, F::q4_k, 1)) == "chosen");
  CHECK(verdict("gemm_imma", with({.no_mmvq_q8_0 = true}, F::q6_k, 20)) == "chosen");
}

TEST_CASE("gemm.q8_imma_enabled: Q8_0 of 64 tokens and more; gemm.cublas_fp16_acc: what the library multiplies") {
  LinearProblem p = problem(F::q8_0, 64, 90);
  CHECK(verdict("gemm_imma", p) == "chosen");
  p.switches.q8_imma = false;
  CHECK(verdict("gemm_imma", p) == "gemm.q8_imma_enabled is off");
  p.m = 63;
  CHECK(verdict("gemm_imma", p) == "chosen");
  p.m = 64, p.format = F::q4_k;
  CHECK(verdict("gemm_imma", p) == "chosen");

  for (F format : {F::q8_0, F::q4_k, F::bf16}) {
    LinearProblem long_prompt = problem(format, 600, 90);
    CHECK(verdict("dequant_gemm_f16", long_prompt) == "gemm.cublas_fp16_acc is not on");
    CHECK(verdict("dequant_gemm_bf16", long_prompt) == "chosen");
    long_prompt.switches.f16_sums = true;
    CHECK(verdict("dequant_gemm_f16", long_prompt) == "chosen");
  }
}

TEST_CASE("GPUs before sm_90 have no bulk copies: every product of every format has a kernel all the same") {
  for (int capability : {80, 86, 89}) {
    for (F format : {F::q8_0, F::q4_k, F::q6_k, F::q5_k, F::q2_k, F::iq4_xs, F::mxfp4, F::bf16, F::f32}) {
      const bool blocks = format != F::bf16 && format != F::f32;
      for (int64_t m : {1, 2, 3, 8, 20, 64, 100, 300, 4096}) {
        CAPTURE(m);
        LinearProblem p = problem(format, m, capability);
        p.k = 4096;
        CHECK_NOTHROW(linear_table().select(p));
        CHECK(verdict("gemm_wgmma", p) != "chosen");
        CHECK(verdict("gemm_imma", p) ==
              (blocks ? "its bulk copies exist from sm_90 on" : "weight is not a block format"));
        CHECK(verdict("gemv_mma", p) == (blocks ? "its barriers exist from sm_90 on" : "weight is not a block format"));
      }
    }
  }
}

TEST_CASE("99 KiB of shared memory: single tokens of 8B models go through a GEMV, in every format of integer codes") {
  for (const FormatInfo& format : all_formats()) {
    if (format.block_elements == 1) continue;
    CAPTURE(format.name);
    LinearProblem p = problem(format.format, 1, 120);
    for (int64_t k : {12288, 14336, 18944}) {
      CAPTURE(k);
      p.k = k;
      CHECK(verdict("gemv_dp4a", p) == "chosen");
    }
    p.k = 65536;
    CHECK(verdict("gemv_dp4a", p) == "activations do not fit into shared memory");
  }
}
