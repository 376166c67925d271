// How fast a model's tokenizer encodes and decodes: bench_text_encode MODEL.gguf FILE...
// Prints one line a file: bytes, tokens, MB/s of both directions on one core (best of some runs, CPU time).
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>

#include "core/error.h"
#include "formats/model_file.h"
#include "text/tokenizer.h"

namespace {

constexpr int kRuns = 7;

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class Work>
double best_seconds(const Work& work) {
  double best = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    const double start = cpu_seconds();
    work();
    best = std::min(best, cpu_seconds() - start);
  }
  return best;
}

int measure(const imp::Tokenizer& tokenizer, const char* path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    std::fprintf(stderr, "%s: cannot be read\n", path);
    return 1;
  }
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::vector<imp::TokenId> ids;
  std::string decoded;
  const double encode = best_seconds([&] { ids = tokenizer.encode(text, {}); });
  const double decode = best_seconds([&] { decoded = tokenizer.decode(ids); });
  const double megabytes = 1e-6 * static_cast<double>(text.size());
  std::printf("%s: bytes=%zu tokens=%zu encode_mb_per_s=%.1f decode_mb_per_s=%.1f\n", path, text.size(), ids.size(),
              megabytes / encode, megabytes / decode);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s MODEL.gguf FILE...\n", argv[0]);
    return 2;
  }
  try {
    const auto file = imp::open_model_file(argv[1]);
    const double start = cpu_seconds();
    const auto tokenizer = imp::load_tokenizer(*file);
    if (!tokenizer) {
      std::fprintf(stderr, "%s: has no tokenizer\n", argv[1]);
      return 1;
    }
    std::printf("load_tokenizer_ms=%.0f\n", 1e3 * (cpu_seconds() - start));
    int failed = 0;
    for (int i = 2; i < argc; ++i) failed |= measure(*tokenizer, argv[i]);
    return failed;
  } catch (const imp::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
