#pragma once
#include <memory>
#include <string>

#include "config/config.h"
#include "core/json.h"
#include "exec/diagnostics.h"

namespace imp {

/// The diagnostics that look into the forward pass, as the settings ask for them.
class Observers {
 public:
  /// Errors: io, where a directory for dumps cannot be made.
  Observers(const Settings& settings, const ModelSpec& spec, Backend& backend);

  /// Null when no setting asks for one: the decoder then skips work whose result nobody sees.
  ForwardObserver* observer() { return list_.empty() ? nullptr : &list_; }

  void write_report(JsonWriter& json) const;  // fields of `diag`
  std::string probe_table() const;            // "" unless ffn.sparsity_probe is on

 private:
  std::string dump_directory_;
  std::unique_ptr<HiddenDumper> dumper_;
  std::unique_ptr<ForwardPrinter> printer_;
  std::unique_ptr<SparsityProbe> probe_;
  ObserverList list_;
};

}  // namespace imp
