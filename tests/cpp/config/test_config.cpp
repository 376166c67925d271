#include <doctest/doctest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "config/config.h"
#include "config/options.h"
#include "core/error.h"

using namespace imp;

namespace {

template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    return error.what();
  }
  return "";
}

std::vector<std::string> warnings_of(std::string_view text) {
  Config config;
  config.load_text(text, "imp.conf");
  return config.warnings();
}

/// An empty folder as working and home directory, without the two environment variables; all put back at the end.
class EmptyPlace {
 public:
  EmptyPlace() : before_(std::filesystem::current_path()), home_(getenv("HOME") ? getenv("HOME") : "") {
    std::string pattern = (std::filesystem::temp_directory_path() / "imp_config_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
    std::filesystem::current_path(path_);
    setenv("HOME", path_.c_str(), 1);
    unsetenv("IMP_CONFIG");
    unsetenv("IMP_DETERMINISTIC");
  }
  ~EmptyPlace() {
    std::filesystem::current_path(before_);
    setenv("HOME", home_.c_str(), 1);
    unsetenv("IMP_CONFIG");
    unsetenv("IMP_DETERMINISTIC");
    std::filesystem::remove_all(path_);
  }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << text;
  }
  std::string path(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path before_, path_;
  std::string home_;
};

int64_t batch_of(const Config& config) { return config.settings().runtime.max_batch_size; }

}  // namespace

TEST_CASE("defaults have no source, settings do") {
  Config config;
  CHECK(config.get("runtime.max_batch_size") == OptionValue(int64_t{4}));
  CHECK(config.source("runtime.max_batch_size").origin == Origin::default_value);
  CHECK_FALSE(config.is_explicit("runtime.max_batch_size"));
  config.load_text("[runtime]\nmax_batch_size = 4\n", "imp.conf");
  CHECK(config.source("runtime.max_batch_size").origin == Origin::file);
  CHECK(config.source("runtime.max_batch_size").detail == "imp.conf:2");
  CHECK(config.is_explicit("runtime.max_batch_size"));
  config.set("runtime.max_batch_size", "8");
  CHECK(config.source("runtime.max_batch_size").detail == "--set runtime.max_batch_size=\"8\"");
  CHECK(batch_of(config) == 8);
  CHECK(config.to_json().find(R"("runtime.max_batch_size":{"value":8,"origin":"set","detail":"--set runtime)") !=
        std::string::npos);
}

TEST_CASE("precedence holds whatever the order of the calls") {
  Config config;
  config.set("runtime.max_batch_size", "5", Origin::flag, "--max-batch-size 5");
  config.load_text("[runtime]\nmax_batch_size = 6", "imp.conf");
  config.set("runtime.max_batch_size", "7", Origin::environment, "TEST");
  CHECK(batch_of(config) == 5);
  CHECK(config.source("runtime.max_batch_size").origin == Origin::flag);

  Config in_order;
  in_order.set("runtime.max_batch_size", "6");
  in_order.set("runtime.max_batch_size", "7", Origin::api);
  CHECK(batch_of(in_order) == 7);
}

TEST_CASE("a flag and a --set with two values for one key are an error") {
  for (const bool flag_first : {true, false}) {
    Config config;
    const auto flag = [&] { config.set("runtime.max_batch_size", "5", Origin::flag, "--max-batch-size 5"); };
    const auto set = [&] { config.set_assignment("runtime.max_batch_size=6"); };
    const std::string message = error_of([&] {
      flag_first ? flag() : set();
      flag_first ? set() : flag();
    });
    CHECK(message.find("--max-batch-size 5") != std::string::npos);
    CHECK(message.find("--set \"runtime.max_batch_size=6\"") != std::string::npos);
  }
  Config same;
  same.set_assignment("runtime.max_batch_size=5");
  same.set("runtime.max_batch_size", "5", Origin::flag, "--max-batch-size 5");
  CHECK(same.source("runtime.max_batch_size").origin == Origin::flag);
}

TEST_CASE("--set") {
  Config config;
  config.set_assignment("diagnostics.dump_hidden_dir=a=b # c");
  CHECK(config.settings().diagnostics.dump_hidden_dir == "a=b # c");
  config.set_assignment("diagnostics.dump_hidden_dir = \"x y\"");
  CHECK(config.settings().diagnostics.dump_hidden_dir == "x y");
  config.set_assignment("diagnostics.dump_hidden_dir=");
  CHECK(config.settings().diagnostics.dump_hidden_dir == "");
  CHECK(error_of([&] { config.set_assignment("runtime.max_batch_size="); }).find("expected an integer") !=
        std::string::npos);
  CHECK(error_of([&] { config.set_assignment("runtime.warmup"); }).find("expected section.key=value") !=
        std::string::npos);
  CHECK(error_of([&] { config.set_assignment("warmup=1"); }).find("a key is written section.name") !=
        std::string::npos);
  CHECK(error_of([&] { config.set_assignment("runtime.warmpu=1"); }).find("did you mean runtime.warmup?") !=
        std::string::npos);
  CHECK(error_of([&] { config.set_assignment("moe.nvfp4_smallm=0"); }).find("did you mean moe.nvfp4_smallM?") !=
        std::string::npos);
  CHECK(error_of([&] { config.get("no.key"); }).find("no key \"no.key\"") != std::string::npos);
}

TEST_CASE("what a file gets wrong without being malformed is a warning") {
  using Lines = std::vector<std::string>;
  CHECK(warnings_of("[runtime]\nwarmpu = 1") ==
        Lines{"imp.conf:2: unknown key \"warmpu\" in section [runtime] (did you mean warmup?); it is not used"});
  CHECK(warnings_of("[runtime]\nthink_budget = 1") == Lines{"imp.conf:2: unknown key \"think_budget\" in section "
                                                            "[runtime] (think_budget belongs to section [generation]); "
                                                            "it is not used"});
  CHECK(warnings_of("[runtme]\nwarmup = 1\nanything = 2") ==
        Lines{"imp.conf:1: unknown section \"runtme\" (did you mean runtime?); its settings are not used"});
  CHECK(warnings_of("warmup = 1") == Lines{"imp.conf:1: key \"warmup\" stands before any [section] and is not used"});
  CHECK(warnings_of("[runtime]\nwarmup = 1\nwarmup = 0") ==
        Lines{"imp.conf:3: runtime.warmup was set in line 2 already; the last one counts"});
  CHECK(warnings_of("[runtime]\nmax_batch_size = 999") ==
        Lines{"imp.conf:2: runtime.max_batch_size: 999 is above the largest value, 256, which is used instead"});
  const Lines gemma4 = warnings_of("[gemma4]\nrouter_fp32 = true\nother = x");
  REQUIRE(gemma4.size() == 1);
  CHECK(gemma4[0].find("chosen for each model when it is loaded") != std::string::npos);
}

TEST_CASE("strict checking makes warnings errors") {
  Config config;
  config.require_no_warnings();
  config.load_text("[runtime]\nwarmpu = 1\n[no]", "imp.conf");
  const std::string message = error_of([&] { config.require_no_warnings(); });
  CHECK(message.find("imp.conf:2: unknown key") != std::string::npos);
  CHECK(message.find("imp.conf:3: unknown section") != std::string::npos);
}

TEST_CASE("warnings of a hopeless file are bounded") {
  std::string text = "[runtime]\n";
  for (int i = 0; i < 20000; ++i) text += cat("k", i, " = 1\n");
  CHECK(warnings_of(text).size() == 101);
}

TEST_CASE("a file with an error changes nothing") {
  Config config;
  CHECK(error_of([&] { config.load_text("[runtime]\nmax_batch_size = 9\nwarmup = perhaps", "imp.conf"); }) ==
        "imp.conf:3: runtime.warmup = \"perhaps\" is not allowed: expected true or false (default false)");
  CHECK(batch_of(config) == 4);
  CHECK_FALSE(config.is_explicit("runtime.max_batch_size"));
}

TEST_CASE("programs that embed imp start without prefix cache, and an explicit value sticks") {
  Config config = Config::defaults_for_embedders();
  CHECK_FALSE(config.settings().server.prefix_cache);
  CHECK_FALSE(config.is_explicit("server.prefix_cache"));
  config.load_text("[server]\nprefix_cache = true", "imp.conf");
  CHECK(config.settings().server.prefix_cache);
  CHECK(Config().settings().server.prefix_cache);
}

TEST_CASE("dump, parse, dump") {
  Config config;
  config.load_text("[runtime]\nmax_batch_size = 17\nwarmup = yes\n[ffn]\nsparsity_threshold = 1e-3", "imp.conf");
  config.set("diagnostics.dump_hidden_dir", "a \"b\" \\c\td\n'e' # f \xc3\xa4");
  config.set("runtime.deterministic", "true");
  config.resolve();
  config.set_automatic("runtime.max_seq_len", int64_t{2048}, "memory\nis small");
  Config again;
  again.load_text(config.dump(), "dump");
  CHECK(again.warnings().empty());
  for (const OptionRow& row : option_rows()) {
    CAPTURE(row.key);
    const Origin origin = config.source(row.key).origin;
    if (origin == Origin::implied || origin == Origin::automatic) continue;
    CHECK(again.get(row.key) == config.get(row.key));
  }
  CHECK(config.dump().find("# max_seq_len = 2048  # auto: memory is small\n") != std::string::npos);
  Config third;
  third.load_text(again.dump(), "dump");
  CHECK(third.dump() == again.dump());
}

TEST_CASE("automatic values are recorded and keep their type") {
  Config config;
  config.set_automatic("runtime.max_seq_len", int64_t{4096}, "the model's context");
  CHECK(config.settings().runtime.max_seq_len == 4096);
  CHECK(config.source("runtime.max_seq_len").origin == Origin::automatic);
  CHECK(config.source("runtime.max_seq_len").detail == "the model's context");
  CHECK_FALSE(config.is_explicit("runtime.max_seq_len"));
  CHECK_THROWS_AS(config.set_automatic("runtime.max_seq_len", true, "wrong"), Error);
}

TEST_CASE("the file search takes the first that is there") {
  const EmptyPlace place;
  CHECK(Config::load().file() == "");
  place.write(".config/imp/imp.conf", "[runtime]\nmax_batch_size = 11");
  CHECK(batch_of(Config::load()) == 11);
  place.write("imp.conf", "[runtime]\nmax_batch_size = 12");
  CHECK(batch_of(Config::load()) == 12);
  CHECK(Config::load().file() == "imp.conf");
  place.write("env.conf", "[runtime]\nmax_batch_size = 13");
  setenv("IMP_CONFIG", "env.conf", 1);
  CHECK(batch_of(Config::load()) == 13);
  place.write("named.conf", "[runtime]\nmax_batch_size = 14");
  CHECK(batch_of(Config::load("named.conf")) == 14);
  setenv("IMP_CONFIG", "", 1);
  CHECK(batch_of(Config::load()) == 12);
  place.write("imp.conf", "");  // an empty file counts as found
  CHECK(batch_of(Config::load()) == 4);
}

TEST_CASE("a named file that cannot be read is an error") {
  const EmptyPlace place;
  place.write("imp.conf", "[runtime]\nmax_batch_size = 12");
  CHECK(error_of([&] { Config::load("missing.conf"); }).find("missing.conf: no such configuration file") == 0);
  setenv("IMP_CONFIG", "missing.conf", 1);
  CHECK(error_of([&] { Config::load(); }).find("missing.conf") == 0);
  unsetenv("IMP_CONFIG");
  CHECK(error_of([&] { Config::load(place.path("")); }).find("is a directory") != std::string::npos);
  place.write("large.conf", std::string((1 << 20) + 1, '#'));
  CHECK(error_of([&] { Config::load("large.conf"); }).find("larger than 1048576 bytes") != std::string::npos);
  if (geteuid() != 0) {
    chmod(place.path("imp.conf").c_str(), 0);
    CHECK(error_of([&] { Config::load(); }).find("cannot be opened") != std::string::npos);
  }
}

TEST_CASE("IMP_DETERMINISTIC replaces a default, a file beats it") {
  const EmptyPlace place;
  setenv("IMP_DETERMINISTIC", "1", 1);
  const Config seeded = Config::load();
  CHECK(seeded.settings().runtime.deterministic);
  CHECK(seeded.source("runtime.deterministic").origin == Origin::environment);
  CHECK_FALSE(seeded.is_explicit("runtime.deterministic"));
  CHECK_FALSE(Config().settings().runtime.deterministic);
  place.write("imp.conf", "[runtime]\ndeterministic = false");
  CHECK_FALSE(Config::load().settings().runtime.deterministic);
  setenv("IMP_DETERMINISTIC", "perhaps", 1);
  CHECK(error_of([&] { Config::load(); }).find("IMP_DETERMINISTIC: runtime.deterministic = \"perhaps\"") == 0);
}
