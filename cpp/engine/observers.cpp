#include "engine/observers.h"

#include <cstdio>
#include <filesystem>

namespace imp {
namespace {

/// "1" and "all" stand for the temporary directory.
std::string dump_directory(const std::string& setting) {
  if (setting != "1" && setting != "all") return setting;
  return std::filesystem::temp_directory_path().string();
}

}  // namespace

Observers::Observers(const Settings& settings, const ModelSpec& spec, Backend& backend) {
  if (const std::string& directory = settings.diagnostics.dump_hidden_dir; !directory.empty()) {
    dump_directory_ = dump_directory(directory);
    dumper_ = std::make_unique<HiddenDumper>(dump_directory_, backend);
    list_.add(*dumper_);
  }
  if (settings.diagnostics.debug_forward) {
    const auto print = [](std::string_view line) {
      std::fprintf(stderr, "imp: %.*s\n", static_cast<int>(line.size()), line.data());
    };
    printer_ = std::make_unique<ForwardPrinter>(print, backend);
    list_.add(*printer_);
  }
  if (settings.ffn.sparsity_probe) {
    probe_ = std::make_unique<SparsityProbe>(spec.num_layers, backend);
    list_.add(*probe_);
  }
}

void Observers::write_report(JsonWriter& json) const {
  json.key("dump_hidden_dir");
  dumper_ ? json.value(dump_directory_) : json.null();
  json.field("debug_forward", printer_ != nullptr).key("ffn_sparsity");
  if (!probe_) {
    json.null();
    return;
  }
  json.begin_object().key("thresholds").begin_array();
  for (float threshold : SparsityProbe::kThresholds) json.value(static_cast<double>(threshold));
  json.end_array().key("layers").begin_array();
  for (const SparsityProbe::LayerCounts& layer : probe_->layers()) {
    json.begin_object().field("total", layer.total).key("below").begin_array();
    for (int64_t count : layer.below) json.value(count);
    json.end_array().end_object();
  }
  json.end_array().end_object();
}

std::string Observers::probe_table() const { return probe_ ? probe_->table() : ""; }

}  // namespace imp
