// imp-gen-config [--check] ROOT: writes ROOT/imp.conf.example and ROOT/docs/configuration.md from the option table, or
// with --check compares them and exits with 1 where one is out of date.
#include <fstream>
#include <iostream>
#include <sstream>

#include "config/describe.h"
#include "config/options.h"
#include "config/value.h"
#include "core/text.h"

namespace {

using namespace imp;

std::string example_file() {
  std::string out =
      "# Settings of imp. Every line shows the default; copy this file to ./imp.conf or ~/.config/imp/imp.conf and "
      "keep\n"
      "# the lines that you change. docs/configuration.md explains the rules. A key marked \"pending\" has no "
      "mechanism\n"
      "# yet and accepts only its default.\n";
  std::string_view section;
  for (const OptionRow& row : option_rows()) {
    if (row.section() != section) {
      section = row.section();
      out += cat("\n[", section, "]\n");
    }
    out += cat("# ", row.doc, "\n# ", allowed_text(row), row.status == OptionStatus::pending ? " (pending)" : "", "\n",
               row.name(), " = ", format_value(default_value(row)), "\n");
  }
  return out;
}

constexpr std::string_view kIntroduction = R"(# Configuration

This page is generated from the option table, `cpp/config/options.cpp`, by `imp-gen-config`; so is `imp.conf.example`.

## Where settings come from

From weak to strong:

1. the defaults below;
2. the environment: `IMP_DETERMINISTIC=1` stands for `runtime.deterministic = true`;
3. one configuration file: `--config PATH`, else `$IMP_CONFIG`, else `./imp.conf`, else `~/.config/imp/imp.conf`. The
   first that is there is the only one read. A path that was named and cannot be read is an error;
4. `--set section.key=value` on the command line, `overrides={...}` in Python, `imp_config_set()` in C: the last one wins;
5. command-line flags that mean the same as a key. A flag and a `--set` that give one key two values are an error.

After that, some settings imply others (see the end of this page), and what stands at `auto` is decided for the model at
hand. A value that somebody chose is never overruled silently. `imp config show --origin` prints every value with its
source, `imp config check FILE` checks a file, `imp config keys` prints the table of this page.

Programs that embed imp through C or Python and read no file start with `server.prefix_cache` off.

## The file

```
# a comment
[section]
key = value        # a comment after a value needs a blank before the '#'
```

UTF-8, at most 1 MiB; `\r\n` and a byte order mark are fine. A section may open again. Keys are case-sensitive.

| type | written as |
| --- | --- |
| bool | `true`/`false`, `1`/`0`, `yes`/`no`, `on`/`off`, in any case |
| int | decimal digits, `_` may separate them (`16_384`); no `16k`, no hexadecimal, no `1.0` |
| float | a finite number; integers are fine |
| enum, path | a bare word, or a string in quotes: `"..."` knows `\\ \" \n \t`, `'...'` takes all as it is |

Enums of the kind auto/on/never also take `always` for `on`, `off` for `never`, and booleans; the value is kept in the words
of the table.

A line that is none of these, a value that its key does not take, and an unknown key in `--set` are errors. An unknown
section or key in a file, a key set twice, and a value brought into range are warnings; strict checking makes them errors.

## Keys

*pending*: the mechanism is not there yet; the key accepts its default and refuses every other value.
Class: **a** any CUDA GPU, **b** only GPUs with FP4 tensor cores, **c** CPU; in parentheses: in part.
)";

std::string markdown_cell(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '|' || c == '*' || c == '<') out += '\\';
    out += c;
  }
  return out;
}

std::string documentation() {
  std::string out(kIntroduction);
  std::string_view section;
  for (const OptionRow& row : option_rows()) {
    if (row.section() != section) {
      section = row.section();
      out += cat("\n### [", section, "]\n\n| key | type | default | allowed | status | class | |\n",
                 "| --- | --- | --- | --- | --- | --- | --- |\n");
    }
    out += cat("| `", row.name(), "` | ", type_name(row.limits.type), " | `", format_value(default_value(row)), "` | ",
               markdown_cell(allowed_text(row)), " | ", status_name(row.status), " | ", row.platform, " | ",
               markdown_cell(row.doc), " |\n");
  }
  out += R"(
## Implied settings

- `runtime.deterministic` sets `runtime.deterministic_gemm`.
- `diagnostics.debug_forward`, `dump_hidden_dir`, `dump_logits_dir`, `dump_routing_dir`, `exit_layer` and `profile` need the
  host between two layers: `runtime.cuda_graphs` becomes `"never"`.
- `kv_cache.dtype = "nvfp4"` turns `attention.fp8_prefill` from `"auto"` to `"never"`.
- `attention.fa2_pv_f16acc` is off without `attention.fa2_f16acc`.
- `speculative.miss_burst` is at most `speculative.burst`; `min_match` above `max_match` is an error.
- `runtime.debug_raw` sets:
)";
  for (const ImpliedSetting& implied : debug_raw_settings()) {
    out += cat("  - `", implied.key, " = ", format_value(implied.value), "`\n");
  }
  out += R"(
A chosen value that contradicts an implied one is an error. A line of a file that only repeats the default does not count
as chosen: it is overruled, with a warning.
)";
  return out;
}

bool is_current(const std::string& path, const std::string& expected) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream found;
  found << file.rdbuf();
  if (file && found.str() == expected) return true;
  std::cerr << path << ": out of date with cpp/config/options.cpp; run imp-gen-config on the source directory\n";
  return false;
}

bool write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (file.flush()) return true;
  std::cerr << path << ": cannot be written\n";
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const bool check = argc == 3 && std::string_view(argv[1]) == "--check";
  if (argc != (check ? 3 : 2)) {
    std::cerr << "usage: imp-gen-config [--check] ROOT\n";
    return 2;
  }
  const std::string root = argv[argc - 1];
  const auto handle = check ? is_current : write_file;
  const bool example_done = handle(root + "/imp.conf.example", example_file());
  const bool documentation_done = handle(root + "/docs/configuration.md", documentation());
  return example_done && documentation_done ? 0 : 1;
}
