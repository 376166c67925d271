/* Streams a completion to stdout: embed_c MODEL PROMPT [MAX_TOKENS [MAX_BYTES]]
 * With MAX_BYTES the program cancels the generation from its callback once that much text has come. */
#include <imp/imp.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
  size_t bytes;
  size_t max_bytes; /* 0: all */
} output;

static int32_t print_text(const char* text, size_t length, void* user) {
  output* out = user;
  fwrite(text, 1, length, stdout);
  fflush(stdout);
  out->bytes += length;
  return out->max_bytes > 0 && out->bytes >= out->max_bytes; /* non-zero: enough */
}

static int fail(const char* what, imp_status status) {
  fprintf(stderr, "embed_c: %s: %s: %s\n", what, imp_error_string(status), imp_last_error_message());
  return 1;
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: %s MODEL PROMPT [MAX_TOKENS [MAX_BYTES]]\n", argv[0]);
    return 2;
  }
  imp_model* model = NULL;
  imp_status status = imp_model_load(argv[1], IMP_FORMAT_AUTO, &model);
  if (status != IMP_OK) return fail("load", status);

  imp_context* context = NULL;
  status = imp_context_create(model, NULL, &context);
  if (status != IMP_OK) {
    imp_model_free(model);
    return fail("context", status);
  }
  fprintf(stderr, "embed_c: imp %s, %s model, %s\n", imp_version(), imp_model_arch(model), imp_context_device(context));

  imp_generate_params params = {.struct_size = sizeof params};
  imp_generate_params_default(&params);
  params.temperature = 0;
  params.max_tokens = argc > 3 ? atoi(argv[3]) : 64;
  output out = {0, argc > 4 ? (size_t)atoi(argv[4]) : 0};
  status = imp_generate_streaming(context, argv[2], &params, print_text, &out);
  putchar('\n');
  int code = 0;
  if (status == IMP_ERROR_CANCELLED)
    fprintf(stderr, "embed_c: cancelled after %zu bytes\n", out.bytes);
  else if (status != IMP_OK)
    code = fail("generate", status);

  imp_context_free(context);
  imp_model_free(model);
  return code;
}
