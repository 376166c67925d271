#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "exec/backend.h"

// Tests that need a CUDA device leave with 77 where there is none: ctest counts that as skipped, not as passed.
int main(int argc, char** argv) {
  if (const std::string reason = imp::why_no_cuda(); !reason.empty()) {
    std::printf("skipped: %s\n", reason.c_str());
    return 77;
  }
  static_cast<void>(std::setvbuf(stdout, nullptr, _IOLBF, 0));  // a program that is stopped has shown how far it got
  return doctest::Context(argc, argv).run();
}
