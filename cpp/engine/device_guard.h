#pragma once
#include <optional>

#include "core/error.h"
#include "exec/backend.h"

namespace imp {

/// After its device failed, an engine cannot know what its memory holds: the first error is kept, and every later call
/// that would need the device gives it again. Reports are made without the device.
class DeviceGuard {
 public:
  /// Throws the failure, where there was one.
  void check() const {
    if (failure_) throw *failure_;
  }

  /// Runs work for the device; keeps the failure it may end in.
  template <class Work>
  decltype(auto) run(const Backend& backend, Work&& work) {
    check();
    try {
      return work();
    } catch (const Error& error) {
      const bool failed =
          error.code() == ErrorCode::cuda || (error.code() == ErrorCode::out_of_memory && !backend.memory_is_host());
      if (!failed) throw;
      failure_.emplace(error.code(), cat(error.what(), "; ", backend.last_step()));
      throw *failure_;
    }
  }

  const std::optional<Error>& failure() const { return failure_; }

 private:
  std::optional<Error> failure_;
};

}  // namespace imp
