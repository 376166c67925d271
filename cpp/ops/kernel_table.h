#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace imp {

/// One way to compute an op. `reject` returns null when the kernel can run `problem`, else a few words why it
/// cannot; it reads host data only, so every choice can be tested without the hardware it is about.
template <class Problem, class Launch>
struct Candidate {
  std::string_view name;
  const char* (*reject)(const Problem&);
  Launch launch;
};

struct Verdict {
  std::string_view name;
  const char* reason;  // null: this one can run
  bool chosen;
};

/// The candidates of one op, best first; the first that does not reject is taken. A failure of the one taken is
/// an error, never a reason to try the next.
template <class Problem, class Launch>
class KernelTable {
 public:
  using Entry = Candidate<Problem, Launch>;
  constexpr KernelTable(std::string_view op, std::span<const Entry> entries) : op_(op), entries_(entries) {}

  /// `forced`, when not empty, names the only candidate allowed: a diagnostic for tests.
  const Entry& select(const Problem& problem, std::string_view forced = {}) const {
    for (const Entry& entry : entries_) {
      if (!forced.empty() && entry.name != forced) continue;
      if (!entry.reject(problem)) return entry;
    }
    fail(ErrorCode::unsupported, refusal(problem, forced));
  }

  /// Every candidate with its verdict: what `imp explain`, the logs and the tests print.
  std::vector<Verdict> explain(const Problem& problem) const {
    std::vector<Verdict> verdicts;
    bool taken = false;
    for (const Entry& entry : entries_) {
      const char* reason = entry.reject(problem);
      verdicts.push_back({entry.name, reason, !reason && !taken});
      taken = taken || !reason;
    }
    return verdicts;
  }

  std::string_view op() const { return op_; }
  std::span<const Entry> entries() const { return entries_; }

 private:
  std::string refusal(const Problem& problem, std::string_view forced) const {
    std::string text = cat("no ", op_, " kernel for this problem");
    if (!forced.empty()) text += cat(" (forced: ", forced, ")");
    for (const Verdict& verdict : explain(problem))
      text += cat("\n  ", verdict.name, ": ", verdict.reason ? verdict.reason : "could run");
    return text;
  }

  std::string_view op_;
  std::span<const Entry> entries_;
};

}  // namespace imp
