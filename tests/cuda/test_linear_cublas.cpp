#include <doctest/doctest.h>

#include <cmath>
#include <memory>

#include "core/error.h"
#include "reference/reference.h"
#include "support/capture_stderr.h"
#include "support/compare.h"
#include "support/few.h"
#include "support/prefill_call.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

TEST_CASE("a prefill takes bf16 rows as they are, and gives gated results in bf16") {
  Random random(10);
  LinearWorkspace workspace;
  const int64_t m = 40, k = 512, n = 136;
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<float> x(wide);
  const DeviceArray<uint16_t> x_bf16(narrow);
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::bf16, WeightFormat::f16}) {
    const Operand gate(format, n, k, random, workspace.device.context()),
        up(format, n, k, random, workspace.device.context());
    CAPTURE(info(format).name);
    const PrefillCall plain{.workspace = workspace, .weights = {&gate}, .m = m, .bias = true};
    CHECK(same_bits(plain.run(x_bf16.data(), DType::bf16, DType::f32), plain.run(x.data(), DType::f32, DType::f32)));

    const PrefillCall gated{.workspace = workspace, .weights = {&gate, &up}, .m = m, .bias = true, .gated = true};
    const std::vector<float> g = plain.run(x.data(), DType::f32, DType::f32),
                             u = PrefillCall{.workspace = workspace, .weights = {&up}, .m = m, .bias = true}.run(
                                 x.data(), DType::f32, DType::f32),
                             y = gated.run(x_bf16.data(), DType::bf16, DType::bf16);
    int64_t wrong = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      // gate without its bias, up without its bias, and the result are rounded: 2^-9 each of what is rounded, twice
      // that where another order of the sums moves one over the middle.
      const double a = reference::activate(Activation::silu, g[i]),
                   bias = 1 + std::fabs(gate.bias[i % n]) + std::fabs(up.bias[i % n]);
      const double allowed = 0x1p-8 * (1.13 * (std::fabs(g[i]) + bias) * std::fabs(u[i]) +
                                       std::fabs(a) * (std::fabs(u[i]) + bias) + std::fabs(a * u[i]));
      wrong += !(std::fabs(y[i] - a * u[i]) <= allowed);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("outputs side by side are one product, in slices across their borders too") {
  Random random(11);
  for (int64_t elements : {int64_t{4} << 20, int64_t{130} * 512}) {
    LinearWorkspace workspace(elements);
    const auto& with = workspace.device.context();
    const int64_t m = 33, k = 512;
    const DeviceArray<float> x(bf16_values(random, m, k).first);
    using F = WeightFormat;
    for (const auto& [fq, fk, fv] : {std::tuple{F::q4_k, F::q4_k, F::q6_k},
                                     {F::q8_0, F::q8_0, F::q8_0},
                                     {F::bf16, F::bf16, F::bf16},
                                     {F::bf16, F::q8_0, F::f16}}) {
      const Operand wq(fq, 256, k, random, with), wk(fk, 64, k, random, with), wv(fv, 64, k, random, with);
      for (bool accumulate : {false, true}) {
        const std::vector<float> y =
            PrefillCall{
                .workspace = workspace, .weights = {&wq, &wk, &wv}, .m = m, .bias = true, .accumulate = accumulate}
                .run(x.data(), DType::f32, DType::f32);
        int64_t column = 0;
        for (const Operand* w : {&wq, &wk, &wv}) {
          const int64_t n = w->host.view.rows;
          const std::vector<float> alone =
              PrefillCall{.workspace = workspace, .weights = {w}, .m = m, .bias = true, .accumulate = accumulate}.run(
                  x.data(), DType::f32, DType::f32);
          std::vector<float> part;
          for (int64_t t = 0; t < m; ++t)
            part.insert(part.end(), y.begin() + t * 384 + column, y.begin() + t * 384 + column + n);
          CAPTURE(info(w->host.view.format).name);
          CAPTURE(elements);
          CAPTURE(accumulate);
          CHECK(distance(part, alone) < 1e-6);
          column += n;
        }
      }
    }
  }
}

TEST_CASE("products from bf16 copies are those of the weights expanded for the step") {
  Random random(21);
  LinearWorkspace workspace;
  const int64_t k = 512;
  using F = WeightFormat;
  for (const auto& [fq, fk, fv] :
       {std::tuple{F::q8_0, F::q8_0, F::q8_0}, {F::q4_k, F::q4_k, F::q6_k}, {F::f16, F::q8_0, F::f32}}) {
    const auto& with = workspace.device.context();
    const Operand wq(fq, 256, k, random, with), wk(fk, 72, k, random, with), wv(fv, 72, k, random, with);
    std::vector<std::unique_ptr<DeviceMemory>> memory;
    uint64_t taken = 0;
    const auto allocate = [&](uint64_t bytes) {
      taken += bytes;
      return memory.emplace_back(std::make_unique<DeviceMemory>(bytes))->data();
    };
    // As a linear's outputs, side by side; and each by itself.
    Bf16Weights joined, apart;
    const WeightView views[] = {wq.device.view(), wk.device.view(), wv.device.view()};
    joined.add(views, allocate, with);
    CHECK(taken == 2 * 400 * k);
    for (const WeightView& view : views) apart.add({&view, 1}, allocate, with);
    CHECK(joined.find(views[1]) == joined.find(views[0]) + 256 * k);
    for (int64_t m : {1, 37, 200}) {
      const DeviceArray<float> x(bf16_values(random, m, k).first);
      for (bool accumulate : {false, true}) {
        CAPTURE(m);
        CAPTURE(accumulate);
        CAPTURE(info(fv).name);
        PrefillCall each{
            .workspace = workspace, .weights = {&wq, &wk, &wv}, .m = m, .bias = true, .accumulate = accumulate};
        const std::vector<float> expected = each.run(x.data(), DType::f32, DType::f32);
        each.candidate = "cublaslt_bf16";
        for (const Bf16Weights* copies : {&joined, &apart}) {
          each.bf16_copies = copies;
          CHECK(distance(each.run(x.data(), DType::f32, DType::f32), expected) < 1e-6);
        }
      }
    }
  }
}

TEST_CASE("bf16 copies: gate and up, and what refuses in words") {
  Random random(22);
  LinearWorkspace workspace;
  const int64_t m = 40, k = 512, n = 136;
  const auto& with = workspace.device.context();
  const Operand gate(WeightFormat::q8_0, n, k, random, with), up(WeightFormat::q6_k, n, k, random, with),
      half(WeightFormat::bf16, n, k, random, with);
  const DeviceMemory memory(2 * 2 * n * k);
  Bf16Weights copies;
  const WeightView views[] = {gate.device.view(), up.device.view()};
  copies.add(views, [&](uint64_t) { return memory.data(); }, with);
  const DeviceArray<float> x(bf16_values(random, m, k).first);
  for (DType y : {DType::f32, DType::bf16}) {
    PrefillCall gated{.workspace = workspace, .weights = {&gate, &up}, .m = m, .bias = true, .gated = true};
    const std::vector<float> expected = gated.run(x.data(), DType::f32, y);
    gated.bf16_copies = &copies, gated.candidate = "cublaslt_bf16";
    CHECK(distance(gated.run(x.data(), DType::f32, y), expected) < (y == DType::f32 ? 1e-6 : 1e-3));
  }
  // A part without a copy: the whole linear goes another way, and is refused where none is allowed.
  PrefillCall mixed{.workspace = workspace, .weights = {&gate, &half}, .m = m, .bias = true, .gated = true};
  mixed.bf16_copies = &copies;
  CHECK(mixed.run(x.data(), DType::f32, DType::f32).size() == static_cast<size_t>(m * n));
  mixed.candidate = "cublaslt_bf16";
  CHECK_THROWS_AS(mixed.run(x.data(), DType::f32, DType::f32), Error);

  LinearProblem problem{LinearRole::down, WeightFormat::q8_0, 512, 64, 256, workspace.device.max_shared_bytes, {}};
  CHECK(std::string(reject_bf16_gemm(problem)) == "no bf16 copy of the weight is kept");
  problem.bf16_copy = true;
  CHECK(reject_bf16_gemm(problem) == nullptr);
  problem.scaled = true;
  CHECK(std::string(reject_bf16_gemm(problem)) == "the weight has a scale of its own");
  CHECK(std::string(Bf16Weights::reject(LinearRole::lm_head, WeightFormat::q8_0, 512)) ==
        "the head is no prefill product");
  CHECK(std::string(Bf16Weights::reject(LinearRole::o, WeightFormat::bf16, 512)) == "the weight is bf16 itself");
  CHECK(std::string(Bf16Weights::reject(LinearRole::o, WeightFormat::q8_0, 48)) == "k is not a multiple of 32");
  CHECK(Bf16Weights::reject(LinearRole::o, WeightFormat::q8_0, 512) == nullptr);
}

TEST_CASE("f16 sums: near the others where numbers are small, infinite where they are not") {
  Random random(14);
  LinearWorkspace workspace(int64_t{130} * 512);
  const int64_t k = 512, m = 150;
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<float> x(wide);
  const DeviceArray<uint16_t> x_bf16(narrow);
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::bf16, WeightFormat::f32}) {
    const Operand q(format, 136, k, random, workspace.device.context()),
        v(format, 37, k, random, workspace.device.context());
    CAPTURE(info(format).name);
    for (bool accumulate : {false, true}) {
      PrefillCall linear{.workspace = workspace, .weights = {&q, &v}, .m = m, .bias = true, .accumulate = accumulate};
      const std::vector<float> fp32 = linear.run(x.data(), DType::f32, DType::f32);
      linear.switches.f16_sums = true, linear.candidate = "dequant_gemm_f16";
      const std::vector<float> f16 = linear.run(x_bf16.data(), DType::bf16, DType::f32);
      CHECK(same_bits(f16, linear.run(x.data(), DType::f32, DType::f32)));
      CHECK(distance(f16, fp32) < 1e-2);
      CHECK(distance(f16, fp32) > 1e-6);
    }
    const Operand up(format, 136, k, random, workspace.device.context());
    PrefillCall gated{.workspace = workspace, .weights = {&q, &up}, .m = m, .bias = true, .gated = true};
    for (DType type : {DType::f32, DType::bf16}) {
      gated.switches.f16_sums = false, gated.candidate = "dequant_gemm_bf16";
      const std::vector<float> fp32 = gated.run(x.data(), DType::f32, type);
      gated.switches.f16_sums = true, gated.candidate = "dequant_gemm_f16";
      CHECK(distance(gated.run(x.data(), DType::f32, type), fp32) < 2e-2);
    }
  }
  const Operand large(WeightFormat::f32, 16, k, random, workspace.device.context());
  std::vector<float> huge(m * k, 0.0f);
  std::fill_n(huge.begin(), k, 60000.0f);
  for (int64_t c = 0; c < k; ++c) huge[k + c] = 1.0f;
  const DeviceArray<float> dx(huge);
  const std::vector<float> y = PrefillCall{
      .workspace = workspace,
      .weights = {&large},
      .m = m,
      .candidate = "dequant_gemm_f16",
      .switches = {.f16_sums =
                       true}}.run(dx.data(), DType::f32, DType::f32);
  int64_t infinite = 0;
  for (int64_t r = 0; r < 16; ++r) infinite += !std::isfinite(y[r]);
  for (int64_t i = 16; i < m * 16; ++i) CHECK(std::isfinite(y[i]));
  MESSAGE(infinite, " of 16 sums beyond f16");
  CHECK(infinite > 0);
}

TEST_CASE("deterministic products of a shape whose sums the library likes to split: not split, and equal to the bit") {
  if (few_shapes()) return;  // a product of the library
  Random random(15);
  TestDevice device;
  const int64_t m = 128, n = 4096, k = 12288;
  std::vector<uint16_t> a, w;
  for (float x : random.normals(m * k)) a.push_back(f32_to_bf16(x));
  for (float x : random.normals(n * k)) w.push_back(f32_to_bf16(x));
  const DeviceArray<uint16_t> da(a), dw(w);
  const DeviceArray<float> y(std::vector<float>(m * n, kNan));
  const DeviceMemory memory(size_t{32} << 20);
  const TempDir dir;
  const auto run = [&](bool deterministic) {
    CublasLt library;
    library.open(memory.data(), memory.bytes(), {.deterministic = deterministic, .log = true});
    const GemmCall call{.a = da.data(), .w = dw.data(), .y = y.data(), .m = m, .n = n, .k = k, .y_stride = n};
    const std::string text = stderr_of(dir, [&] { library.gemm(call, nullptr); });
    const std::vector<float> first = y.download();
    for (int i = 0; deterministic && i < 20; ++i) {
      library.gemm(call, nullptr);
      CHECK(same_bits(first, y.download()));
    }
    return text.substr(0, text.find(";"));
  };
  const std::string free = run(false), fixed = run(true);
  MESSAGE(free, "\n", fixed);
  CHECK(free.find("imp: gemm m=128 n=4096 k=12288 bf16 to f32: id=") != std::string::npos);
  CHECK(fixed.find(" splitk=1 reduction=0 ") != std::string::npos);
}
