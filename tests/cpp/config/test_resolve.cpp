#include <doctest/doctest.h>

#include "config/config.h"
#include "config/describe.h"
#include "core/error.h"

using namespace imp;

namespace {

std::string error_of(Config& config) {
  try {
    config.resolve();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("defaults resolve to themselves") {
  Config config;
  const std::string before = config.to_json();
  config.resolve();
  CHECK(config.to_json() == before);
  CHECK(config.warnings().empty());
}

TEST_CASE("deterministic implies deterministic_gemm") {
  Config config;
  config.set("runtime.deterministic", "true");
  config.resolve();
  CHECK(config.settings().runtime.deterministic_gemm);
  CHECK(config.source("runtime.deterministic_gemm").origin == Origin::implied);
  CHECK(config.source("runtime.deterministic_gemm").detail == "runtime.deterministic");

  Config explicit_too;
  explicit_too.set("runtime.deterministic", "true");
  explicit_too.set("runtime.deterministic_gemm", "true");
  explicit_too.resolve();
  CHECK(explicit_too.source("runtime.deterministic_gemm").origin == Origin::set);
}

TEST_CASE("a chosen value that contradicts an implied one is an error") {
  Config config;
  config.set("runtime.deterministic", "true");
  config.set_assignment("runtime.deterministic_gemm=false");
  CHECK(error_of(config) ==
        "runtime.deterministic needs runtime.deterministic_gemm = true, but --set \"runtime.deterministic_gemm=false\" "
        "sets "
        "false; remove one of the two settings");

  Config raw;
  raw.load_text("[runtime]\nwarmup = true", "imp.conf");
  raw.set("runtime.debug_raw", "true");
  CHECK(error_of(raw).find("runtime.debug_raw needs runtime.warmup = false, but imp.conf:2 sets true") == 0);
}

TEST_CASE("a copied line with the default is overruled with a warning") {
  Config config;
  config.load_text("[runtime]\ndeterministic = true\ndeterministic_gemm = false", "imp.conf");
  config.resolve();
  CHECK(config.settings().runtime.deterministic_gemm);
  REQUIRE(config.warnings().size() == 1);
  CHECK(config.warnings()[0] == "imp.conf:3: runtime.deterministic_gemm = false is overruled by runtime.deterministic");
}

TEST_CASE("debug_raw sets its list, also over a file that repeats every default") {
  for (const bool with_seed : {false, true}) {
    Config config;
    if (with_seed) config.load_file(std::string(IMP_TEST_DATA) + "/seed.conf");
    config.set("runtime.debug_raw", "true");
    config.resolve();
    for (const ImpliedSetting& implied : debug_raw_settings()) {
      CAPTURE(implied.key);
      CHECK(config.get(implied.key) == implied.value);
    }
    CHECK(config.source("gemm.no_mmvq").origin == Origin::implied);
    CHECK(config.settings().runtime.cuda_graphs == "never");
    CHECK(config.warnings().empty() == !with_seed);
    const std::string once = config.to_json();
    config.resolve();
    CHECK(config.to_json() == once);
  }
}

TEST_CASE("diagnostics that need the host take graphs away") {
  for (const char* assignment : {"diagnostics.debug_forward=1", "diagnostics.dump_hidden_dir=/tmp/x",
                                 "diagnostics.exit_layer=0", "diagnostics.profile=1"}) {
    Config config;
    config.set_assignment(assignment);
    config.resolve();
    CAPTURE(assignment);
    CHECK(config.settings().runtime.cuda_graphs == "never");
    CHECK(std::string(assignment).starts_with(config.source("runtime.cuda_graphs").detail));
  }
}

TEST_CASE("attention.force_cublas_decode takes graphs away, and contradicts who wants them always") {
  Config config;
  config.set_assignment("attention.force_cublas_decode=1");
  config.resolve();
  CHECK(config.settings().runtime.cuda_graphs == "never");
  CHECK(config.source("runtime.cuda_graphs").detail == "attention.force_cublas_decode");
  Config always;
  always.set_assignment("attention.force_cublas_decode=1");
  always.set_assignment("runtime.cuda_graphs=always");
  CHECK(error_of(always).find("attention.force_cublas_decode needs runtime.cuda_graphs = \"never\"") == 0);
}

// Keys that are pending take no other value from a user yet, so these rules are reached through set_automatic().
TEST_CASE("rules between pending keys") {
  Config accumulate;
  accumulate.set_automatic("attention.fa2_f16acc", false, "test");
  accumulate.resolve();
  CHECK_FALSE(accumulate.settings().attention.fa2_pv_f16acc);
  CHECK(accumulate.warnings().size() == 1);

  Config match;
  match.set_automatic("speculative.min_match", int64_t{13}, "test");
  CHECK(error_of(match).find("speculative.min_match = 13 is above speculative.max_match = 12") == 0);

  Config burst;
  burst.set_automatic("speculative.burst", int64_t{5}, "test");
  burst.resolve();
  CHECK(burst.settings().speculative.miss_burst == 5);
  burst.set_automatic("speculative.burst", int64_t{0}, "test");
  burst.set_automatic("speculative.miss_burst", int64_t{9}, "test");
  burst.resolve();
  CHECK(burst.settings().speculative.miss_burst == 9);

  Config cache;
  cache.set_automatic("kv_cache.dtype", std::string("nvfp4"), "test");
  cache.resolve();
  CHECK(cache.settings().attention.fp8_prefill == "never");

  Config inert;
  inert.set_automatic("kv_cache.bitdecoding_qk", true, "test");
  inert.set_automatic("kv_cache.allow_nondeterministic_fp8", true, "test");
  inert.resolve();
  CHECK(inert.warnings().size() == 2);
}

TEST_CASE("odd values are warned of") {
  Config config;
  config.set("ffn.sparsity_threshold", "1.5");
  config.resolve();
  REQUIRE(config.warnings().size() == 1);
  CHECK(config.warnings()[0].find("ffn.sparsity_threshold is above 1") == 0);
}
