#include "api/border.h"
#include "api/handles.h"
#include "core/log.h"
#include "model/arch.h"

using namespace imp;
using namespace imp::capi;

// Library, configuration, model. Generation is in c_api_generate.cpp.

const char* imp_version(void) { return IMP_VERSION; }
int32_t imp_api_version(void) { return IMP_API_VERSION; }
const char* imp_last_error_message(void) { return last_error_text(); }

const char* imp_error_string(imp_status status) {
  switch (status) {
    case IMP_OK: return "ok";
    case IMP_ERROR_INVALID_ARG: return "invalid argument";
    case IMP_ERROR_OUT_OF_MEMORY: return "out of memory";
    case IMP_ERROR_CUDA: return "CUDA error";
    case IMP_ERROR_FILE_NOT_FOUND: return "file not found";
    case IMP_ERROR_INVALID_MODEL: return "invalid model";
    case IMP_ERROR_UNSUPPORTED: return "unsupported";
    case IMP_ERROR_INTERNAL: return "internal error";
    case IMP_ERROR_CANCELLED: return "cancelled";
    case IMP_ERROR_IO: return "input or output error";
  }
  return "unknown status";
}

void imp_set_log_fn(imp_log_fn fn, void* user) {
  guarded([&] {
    if (!fn) return set_log_sink({});
    set_log_sink([fn, user](LogLevel level, std::string_view line) {
      const std::string terminated(line);
      fn(static_cast<imp_log_level>(level), terminated.c_str(), terminated.size(), user);
    });
  });
}

void imp_set_log_level(imp_log_level lowest) { set_log_level(static_cast<LogLevel>(lowest)); }

imp_status imp_config_create(imp_config** config) {
  return guarded([&] {
    require(config, "config");
    *config = new imp_config;
  });
}

void imp_config_free(imp_config* config) { delete config; }

imp_status imp_config_set(imp_config* config, const char* key, const char* value) {
  return guarded([&] {
    require(config, "config");
    require(key, "key");
    require(value, "value");
    config->config.set(key, value, Origin::api, "imp_config_set");
  });
}

imp_status imp_config_load_file(imp_config* config, const char* path) {
  return guarded([&] {
    require(config, "config");
    require(path, "path");
    config->config.load_file(path);
  });
}

imp_status imp_config_json(const imp_config* config, char* buffer, size_t size, size_t* length) {
  return guarded([&] {
    require(config, "config");
    copy_text(config->config.to_json(), buffer, size, length);
  });
}

imp_status imp_model_load(const char* path, imp_model_format format, imp_model** model) {
  return guarded([&] {
    require(path, "path");
    require(model, "model");
    if (format != IMP_FORMAT_AUTO && format != IMP_FORMAT_GGUF)
      fail(ErrorCode::invalid_argument, "model format ", static_cast<int>(format), " is unknown; expected 0 or 1");
    auto loaded = std::make_unique<imp_model>();
    loaded->file = open_model_file(path);
    loaded->spec = read_model_spec(*loaded->file);
    match_tensors(*loaded->file, loaded->spec);
    loaded->tokenizer = load_tokenizer(*loaded->file);
    loaded->chat_template = loaded->file->get_string("tokenizer.chat_template", "");
    *model = loaded.release();
  });
}

void imp_model_free(imp_model* model) { delete model; }

const char* imp_model_arch(const imp_model* model) { return model ? model->spec.architecture.c_str() : ""; }
const char* imp_model_chat_template(const imp_model* model) { return model ? model->chat_template.c_str() : ""; }
int32_t imp_model_num_layers(const imp_model* model) { return model ? model->spec.num_layers : 0; }
int32_t imp_model_hidden_size(const imp_model* model) { return model ? model->spec.hidden_size : 0; }
int32_t imp_model_vocab_size(const imp_model* model) { return model ? model->spec.vocab_size : 0; }
int32_t imp_model_context_length(const imp_model* model) { return model ? model->spec.context_length : 0; }

namespace {

const Tokenizer& tokenizer_of(const imp_model* model) {
  require(model, "model");
  if (!model->tokenizer) fail(ErrorCode::unsupported, model->file->path(), " has no tokenizer");
  return *model->tokenizer;
}

}  // namespace

imp_status imp_tokenize(const imp_model* model, const char* text, size_t length, int32_t add_special,
                        int32_t parse_special, int32_t* tokens, size_t capacity, size_t* count) {
  return guarded([&] {
    const Tokenizer& tokenizer = tokenizer_of(model);
    require(text, "text");
    require(count, "count");
    const std::vector<TokenId> ids =
        tokenizer.encode({text, length}, {.add_special = add_special != 0, .parse_special = parse_special != 0});
    *count = ids.size();
    if (!tokens && capacity == 0) return;
    require(tokens, "tokens");
    if (capacity < ids.size())
      fail(ErrorCode::invalid_argument, "room for ", capacity, " tokens is too little; ", ids.size(), " are needed");
    std::copy(ids.begin(), ids.end(), tokens);
  });
}

imp_status imp_detokenize(const imp_model* model, const int32_t* tokens, size_t count, int32_t show_special,
                          char* buffer, size_t size, size_t* length) {
  return guarded([&] {
    const Tokenizer& tokenizer = tokenizer_of(model);
    if (count > 0) require(tokens, "tokens");
    for (size_t i = 0; i < count; ++i)
      if (tokens[i] < 0 || tokens[i] >= tokenizer.size())
        fail(ErrorCode::invalid_argument, "token id ", tokens[i], " at ", i, " is outside the vocabulary of ",
             tokenizer.size());
    copy_text(tokenizer.decode({tokens, count}, show_special != 0), buffer, size, length);
  });
}
