#pragma once
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/context.h"

namespace imp::test {

/// What CPU kernels run with in tests: workspace full of NaN, so that reading before writing shows.
class TestCpu {
 public:
  explicit TestCpu(int threads = 1, cpu::Isa isa = cpu::detect_isa(), size_t scratch_bytes = size_t{24} << 20)
      : pool_(threads), scratch_(scratch_bytes / sizeof(float) + 16), isa_(isa) {
    spoil();
  }
  void spoil() { std::memset(scratch_.data(), 0xff, scratch_.size() * sizeof(float)); }

  cpu::CpuContext context() {
    void* at = scratch_.data();
    size_t space = scratch_.size() * sizeof(float);
    std::align(64, 64, at, space);
    return {pool_, isa_, {}, {static_cast<std::byte*>(at), space}};
  }

 private:
  ThreadPool pool_;
  std::vector<float> scratch_;
  cpu::Isa isa_;
};

}  // namespace imp::test
