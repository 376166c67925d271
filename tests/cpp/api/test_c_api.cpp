#include <doctest/doctest.h>
#include <imp/imp.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"

namespace {

std::string last_error() { return imp_last_error_message(); }
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

struct Loaded {
  imp_model* model = nullptr;
  imp_context* context = nullptr;
  explicit Loaded(imp_config* config = nullptr, const char* name = "tiny-llama") {
    const std::string path = std::string(IMP_TEST_DATA) + "/models/" + name + ".gguf";
    REQUIRE(imp_model_load(path.c_str(), IMP_FORMAT_AUTO, &model) == IMP_OK);
    imp_context_params params = {};
    params.struct_size = sizeof params;
    REQUIRE(imp_context_params_default(&params) == IMP_OK);
    params.device = "cpu";
    params.num_threads = 1;
    params.config = config;
    const imp_status status = imp_context_create(model, &params, &context);
    REQUIRE_MESSAGE(status == IMP_OK, last_error());
  }
  ~Loaded() {
    imp_context_free(context);
    imp_model_free(model);
  }
  Loaded(const Loaded&) = delete;
  Loaded& operator=(const Loaded&) = delete;
};

imp_generate_params greedy(int max_tokens) {
  imp_generate_params params = {};
  params.struct_size = sizeof params;
  imp_generate_params_default(&params);
  params.temperature = 0;
  params.max_tokens = max_tokens;
  params.ignore_eos = 1;
  return params;
}

/// A call that fills a buffer, asked for its length first.
template <class Call>
std::string text_of(const Call& call) {
  size_t length = 0;
  REQUIRE(call(nullptr, 0, &length) == IMP_OK);
  std::string text(length + 1, '?');
  REQUIRE(call(text.data(), text.size(), &length) == IMP_OK);
  CHECK(text[length] == 0);
  text.resize(length);
  return text;
}

}  // namespace

TEST_CASE("status codes are those of the core, each with a text") {
  using imp::ErrorCode;
  CHECK(int(ErrorCode::ok) == IMP_OK);
  CHECK(int(ErrorCode::invalid_argument) == IMP_ERROR_INVALID_ARG);
  CHECK(int(ErrorCode::out_of_memory) == IMP_ERROR_OUT_OF_MEMORY);
  CHECK(int(ErrorCode::cuda) == IMP_ERROR_CUDA);
  CHECK(int(ErrorCode::file_not_found) == IMP_ERROR_FILE_NOT_FOUND);
  CHECK(int(ErrorCode::invalid_model) == IMP_ERROR_INVALID_MODEL);
  CHECK(int(ErrorCode::unsupported) == IMP_ERROR_UNSUPPORTED);
  CHECK(int(ErrorCode::internal) == IMP_ERROR_INTERNAL);
  CHECK(int(ErrorCode::cancelled) == IMP_ERROR_CANCELLED);
  CHECK(int(ErrorCode::io) == IMP_ERROR_IO);
  for (int code = 0; code >= -9; --code) CHECK(!contains(imp_error_string(imp_status(code)), "unknown"));
  CHECK(std::string(imp_error_string(imp_status(-77))) == "unknown status");
  CHECK(std::string(imp_version()).find('.') != std::string::npos);
}

TEST_CASE("configuration: set, load, read back, refuse") {
  imp_config* config = nullptr;
  REQUIRE(imp_config_create(&config) == IMP_OK);
  CHECK(imp_config_set(config, "runtime.max_batch_size", "2") == IMP_OK);
  CHECK(imp_config_set(config, "runtime.max_batchsize", "2") == IMP_ERROR_INVALID_ARG);
  CHECK(contains(last_error(), "max_batchsize"));
  CHECK(imp_config_set(config, "runtime.max_batch_size", "many") == IMP_ERROR_INVALID_ARG);
  CHECK(imp_config_set(nullptr, "a.b", "1") == IMP_ERROR_INVALID_ARG);
  CHECK(imp_config_load_file(config, "/no/such/imp.conf") != IMP_OK);
  const std::string json = text_of([&](char* b, size_t s, size_t* l) { return imp_config_json(config, b, s, l); });
  CHECK(contains(json, "imp_config_set"));
  {
    Loaded loaded(config);
    const std::string report =
        text_of([&](char* b, size_t s, size_t* l) { return imp_context_report_json(loaded.context, b, s, l); });
    CHECK(contains(report, "\"max_batch_size\":2"));
  }
  imp_config_free(config);
  imp_config_free(nullptr);
}

TEST_CASE("errors are the thread's own") {
  imp_model* model = nullptr;
  CHECK(imp_model_load("/one.gguf", IMP_FORMAT_AUTO, &model) == IMP_ERROR_FILE_NOT_FOUND);
  std::thread([] {
    CHECK(last_error() == "");
    imp_model* other = nullptr;
    CHECK(imp_model_load("/two.gguf", IMP_FORMAT_AUTO, &other) == IMP_ERROR_FILE_NOT_FOUND);
    CHECK(contains(last_error(), "/two.gguf"));
  }).join();
  CHECK(contains(last_error(), "/one.gguf"));
}

TEST_CASE("NULL and nonsense are answers, not crashes") {
  CHECK(imp_model_load(nullptr, IMP_FORMAT_AUTO, nullptr) == IMP_ERROR_INVALID_ARG);
  CHECK(imp_context_create(nullptr, nullptr, nullptr) == IMP_ERROR_INVALID_ARG);
  CHECK(imp_generate(nullptr, "x", nullptr, nullptr, 0, nullptr) == IMP_ERROR_INVALID_ARG);
  CHECK(imp_prefill(nullptr, nullptr, 0, nullptr) == IMP_ERROR_INVALID_ARG);
  CHECK(imp_model_num_layers(nullptr) == 0);
  CHECK(std::string(imp_model_arch(nullptr)) == "");
  imp_cancel(nullptr);
  imp_set_logits_mask_fn(nullptr, nullptr, nullptr);
  Loaded loaded;
  int32_t token = 0;
  CHECK(imp_decode_step(loaded.context, &token, nullptr) == IMP_ERROR_INVALID_ARG);
  CHECK(contains(last_error(), "imp_prefill() first"));
  CHECK(imp_model_load((std::string(IMP_TEST_DATA) + "/seed.conf").c_str(), IMP_FORMAT_AUTO, &loaded.model) != IMP_OK);
}

TEST_CASE("structs of another version: shorter ones get defaults, longer ones must be empty beyond") {
  Loaded loaded;
  char buffer[512];
  size_t length = 0;
  imp_generate_params params = greedy(4);
  params.struct_size = 0;
  CHECK(imp_generate(loaded.context, "Hello", &params, buffer, sizeof buffer, &length) == IMP_ERROR_INVALID_ARG);
  CHECK(contains(last_error(), "struct_size"));

  params = greedy(2);
  REQUIRE(imp_generate(loaded.context, "Hello", &params, buffer, sizeof buffer, &length) == IMP_OK);
  const size_t length_of_two = length;
  params.struct_size = offsetof(imp_generate_params, max_tokens);  // an older struct without it: 256, the default
  CHECK(imp_generate(loaded.context, "Hello", &params, nullptr, 0, &length) == IMP_ERROR_INVALID_ARG);
  std::string text(8192, 0);
  REQUIRE(imp_generate(loaded.context, "Hello", &params, text.data(), text.size(), &length) == IMP_OK);
  CHECK(length > 4 * length_of_two);

  struct Newer {
    imp_generate_params known;
    int64_t field;
  } newer = {greedy(4), 0};
  newer.known.struct_size = sizeof newer;
  CHECK(imp_generate(loaded.context, "Hello", &newer.known, buffer, sizeof buffer, &length) == IMP_OK);
  newer.field = 1;
  CHECK(imp_generate(loaded.context, "Hello", &newer.known, buffer, sizeof buffer, &length) == IMP_ERROR_UNSUPPORTED);

  Newer filled = {};
  filled.known.struct_size = offsetof(imp_generate_params, top_k);
  filled.known.top_k = 123;
  CHECK(imp_generate_params_default(&filled.known) == IMP_OK);
  CHECK(filled.known.top_p == 0.9f);
  CHECK(filled.known.top_k == 123);  // beyond the caller's struct: untouched
}

TEST_CASE("tokens and text, sized in two calls") {
  Loaded loaded;
  const std::string text = "Hello world, and on";
  size_t count = 0;
  REQUIRE(imp_tokenize(loaded.model, text.data(), text.size(), 0, 0, nullptr, 0, &count) == IMP_OK);
  REQUIRE(count > 0);
  std::vector<int32_t> ids(count);
  CHECK(imp_tokenize(loaded.model, text.data(), text.size(), 0, 0, ids.data(), count - 1, &count) ==
        IMP_ERROR_INVALID_ARG);
  REQUIRE(imp_tokenize(loaded.model, text.data(), text.size(), 0, 0, ids.data(), ids.size(), &count) == IMP_OK);
  const std::string back = text_of(
      [&](char* b, size_t s, size_t* l) { return imp_detokenize(loaded.model, ids.data(), ids.size(), 0, b, s, l); });
  CHECK(back == text);
  const int32_t bad = 1 << 20;
  CHECK(imp_detokenize(loaded.model, &bad, 1, 0, nullptr, 0, &count) == IMP_ERROR_INVALID_ARG);
}

TEST_CASE("prefill and decode steps give the tokens of the whole generation; logits agree with the first") {
  Loaded loaded;
  const std::vector<int32_t> prompt = {10, 20, 30, 40};
  const auto params = greedy(6);
  const auto run = [&] {
    std::vector<int32_t> tokens;
    REQUIRE(imp_prefill(loaded.context, prompt.data(), prompt.size(), &params) == IMP_OK);
    for (imp_finish_reason finish = IMP_FINISH_NONE; finish == IMP_FINISH_NONE;) {
      int32_t token = 0;
      REQUIRE(imp_decode_step(loaded.context, &token, &finish) == IMP_OK);
      tokens.push_back(token);
      if (tokens.size() == 6) CHECK(finish == IMP_FINISH_LENGTH);
    }
    return tokens;
  };
  const std::vector<int32_t> tokens = run();
  CHECK(tokens.size() == 6);
  int32_t token = 0;
  CHECK(imp_decode_step(loaded.context, &token, nullptr) == IMP_ERROR_INVALID_ARG);
  REQUIRE(imp_prefill(loaded.context, prompt.data(), prompt.size(), &params) == IMP_OK);  // left open
  CHECK(run() == tokens);
  CHECK(imp_context_reset(loaded.context) == IMP_OK);

  std::vector<float> logits(static_cast<size_t>(imp_model_vocab_size(loaded.model)));
  CHECK(imp_get_logits(loaded.context, prompt.data(), prompt.size(), logits.data(), 3) == IMP_ERROR_INVALID_ARG);
  REQUIRE(imp_get_logits(loaded.context, prompt.data(), prompt.size(), logits.data(), logits.size()) == IMP_OK);
  CHECK(std::max_element(logits.begin(), logits.end()) - logits.begin() == tokens[0]);
}

TEST_CASE("stop strings, seeds, masks") {
  Loaded loaded;
  char text[2048], cut[2048];
  size_t length = 0;
  auto params = greedy(40);
  REQUIRE(imp_generate(loaded.context, "Hello", &params, text, sizeof text, &length) == IMP_OK);
  const std::string stop = std::string(text).substr(6, 2);
  const char* stops[] = {stop.c_str()};
  params.stop = stops;
  params.num_stop = 1;
  REQUIRE(imp_generate(loaded.context, "Hello", &params, cut, sizeof cut, &length) == IMP_OK);
  CHECK(std::string(cut) == std::string(text).substr(0, std::string(text).find(stop)));

  params = greedy(20);
  params.temperature = 1.5f;
  params.top_k = 0;
  params.top_p = 1;
  params.seed = 42;
  REQUIRE(imp_generate(loaded.context, "Hello", &params, text, sizeof text, &length) == IMP_OK);
  REQUIRE(imp_generate(loaded.context, "Hello", &params, cut, sizeof cut, &length) == IMP_OK);
  CHECK(std::string(text) == std::string(cut));
  params.seed = 43;
  REQUIRE(imp_generate(loaded.context, "Hello", &params, cut, sizeof cut, &length) == IMP_OK);
  CHECK(std::string(text) != std::string(cut));

  // Only token 50, then the end.
  int calls = 0;
  imp_set_logits_mask_fn(
      loaded.context,
      [](const int32_t*, size_t generated, uint32_t* mask, size_t words, void* user) {
        ++*static_cast<int*>(user);
        std::memset(mask, 0, words * sizeof *mask);
        mask[50 / 32] |= 1u << (50 % 32);
        return static_cast<int32_t>(generated == 3);
      },
      &calls);
  const int32_t prompt[] = {10, 20};
  REQUIRE(imp_prefill(loaded.context, prompt, 2, &params) == IMP_OK);
  std::vector<int32_t> tokens;
  for (imp_finish_reason finish = IMP_FINISH_NONE; finish == IMP_FINISH_NONE;) {
    int32_t token = 0;
    REQUIRE(imp_decode_step(loaded.context, &token, &finish) == IMP_OK);
    tokens.push_back(token);
  }
  CHECK(tokens == std::vector<int32_t>{50, 50, 50, -1});
  CHECK(calls == 4);
}

TEST_CASE("imp_cancel from another thread ends a long generation") {
  Loaded loaded;
  auto params = greedy(-1);
  struct Shared {
    imp_context* context;
    std::thread canceller;
  } shared = {loaded.context, {}};
  const auto first_piece = [](const char*, size_t, void* user) {
    auto& s = *static_cast<Shared*>(user);
    if (!s.canceller.joinable()) {
      s.canceller = std::thread([&s] { imp_cancel(s.context); });
      s.canceller.join();
      s.canceller = std::thread([] {});
    }
    return int32_t{0};
  };
  CHECK(imp_generate_streaming(loaded.context, "Hello", &params, first_piece, &shared) == IMP_ERROR_CANCELLED);
  shared.canceller.join();
  char text[256];
  size_t length = 0;
  params = greedy(5);  // the context is as good as new
  CHECK(imp_generate(loaded.context, "Hello", &params, text, sizeof text, &length) == IMP_OK);
}

TEST_CASE("perplexity, report and explanation") {
  Loaded loaded;
  std::vector<int32_t> tokens;
  for (int i = 0; i < 80; ++i) tokens.push_back(5 + (i * 7) % 200);
  double value = 0, error = 0;
  CHECK(imp_perplexity(loaded.context, tokens.data(), tokens.size(), 32, &value, &error) == IMP_OK);
  CHECK(value > 1);
  CHECK(error > 0);
  CHECK(imp_perplexity(loaded.context, tokens.data(), 40, 32, &value, &error) == IMP_ERROR_INVALID_ARG);
  const int32_t sizes[] = {1, 128};
  const std::string text = text_of(
      [&](char* b, size_t s, size_t* l) { return imp_context_explain_json(loaded.context, sizes, 2, b, s, l); });
  CHECK(contains(text, "\"m\":128"));
  CHECK(contains(imp_context_device(loaded.context), "cpu"));
  CHECK(imp_context_max_seq_len(loaded.context) == imp_model_context_length(loaded.model));
}

TEST_CASE("log lines go to the host's function") {
  std::string lines;
  imp_set_log_fn([](imp_log_level, const char* line, size_t length,
                    void* user) { *static_cast<std::string*>(user) += std::string(line, length) + "\n"; },
                 &lines);
  imp_set_log_level(IMP_LOG_INFO);
  {
    Loaded loaded;
  }
  imp_set_log_level(IMP_LOG_WARN);
  imp_set_log_fn(nullptr, nullptr);
  CHECK(contains(lines, "kv_pool"));
}
