#include <doctest/doctest.h>

#include "config/config.h"
#include "engine/device_guard.h"

using namespace imp;

namespace {

std::string text_of(const std::function<void()>& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("the first failure of a device is what every later call gets") {
  const Settings settings;
  const auto backend = make_cpu_backend({.settings = &settings, .force_isa = {}, .force_linear = {}});
  DeviceGuard guard;
  CHECK(guard.run(*backend, [] { return 7; }) == 7);
  CHECK_FALSE(guard.failure());

  const auto lost = [&] { guard.run(*backend, [] { fail(ErrorCode::cuda, "gemv: the device is lost"); }); };
  const std::string first = text_of(lost, ErrorCode::cuda);
  CHECK(first.find("gemv: the device is lost; ") == 0);
  bool ran = false;
  CHECK(text_of([&] { guard.run(*backend, [&] { ran = true; }); }, ErrorCode::cuda) == first);
  CHECK_FALSE(ran);
  CHECK(text_of([&] { guard.check(); }, ErrorCode::cuda) == first);
  CHECK(guard.failure()->what() == first);
}

TEST_CASE("an error that is not the device's passes, and nothing is kept") {
  const Settings settings;
  const auto backend = make_cpu_backend({.settings = &settings, .force_isa = {}, .force_linear = {}});
  DeviceGuard guard;
  const auto refused = [&] { guard.run(*backend, [] { fail(ErrorCode::unsupported, "no kernel"); }); };
  CHECK(text_of(refused, ErrorCode::unsupported) == "no kernel");
  const auto host_memory = [&] { guard.run(*backend, [] { fail(ErrorCode::out_of_memory, "no memory"); }); };
  CHECK(text_of(host_memory, ErrorCode::out_of_memory) == "no memory");
  CHECK_FALSE(guard.failure());
  CHECK_NOTHROW(guard.check());
}
