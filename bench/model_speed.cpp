#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "support/model_runner.h"

// Prompt and decode speed of the forward pass alone, on the CPU backend, in llama-bench's terms:
//   bench_model_speed MODEL [-p 128] [-n 32] [-r 3] [-t THREADS] [-d 0] [--isa reference|avx2|avx512] [--profile]
// pp N: N tokens in one batch, logits of the last; tg N: N batches of one token after a context of -d tokens.

namespace {

using namespace imp;
using Clock = std::chrono::steady_clock;

struct Flags {
  std::string model;
  int prompt = 128, generate = 32, repeats = 3, threads = 1, depth = 0;
  std::string isa;
  bool profile = false;
};

Flags parse(int argc, char** argv) {
  Flags flags;
  const auto number = [&](int i) { return i + 1 < argc ? std::atoi(argv[i + 1]) : 0; };
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "-p")
      flags.prompt = number(i++);
    else if (flag == "-n")
      flags.generate = number(i++);
    else if (flag == "-r")
      flags.repeats = number(i++);
    else if (flag == "-t")
      flags.threads = number(i++);
    else if (flag == "-d")
      flags.depth = number(i++);
    else if (flag == "--isa" && i + 1 < argc)
      flags.isa = argv[++i];
    else if (flag == "--profile")
      flags.profile = true;
    else
      flags.model = flag;
  }
  return flags;
}

struct Speeds {
  std::vector<double> tokens_per_s;

  void print(const char* test, int tokens) const {
    double mean = 0, variance = 0;
    for (const double speed : tokens_per_s) mean += speed / tokens_per_s.size();
    for (const double speed : tokens_per_s) variance += (speed - mean) * (speed - mean);
    const double deviation = tokens_per_s.size() > 1 ? std::sqrt(variance / (tokens_per_s.size() - 1)) : 0;
    const double best = *std::max_element(tokens_per_s.begin(), tokens_per_s.end());
    std::printf("%s%-5d %9.2f ± %.2f t/s   (best %.2f)\n", test, tokens, mean, deviation, best);
  }
};

double tokens_per_s(int tokens, Clock::time_point begin) {
  return tokens / std::chrono::duration<double>(Clock::now() - begin).count();
}

std::vector<int32_t> some_tokens(int count, int vocab_size) {
  std::vector<int32_t> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>((i * 7919LL + 13) % vocab_size);
  return tokens;
}

void print_profile(const Backend& backend) {
  for (const auto& [op, figures] : backend.profile()) {
    std::printf("  %-12s %7lld calls %9.3f ms %8.2f GB/s %8.2f GFLOP/s\n", op.c_str(), (long long)figures.calls,
                1e3 * figures.seconds, figures.bytes / figures.seconds / 1e9, figures.flops / figures.seconds / 1e9);
  }
  for (const auto& [kernel, count] : backend.launches())
    std::printf("  %-36s %lld\n", kernel.c_str(), (long long)count);
}

void run(const Flags& flags) {
  const Clock::time_point begin = Clock::now();
  test::ModelRunner runner(flags.model, {.force_isa = flags.isa,
                                         .num_threads = flags.threads,
                                         .max_tokens = std::max({flags.prompt, flags.depth, 1}),
                                         .max_context = flags.depth + std::max(flags.prompt, flags.generate) + 1,
                                         .profile = flags.profile});
  std::printf("%s: loaded in %.3f s, %d threads\n", runner.spec().name.c_str(), 1 / tokens_per_s(1, begin),
              flags.threads);
  const int vocab_size = runner.spec().vocab_size;
  const auto fresh = [&] {
    runner.reset();
    if (flags.depth > 0) runner.forward({{0, some_tokens(flags.depth, vocab_size)}}, test::ModelRunner::Rows::last);
  };
  Speeds prompt, generate;
  for (int repeat = -1; repeat < flags.repeats; ++repeat) {  // the first warms up and is not counted
    if (flags.prompt > 0) {
      fresh();
      const std::vector<test::Chunk> batch = {{0, some_tokens(flags.prompt, vocab_size)}};
      const Clock::time_point start = Clock::now();
      runner.forward(batch, test::ModelRunner::Rows::last);
      if (repeat >= 0) prompt.tokens_per_s.push_back(tokens_per_s(flags.prompt, start));
    }
    if (flags.generate > 0) {
      fresh();
      const Clock::time_point start = Clock::now();
      for (int i = 0; i < flags.generate; ++i) runner.forward({{0, {i % vocab_size}}}, test::ModelRunner::Rows::last);
      if (repeat >= 0) generate.tokens_per_s.push_back(tokens_per_s(flags.generate, start));
    }
  }
  if (!prompt.tokens_per_s.empty()) prompt.print("pp", flags.prompt);
  if (!generate.tokens_per_s.empty()) generate.print("tg", flags.generate);
  if (flags.profile) print_profile(runner.backend());
}

}  // namespace

int main(int argc, char** argv) {
  const Flags flags = parse(argc, argv);
  if (flags.model.empty()) {
    std::fprintf(stderr, "usage: %s MODEL [-p N] [-n N] [-r N] [-t N] [-d N] [--isa NAME] [--profile]\n", argv[0]);
    return 2;
  }
  try {
    run(flags);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
