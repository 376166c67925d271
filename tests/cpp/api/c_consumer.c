/* The C API from C: what a program in that language sees. argv[1]: a tiny model with a tokenizer. */
#include <imp/imp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                            \
  do {                                                                                              \
    if (!(condition)) {                                                                             \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, imp_last_error_message()); \
      exit(1);                                                                                      \
    }                                                                                               \
  } while (0)

typedef struct {
  char text[4096];
  size_t length;
  int calls;
  int stop_after; /* calls; 0: never */
} sink;

static int32_t take(const char* text, size_t length, void* user) {
  sink* to = user;
  CHECK(text[length] == 0);
  memcpy(to->text + to->length, text, length + 1);
  to->length += length;
  ++to->calls;
  return to->stop_after > 0 && to->calls >= to->stop_after;
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  CHECK(imp_api_version() == IMP_API_VERSION);
  imp_model* model = NULL;
  CHECK(imp_model_load("/no/such/model.gguf", IMP_FORMAT_AUTO, &model) == IMP_ERROR_FILE_NOT_FOUND);
  CHECK(model == NULL && strstr(imp_last_error_message(), "/no/such/model.gguf"));
  CHECK(imp_model_load(argv[1], IMP_FORMAT_GGUF, &model) == IMP_OK);
  CHECK(strcmp(imp_model_arch(model), "llama") == 0);

  imp_context* context = NULL;
  CHECK(imp_context_create(model, NULL, &context) == IMP_OK);
  imp_model_free(model); /* a context needs its model no longer */

  imp_generate_params params = {.struct_size = sizeof params};
  CHECK(imp_generate_params_default(&params) == IMP_OK);
  params.temperature = 0;
  params.max_tokens = 24;
  params.ignore_eos = 1;
  sink streamed = {0};
  CHECK(imp_generate_streaming(context, "Hello world", &params, take, &streamed) == IMP_OK);
  CHECK(streamed.length > 0);
  char whole[4096];
  size_t length = 0;
  CHECK(imp_generate(context, "Hello world", &params, whole, sizeof whole, &length) == IMP_OK);
  CHECK(length == streamed.length && strcmp(whole, streamed.text) == 0);

  sink cut = {.stop_after = 2};
  CHECK(imp_generate_streaming(context, "Hello world", &params, take, &cut) == IMP_ERROR_CANCELLED);
  CHECK(cut.calls == 2 && strncmp(cut.text, whole, cut.length) == 0);
  CHECK(imp_generate(context, "Hello world", &params, whole, 4, &length) == IMP_ERROR_INVALID_ARG);
  CHECK(length == streamed.length && strncmp(whole, streamed.text, strlen(whole)) == 0);

  imp_context_free(context);
  imp_context_free(NULL);
  puts("ok");
  return 0;
}
