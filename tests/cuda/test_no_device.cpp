#include <doctest/doctest.h>

#include "backend/device_facts.h"
#include "core/error.h"
#include "exec/backend.h"

// What is said where no device can be used. Runs on every machine.

using namespace imp;
using namespace imp::cuda;

namespace {

DeviceFacts good() {
  return {.driver_version = 13010,
          .runtime_version = 13000,
          .error = {},
          .num_devices = 2,
          .index = 1,
          .name = "NVIDIA H100 80GB HBM3",
          .major = 9,
          .minor = 0,
          .architectures = "90a,120a"};
}

}  // namespace

TEST_CASE("a device that can be used, and one line for each reason why another cannot") {
  CHECK(why_unusable(good()) == "");
  DeviceFacts facts = good();
  facts.driver_version = 0;
  CHECK(why_unusable(facts) == "no CUDA driver on this machine");
  facts = good();
  facts.driver_version = 12040;
  CHECK(why_unusable(facts) == "the driver supports CUDA 12.4, and this build needs 13.0; update the driver");
  facts = good();
  facts.error = "system not yet initialized";
  CHECK(why_unusable(facts) == "the CUDA driver answers: system not yet initialized");
  facts = good();
  facts.num_devices = 0;
  CHECK(why_unusable(facts) == "no CUDA device on this machine");
  for (int index : {-1, 2}) {
    facts = good();
    facts.index = index;
    CHECK(why_unusable(facts) == cat("there is no CUDA device ", index, "; this machine has 0 to 1"));
  }
  facts = good();
  facts.index = 3, facts.num_devices = 1;
  CHECK(why_unusable(facts) == "there is no CUDA device 3; this machine has device 0 alone");
  facts = good();
  facts.name = "NVIDIA A100", facts.major = 8;
  CHECK(why_unusable(facts) ==
        "NVIDIA A100 is sm_80, and this build has kernels for 90a,120a only; build with "
        "IMP_CUDA_ARCHITECTURES=80");
}

TEST_CASE("an architecture's code runs on later minors, unless it is for that one alone") {
  CHECK(has_kernels_for("90a,120a", 9, 0));
  CHECK(has_kernels_for("90a,120a", 12, 0));
  CHECK_FALSE(has_kernels_for("90a,120a", 12, 1));
  CHECK_FALSE(has_kernels_for("90a,120a", 10, 0));
  CHECK(has_kernels_for("80", 8, 6));
  CHECK_FALSE(has_kernels_for("86", 8, 0));
  CHECK_FALSE(has_kernels_for("80", 9, 0));
  CHECK_FALSE(has_kernels_for("", 9, 0));
}

TEST_CASE("the backend of this machine: made, or refused with the reason") {
  const std::string reason = why_no_cuda();
  CHECK(reason.find('\n') == std::string::npos);
  if (reason.empty()) return;
  try {
    make_cuda_backend({}, 0);
    FAIL("made a backend although ", reason);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::cuda);
    CHECK(std::string(error.what()) == cat("cannot use CUDA device 0: ", reason, "; use device \"cpu\""));
  }
}
