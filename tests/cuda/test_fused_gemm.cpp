#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <thread>

#include "core/half.h"
#include "core/text.h"
#include "linear/gemm_hmma.h"
#include "linear/gemm_wgmma.h"
#include "reference/reference.h"
#include "support/cuda_device.h"
#include "support/few.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Options {
  bool bias = false, accumulate = false, gated = false, bf16_out = false, share = true, pdl = false;
  int tile_tokens = 256;
  bool hmma = false;  // the kernel for Q4_K
  int blocks = 0;     // 0: all multiprocessors; few of them make a small problem one of many waves
  int odd_stride = 1;
  float scale = 1;
  Activation activation = Activation::silu;
};

struct Operand {
  WeightMatrix host;
  PackedMatrix device;
  std::vector<float> bias;
  Operand(WeightFormat format, int64_t n, int64_t k, Random& random, const LaunchContext& context)
      : host(format, n, k, random), device(host, context), bias(random.normals(n, 0.1f)) {}
};

/// Scratch that a launch must leave as the next one needs it.
struct Scratch {
  TestDevice device;
  DeviceArray<float> partial{std::vector<float>(fused_partial_floats(device.num_sms), kNan)};
  DeviceArray<int32_t> flags{std::vector<int32_t>(device.num_sms, 0)};
};

/// sum_k x[t, k] * bf16(w[n, k]) in fp64, and sum |x w|.
struct Products {
  std::vector<double> sum, size;
};
Products products_of(const std::vector<float>& x, const WeightMatrix& w, int64_t tokens) {
  const int64_t n = w.view.rows, k = w.view.cols;
  Products out{std::vector<double>(tokens * n), std::vector<double>(tokens * n)};
  std::vector<float> rounded;
  for (float value : w.values) rounded.push_back(bf16_to_f32(f32_to_bf16(value)));
  const int64_t num_threads = 8;
  std::vector<std::thread> threads;
  for (int64_t part = 0; part < num_threads; ++part)
    threads.emplace_back([&, part] {
      for (int64_t t = part; t < tokens; t += num_threads)
        for (int64_t r = 0; r < n; ++r) {
          double sum = 0, size = 0;
          for (int64_t c = 0; c < k; ++c) {
            const double p = double(x[t * k + c]) * rounded[r * k + c];
            sum += p, size += std::fabs(p);
          }
          out.sum[t * n + r] = sum, out.size[t * n + r] = size;
        }
    });
  for (std::thread& thread : threads) thread.join();
  return out;
}

/// "" or the first element that fp32 sums do not explain.
std::string run_and_check(Scratch& scratch, std::vector<const Operand*> weights, int64_t tokens, const Options& options,
                          Random& random, int repeats = 1) {
  const int64_t k = weights[0]->host.view.cols;
  std::vector<uint16_t> x_bits;
  std::vector<float> x;
  for (float value : random.outlier_heavy(tokens, k)) {
    x_bits.push_back(f32_to_bf16(value));
    x.push_back(bf16_to_f32(x_bits.back()));
  }
  const DeviceArray<uint16_t> device_x(x_bits);
  std::vector<Products> products;
  for (const Operand* w : weights) products.push_back(products_of(x, w->host, tokens));

  FusedGemmArgs args = {};
  args.x = device_x.data(), args.x_stride = k, args.tokens = static_cast<int>(tokens);
  args.accumulate = options.accumulate, args.gated = options.gated, args.bf16_out = options.bf16_out;
  args.activation = options.activation;
  args.partial = options.share ? scratch.partial.data() : nullptr;
  args.flags = scratch.flags.data();
  std::vector<std::unique_ptr<DeviceArray<float>>> bias, wide;
  std::vector<std::unique_ptr<DeviceArray<uint16_t>>> narrow;
  std::vector<std::vector<float>> before;
  for (const Operand* w : weights) {
    const int64_t n = w->host.view.rows, stride = n + n % 2 + options.odd_stride;
    bias.push_back(std::make_unique<DeviceArray<float>>(w->bias));
    before.push_back(options.accumulate ? random.normals(tokens * stride) : std::vector<float>(tokens * stride, kNan));
    wide.push_back(std::make_unique<DeviceArray<float>>(before.back()));
    narrow.push_back(std::make_unique<DeviceArray<uint16_t>>(std::vector<uint16_t>(tokens * stride, 0x7fc0)));
    args.outputs[args.num_outputs++] = {
        packed_view(w->device.view()), options.bias ? bias.back()->data() : nullptr,
        options.bf16_out ? static_cast<void*>(narrow.back()->data()) : wide.back()->data(), stride, options.scale};
  }
  LaunchContext context = scratch.device.context(options.pdl);
  if (options.blocks) context.num_sms = options.blocks;
  const auto layout = static_cast<PackedLayout>(weights[0]->device.view().layout);
  for (int i = 0; i < repeats; ++i)
    options.hmma ? gemm_hmma_q4k(args, context, options.tile_tokens)
                 : gemm_wgmma(layout, args, context, options.tile_tokens);

  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t n = weights[i]->host.view.rows, stride = args.outputs[i].y_stride;
    std::vector<float> y = wide[i]->download();
    if (options.bf16_out) {
      const std::vector<uint16_t> bits = narrow[i]->download();
      for (size_t at = 0; at < bits.size(); ++at) y[at] = bf16_to_f32(bits[at]);
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t r = 0; r < stride; ++r) {
        const float found = y[t * stride + r];
        if (r >= n || (options.gated && i == 1)) {
          const float kept = before[i][t * stride + r];
          if (std::memcmp(&found, &kept, 4) != 0 && !(std::isnan(found) && std::isnan(kept)))
            return cat("output ", i, " token ", t, " row ", r, " is not of this product");
          continue;
        }
        auto value = [&](size_t of) {
          return products[of].sum[t * n + r] * options.scale + (options.bias ? weights[of]->bias[r] : 0);
        };
        auto allowed_of = [&](size_t of) { return 1e-5 * products[of].size[t * n + r] * options.scale + 1e-7; };
        double expected = value(i), allowed = allowed_of(i);
        if (options.gated) {
          const double a = reference::activate(options.activation, expected), up = value(1);
          allowed = 1.13 * allowed * (std::fabs(up) + allowed_of(1)) + std::fabs(a) * allowed_of(1) +
                    4e-6 * std::fabs(a * up);
          expected = a * up;
        }
        if (options.accumulate) expected += double(before[i][t * stride + r]) * 1, allowed += 1e-6;
        if (options.bf16_out) allowed += 0x1.01p-8 * std::fabs(expected);
        if (!(std::fabs(found - expected) <= allowed + 1e-6 * std::fabs(expected)))
          return cat("output ", i, " token ", t, " row ", r, ": expected ", expected, ", found ", found, ", allowed ",
                     allowed);
      }
  }
  for (int32_t flag : scratch.flags.download())
    if (flag != 0) return "a flag was left set";
  return "";
}

constexpr WeightFormat kFormats[] = {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k, WeightFormat::q5_k};

}  // namespace

TEST_CASE("gemm_wgmma: every codec, both tiles, odd sizes, on many and on few blocks") {
  if (TestDevice().capability != 90) return;
  Random random(1);
  Scratch scratch;
  for (WeightFormat format : kFormats) {
    const bool any_width = info(format).block_elements <= 32;
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{37, any_width ? 96 : 256}, {300, any_width ? 1056 : 1280}}) {
      const Operand w(format, n, k, random, scratch.device.context());
      for (int64_t tokens : few({1, 65, 200, 513}, {65, 300})) {
        for (int tile : {128, 256}) {
          for (int blocks : few({0, 5, 2}, {0, 2})) {
            CAPTURE(info(format).name);
            CAPTURE(n);
            CAPTURE(tokens);
            CAPTURE(tile);
            CAPTURE(blocks);
            CHECK(run_and_check(scratch, {&w}, tokens, {.tile_tokens = tile, .blocks = blocks}, random) == "");
          }
        }
      }
    }
  }
}

TEST_CASE("gemm_wgmma: a long k is cut over many blocks, again and again on one scratch") {
  if (TestDevice().capability != 90) return;
  Random random(2);
  Scratch scratch;
  const Operand w(WeightFormat::q8_0, 130, few(12288, 2048), random, scratch.device.context());
  for (bool pdl : {false, true})
    for (int blocks : few({0, 3, 7, 61}, {0, 7}))
      for (int tile : {128, 256})
        CHECK(run_and_check(scratch, {&w}, 70, {.pdl = pdl, .tile_tokens = tile, .blocks = blocks}, random, 3) == "");
}

TEST_CASE("gemm_wgmma: bias, residual, scale, gated, bf16 out") {
  if (TestDevice().capability != 90) return;
  Random random(3);
  Scratch scratch;
  for (WeightFormat format : kFormats) {
    const Operand a(format, 203, 768, random, scratch.device.context());
    const Operand b(format, 203, 768, random, scratch.device.context());
    for (int tile : {128, 256})
      for (const Options& o :
           {Options{.bias = true}, Options{.accumulate = true, .odd_stride = 0},
            Options{.accumulate = true, .share = false}, Options{.bf16_out = true, .odd_stride = 0},
            Options{.bf16_out = true, .scale = 0.37f}, Options{.gated = true},
            Options{.bias = true, .gated = true, .bf16_out = true, .scale = 0.37f, .activation = Activation::gelu_tanh},
            Options{.bias = true, .accumulate = true, .pdl = true, .scale = 1.5f}}) {
        Options options = o;
        options.tile_tokens = tile;
        for (int blocks : few({0, 3}, {3})) {
          options.blocks = blocks;
          CAPTURE(info(format).name);
          CAPTURE(tile);
          CAPTURE(blocks);
          CAPTURE(o.bias);
          CAPTURE(o.accumulate);
          CAPTURE(o.gated);
          CAPTURE(o.bf16_out);
          const std::vector<const Operand*> weights = o.gated ? std::vector{&a, &b} : std::vector{&a};
          CHECK(run_and_check(scratch, weights, 150, options, random) == "");
        }
      }
  }
}

TEST_CASE("gemm_wgmma: three outputs of one launch") {
  if (TestDevice().capability != 90) return;
  Random random(4);
  Scratch scratch;
  const auto& with = scratch.device.context();
  const Operand q(WeightFormat::q6_k, 517, 512, random, with), k(WeightFormat::q6_k, 67, 512, random, with),
      v(WeightFormat::q6_k, 128, 512, random, with);
  for (int blocks : {0, 4})
    CHECK(run_and_check(scratch, {&q, &k, &v}, 300, {.bias = true, .blocks = blocks}, random) == "");
}

TEST_CASE("gemm_wgmma: a NaN in one token stays with it") {
  if (TestDevice().capability != 90) return;
  Random random(5);
  Scratch scratch;
  const int64_t tokens = 140, k = 512, n = 40;
  const Operand w(WeightFormat::q4_k, n, k, random, scratch.device.context());
  std::vector<uint16_t> x(tokens * k, f32_to_bf16(0.5f));
  x[77 * k + 300] = 0x7fc0;
  const DeviceArray<uint16_t> device_x(x);
  const DeviceArray<float> y(std::vector<float>(tokens * n, 0));
  FusedGemmArgs args = {};
  args.x = device_x.data(), args.x_stride = k, args.tokens = tokens;
  args.outputs[0] = {packed_view(w.device.view()), nullptr, y.data(), n, 1.0f};
  args.num_outputs = 1;
  gemm_wgmma(PackedLayout::kQ4K, args, scratch.device.context());
  const std::vector<float> found = y.download();
  int64_t wrong = 0;
  for (int64_t i = 0; i < tokens * n; ++i) wrong += std::isfinite(found[i]) == (i / n == 77);
  CHECK(wrong == 0);
}

constexpr int kHmmaTiles[] = {32, 64, 128};

TEST_CASE("gemm_hmma: odd sizes, all tiles, on many and on few blocks") {
  if (TestDevice().capability < 80) return;
  Random random(11);
  Scratch scratch;
  for (const auto& [n, k] :
       few<std::pair<int64_t, int64_t>>({{1, 256}, {37, 768}, {300, 1280}, {515, 256}}, {{1, 256}, {300, 768}})) {
    const Operand w(WeightFormat::q4_k, n, k, random, scratch.device.context());
    for (int64_t tokens : few({1, 8, 31, 65, 200, 300}, {8, 65}))
      for (int tile : kHmmaTiles)
        for (int blocks : few({0, 5, 2}, {0, 2})) {
          CAPTURE(n);
          CAPTURE(tokens);
          CAPTURE(tile);
          CAPTURE(blocks);
          CHECK(run_and_check(scratch, {&w}, tokens, {.tile_tokens = tile, .hmma = true, .blocks = blocks}, random) ==
                "");
        }
  }
}

TEST_CASE("gemm_hmma: a long k is cut over many blocks, again and again on one scratch") {
  if (TestDevice().capability < 80) return;
  Random random(12);
  Scratch scratch;
  const Operand w(WeightFormat::q4_k, 130, few(12288, 2048), random, scratch.device.context());
  for (bool pdl : {false, true})
    for (int blocks : few({0, 3, 7, 61}, {0, 7}))
      for (int tile : kHmmaTiles)
        CHECK(run_and_check(scratch, {&w}, 70, {.pdl = pdl, .tile_tokens = tile, .hmma = true, .blocks = blocks},
                            random, 3) == "");
}

TEST_CASE("gemm_hmma: bias, residual, scale, gated, bf16 out, three outputs") {
  if (TestDevice().capability < 80) return;
  Random random(13);
  Scratch scratch;
  const auto& with = scratch.device.context();
  const Operand a(WeightFormat::q4_k, 203, 768, random, with), b(WeightFormat::q4_k, 203, 768, random, with),
      c(WeightFormat::q4_k, 517, 768, random, with);
  for (int tile : kHmmaTiles)
    for (const Options& o :
         {Options{.bias = true}, Options{.accumulate = true, .odd_stride = 0},
          Options{.accumulate = true, .share = false}, Options{.bf16_out = true, .odd_stride = 0},
          Options{.bf16_out = true, .scale = 0.37f}, Options{.gated = true},
          Options{.bias = true, .gated = true, .bf16_out = true, .scale = 0.37f, .activation = Activation::gelu_tanh},
          Options{.bias = true, .accumulate = true, .pdl = true, .scale = 1.5f}}) {
      Options options = o;
      options.tile_tokens = tile, options.hmma = true;
      for (int blocks : few({0, 3}, {3})) {
        options.blocks = blocks;
        CAPTURE(tile);
        CAPTURE(blocks);
        CAPTURE(o.bias);
        CAPTURE(o.accumulate);
        CAPTURE(o.gated);
        CAPTURE(o.bf16_out);
        CHECK(run_and_check(scratch, o.gated ? std::vector{&a, &b} : std::vector<const Operand*>{&a}, 150, options,
                            random) == "");
        if (!o.gated) CHECK(run_and_check(scratch, {&a, &c, &b}, 150, options, random) == "");
      }
    }
}
