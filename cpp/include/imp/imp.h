/* imp: the C API of the inference engine. C11 and C++; nothing but libc is needed.
 *
 * Conventions
 *  - Functions return an imp_status; IMP_OK is 0, errors are negative. imp_last_error_message() then says, for the
 *    calling thread, what was wrong, where, and what to do. No exception, exit() or signal handler crosses this border.
 *  - Handles are opaque. What a *_create or *_load function gave is released by the *_free function of the same name;
 *    freeing NULL is allowed. Handles do not keep each other: a model may be freed while its contexts live.
 *  - A context is used by one thread at a time; imp_cancel() may be called from any. Models may be shared by threads.
 *  - Structs of parameters begin with struct_size. Set it to sizeof the struct, then call the matching _default
 *    function, then change fields: a program built against an older header keeps working with a newer library.
 *  - Text is UTF-8. Buffers for text receive a terminating NUL; `*length` counts the bytes before it. Where a
 *    buffer is too small the call returns IMP_ERROR_INVALID_ARG and *length says what is needed; a NULL buffer
 *    of size 0 asks for the length only and gives IMP_OK.
 */
#ifndef IMP_IMP_H
#define IMP_IMP_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define IMP_API __attribute__((visibility("default")))
#else
#define IMP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when functions or fields are added. Nothing is removed within libimp.so.1. */
#define IMP_API_VERSION 1

typedef enum imp_status {
  IMP_OK = 0,
  IMP_ERROR_INVALID_ARG = -1,
  IMP_ERROR_OUT_OF_MEMORY = -2,
  IMP_ERROR_CUDA = -3,
  IMP_ERROR_FILE_NOT_FOUND = -4,
  IMP_ERROR_INVALID_MODEL = -5,
  IMP_ERROR_UNSUPPORTED = -6,
  IMP_ERROR_INTERNAL = -7,
  IMP_ERROR_CANCELLED = -8,
  IMP_ERROR_IO = -9
} imp_status;

typedef enum imp_finish_reason {
  IMP_FINISH_NONE = 0,   /* goes on */
  IMP_FINISH_STOP = 1,   /* a stop token or stop string */
  IMP_FINISH_LENGTH = 2, /* max_tokens, or the context is full */
  IMP_FINISH_CANCELLED = 3,
  IMP_FINISH_ERROR = 4
} imp_finish_reason;

typedef enum imp_log_level { IMP_LOG_DEBUG = 0, IMP_LOG_INFO = 1, IMP_LOG_WARN = 2, IMP_LOG_ERROR = 3 } imp_log_level;

typedef struct imp_config imp_config;   /* settings, see docs/configuration.md */
typedef struct imp_model imp_model;     /* a model file: sizes and tokenizer */
typedef struct imp_context imp_context; /* a model on a device, with its KV cache */

/* ---- Library ---- */

IMP_API const char* imp_version(void); /* "0.1.0" */
IMP_API int32_t imp_api_version(void); /* IMP_API_VERSION of the library */
IMP_API const char* imp_error_string(imp_status status);
/* Of the last call on this thread that failed; "" before any did. Valid until the next failing call on it. */
IMP_API const char* imp_last_error_message(void);

/* `line` has no newline and is valid during the call only. Called from any thread. NULL restores the default:
 * warnings and errors on stderr. */
typedef void (*imp_log_fn)(imp_log_level level, const char* line, size_t length, void* user);
IMP_API void imp_set_log_fn(imp_log_fn fn, void* user);
IMP_API void imp_set_log_level(imp_log_level lowest);

/* ---- Configuration ---- */

/* The defaults for embedders. No file and no environment variable is read. */
IMP_API imp_status imp_config_create(imp_config** config);
IMP_API void imp_config_free(imp_config* config);
/* key = "section.name". Unknown keys, bad values and keys not implemented yet are errors. */
IMP_API imp_status imp_config_set(imp_config* config, const char* key, const char* value);
IMP_API imp_status imp_config_load_file(imp_config* config, const char* path);
/* All keys with value and origin, as JSON. */
IMP_API imp_status imp_config_json(const imp_config* config, char* buffer, size_t size, size_t* length);

/* ---- Model ---- */

typedef enum imp_model_format { IMP_FORMAT_AUTO = 0, IMP_FORMAT_GGUF = 1 } imp_model_format;

/* Maps the file (the first shard of a split one), checks it, and loads its tokenizer. Weights are read later. */
IMP_API imp_status imp_model_load(const char* path, imp_model_format format, imp_model** model);
IMP_API void imp_model_free(imp_model* model);
/* Texts live as long as the model. */
IMP_API const char* imp_model_arch(const imp_model* model);
IMP_API const char* imp_model_chat_template(const imp_model* model); /* "" where the file has none */
IMP_API int32_t imp_model_num_layers(const imp_model* model);
IMP_API int32_t imp_model_hidden_size(const imp_model* model);
IMP_API int32_t imp_model_vocab_size(const imp_model* model);
IMP_API int32_t imp_model_context_length(const imp_model* model); /* trained context */

/* tokens == NULL with capacity 0 asks for the number only. Too small a capacity: IMP_ERROR_INVALID_ARG and *count
 * says what is needed. add_special: BOS and EOS as the model wants them. parse_special: the text of control tokens
 * becomes these tokens; leave it 0 for text that a user typed. */
IMP_API imp_status imp_tokenize(const imp_model* model, const char* text, size_t length, int32_t add_special,
                                int32_t parse_special, int32_t* tokens, size_t capacity, size_t* count);
IMP_API imp_status imp_detokenize(const imp_model* model, const int32_t* tokens, size_t count, int32_t show_special,
                                  char* buffer, size_t size, size_t* length);

/* ---- Context ---- */

typedef struct imp_context_params {
  size_t struct_size;
  const char* device;           /* "auto" (default), "cpu", "cuda", "cuda:N" */
  int32_t num_threads;          /* CPU; 0: one a physical core */
  uint64_t memory_budget_bytes; /* weights, KV cache and workspace; 0: from what is free */
  const imp_config* config;     /* copied; NULL: defaults */
} imp_context_params;

IMP_API imp_status imp_context_params_default(imp_context_params* params);

/* params == NULL: defaults. */
IMP_API imp_status imp_context_create(const imp_model* model, const imp_context_params* params, imp_context** context);
IMP_API void imp_context_free(imp_context* context);
/* Drops every sequence; keeps weights. */
IMP_API imp_status imp_context_reset(imp_context* context);
IMP_API int32_t imp_context_max_seq_len(const imp_context* context);
/* What device was chosen and why, in one line; lives as long as the context. */
IMP_API const char* imp_context_device(const imp_context* context);
/* What was decided, run and held (docs/report.md), as JSON. */
IMP_API imp_status imp_context_report_json(const imp_context* context, char* buffer, size_t size, size_t* length);
/* Kernels by role and batch size with the reasons of the refused, as JSON. */
IMP_API imp_status imp_context_explain_json(const imp_context* context, const int32_t* batch_sizes, size_t count,
                                            char* buffer, size_t size, size_t* length);

/* ---- Generation ---- */

typedef struct imp_generate_params {
  size_t struct_size;
  float temperature; /* 0: greedy */
  float top_p;
  int32_t top_k; /* 0: all */
  float min_p;
  float typical_p;
  float repetition_penalty;
  float frequency_penalty;
  float presence_penalty;
  int32_t repeat_last_n; /* window of the penalties; -1: everything */
  float dry_multiplier;  /* 0: off */
  float dry_base;
  int32_t dry_allowed_length;
  int32_t dry_penalty_last_n;
  int32_t mirostat; /* 0 or 2 */
  float mirostat_tau;
  float mirostat_eta;
  int64_t seed;       /* -1: drawn */
  int32_t max_tokens; /* -1: until the model stops or the context is full */
  int32_t min_tokens;
  int32_t ignore_eos;
  const char* const* stop; /* stop strings; read during the call only */
  size_t num_stop;
  int32_t add_special;   /* of the prompt, as in imp_tokenize(); default 1 */
  int32_t parse_special; /* of the prompt; default 1, for prompts made by a chat template */
} imp_generate_params;

/* Temperature 0.7, top_p 0.9, top_k 40, 256 tokens, everything else neutral. */
IMP_API imp_status imp_generate_params_default(imp_generate_params* params);

/* Completes `prompt`. params == NULL: defaults. The buffer may not be NULL; too small a one still receives the text's
 * beginning. */
IMP_API imp_status imp_generate(imp_context* context, const char* prompt, const imp_generate_params* params,
                                char* buffer, size_t size, size_t* length);

/* Text as it comes, whole UTF-8 sequences only. Non-zero ends the generation with IMP_ERROR_CANCELLED. `text` is valid
 * during the call only and is terminated. */
typedef int32_t (*imp_text_fn)(const char* text, size_t length, void* user);
IMP_API imp_status imp_generate_streaming(imp_context* context, const char* prompt, const imp_generate_params* params,
                                          imp_text_fn fn, void* user);

/* Ends the call that generates or measures on this context now; it returns IMP_ERROR_CANCELLED. From any thread. */
IMP_API void imp_cancel(imp_context* context);

/* Which tokens may come next: clear the bit of each that may not (bit i of word i / 32, all set at first). Used by
 * the generations that begin after it was set; NULL takes it away. Non-zero: the grammar cannot go on, the sequence
 * ends. */
typedef int32_t (*imp_logits_mask_fn)(const int32_t* generated, size_t num_generated, uint32_t* mask, size_t num_words,
                                      void* user);
IMP_API void imp_set_logits_mask_fn(imp_context* context, imp_logits_mask_fn fn, void* user);

/* ---- Token by token ---- */

/* Runs a prompt and draws the first token, which imp_decode_step() hands out. Ends the sequence that was open. */
IMP_API imp_status imp_prefill(imp_context* context, const int32_t* tokens, size_t count,
                               const imp_generate_params* params);
/* The next token; *finish tells whether it was the last (a stop token is handed out, too; where the logits mask
 * ended the sequence it is -1). After the last one: IMP_ERROR_INVALID_ARG. */
IMP_API imp_status imp_decode_step(imp_context* context, int32_t* token, imp_finish_reason* finish);

/* Logits after the last of `tokens`, a sequence of its own: exactly imp_model_vocab_size() floats. */
IMP_API imp_status imp_get_logits(imp_context* context, const int32_t* tokens, size_t count, float* logits,
                                  size_t num_logits);

/* Over windows of `window` tokens, the first half of each not scored. At least two windows are needed. */
IMP_API imp_status imp_perplexity(imp_context* context, const int32_t* tokens, size_t count, int32_t window,
                                  double* perplexity, double* standard_error);

#ifdef __cplusplus
}
#endif

#endif /* IMP_IMP_H */
