#include <doctest/doctest.h>

#include <string_view>

#include "exec/backend.h"

using namespace imp;

TEST_CASE("without CUDA, asking for it is refused with the reason") {
  REQUIRE(why_no_cuda() != "");
  try {
    make_cuda_backend({nullptr, 0, "", ""}, 3);
    FAIL("a backend was made");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::unsupported);
    const std::string_view text = error.what();
    CHECK(text.find(why_no_cuda()) != std::string_view::npos);
    CHECK(text.find("device 3") != std::string_view::npos);
  }
  CHECK(cuda_devices().empty());
  CHECK_THROWS_AS(cuda_read_bandwidth(0), Error);
}
