#pragma once
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include "core/text.h"

namespace imp::test {

struct ChildOutcome {
  int exit = -1;
  std::string text;  // stdout and stderr
};

/// Runs the case "child: <name>" of this test program in a process of its own. Such cases are decorated with
/// doctest::skip(), so that they run nowhere else.
inline ChildOutcome run_child(const std::string& name) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command = cat("'", self, "' --no-skip --test-case='child: ", name, "' 2>&1");
  ChildOutcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 4096> part;
  while (const size_t count = fread(part.data(), 1, part.size(), pipe)) outcome.text.append(part.data(), count);
  const int status = pclose(pipe);
  outcome.exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

}  // namespace imp::test
