// libFuzzer target for the GGUF reader: any bytes either load or fail with imp::Error, and what loads can be decoded.
//
//   cmake -B build-fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DIMP_BUILD_TESTS=ON -DIMP_BUILD_FUZZERS=ON
//         -DIMP_SANITIZE=fuzzer-no-link,address,undefined
//   cmake --build build-fuzz --target fuzz_gguf && build-fuzz/tests/fuzz_gguf -max_total_time=120
//
// Bytes mutated blindly rarely get past the lengths in the header, so half of the mutations build a well-formed file
// from random keys and tensors and then overwrite up to three of its integers.
#include <algorithm>
#include <cstdlib>

#include "core/error.h"
#include "formats/gguf.h"
#include "support/gguf_builder.h"
#include "support/random.h"

using namespace imp;
using test::GgufBuilder;
using test::GgufImage;
using test::Random;

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

void add_random_pair(GgufBuilder& builder, Random& random) {
  static constexpr const char* kKeys[] = {"general.alignment", "split.count", "tokenizer.ggml.tokens", "a", "b", "c.d"};
  const std::string key = kKeys[random.integer(0, 5)];
  const auto bits = random.bits();
  switch (random.integer(0, 9)) {
    case 0: builder.number(key, static_cast<uint8_t>(bits)); break;
    case 1: builder.number(key, uint32_t{1} << (bits % 20)); break;
    case 2: builder.number(key, static_cast<int32_t>(bits)); break;
    case 3: builder.number(key, bits); break;
    case 4: builder.number(key, static_cast<float>(bits)); break;
    case 5: builder.number(key, bits % 2 == 0); break;
    case 6: builder.string(key, std::string(bits % 40, 's')); break;
    case 7: builder.strings(key, std::vector<std::string>(bits % 6, "token")); break;
    case 8: builder.array(key, std::vector<int16_t>(bits % 9, -3)); break;
    case 9: builder.array(key, std::vector<float>(bits % 9, 0.5f)); break;
  }
}

void add_random_tensor(GgufBuilder& builder, Random& random) {
  const FormatInfo& format = all_formats()[random.integer(0, kNumWeightFormats - 1)];
  std::vector<int64_t> shape(static_cast<size_t>(random.integer(1, 4)), 1);
  shape.front() = random.integer(1, 3);
  shape.back() = format.block_elements * random.integer(1, 2);
  builder.tensor(std::string(static_cast<size_t>(random.integer(1, 6)), 't'), format.format, shape);
}

GgufImage random_file(Random& random) {
  GgufBuilder builder;
  for (int64_t i = random.integer(0, 4); i > 0; --i) add_random_pair(builder, random);
  for (int64_t i = random.integer(0, 4); i > 0; --i) add_random_tensor(builder, random);
  GgufImage image = builder.build();
  for (int64_t i = random.integer(0, 3); i > 0; --i) {
    const auto& field =
        image.fields[static_cast<size_t>(random.integer(0, static_cast<int64_t>(image.fields.size()) - 1))];
    const uint64_t power = uint64_t{1} << random.integer(0, 63);
    const uint64_t choices[] = {random.bits(), power, power - 1, ~power,
                                static_cast<uint64_t>(random.integer(0, 64)) * 32};
    image.set(field, choices[random.integer(0, 4)]);
  }
  return image;
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  Random random(seed);
  if (random.integer(0, 1) == 0) return LLVMFuzzerMutate(data, size, max_size);
  const GgufImage image = random_file(random);
  const size_t length = std::min(image.bytes.size(), max_size);
  std::memcpy(data, image.bytes.data(), length);
  return length;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const GgufContents contents = parse_gguf(bytes, "fuzz");
    for (const TensorInfo& tensor : contents.tensors) {
      std::vector<float> weights(static_cast<size_t>(tensor.num_elements()));
      dequantize(tensor.format, tensor.data.data(), weights.data(), tensor.num_elements());
    }
  } catch (const Error& error) {
    const bool expected = error.code() == ErrorCode::invalid_model || error.code() == ErrorCode::unsupported;
    if (!expected) std::abort();
  }
  return 0;
}
