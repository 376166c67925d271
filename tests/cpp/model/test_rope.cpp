#include <doctest/doctest.h>

#include <vector>

#include "model/rope.h"

using namespace imp;

namespace {

/// Expected numbers: transformers 5.23, ROPE_INIT_FUNCTIONS, rotary dimension 32.
void check_table(const RopeSpec& spec, const std::vector<float>& inv_freq, float magnitude) {
  const RopeTable table = make_rope_table(spec);
  REQUIRE(table.inv_freq.size() == inv_freq.size());
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    CAPTURE(i);
    CHECK(table.inv_freq[i] == doctest::Approx(inv_freq[i]).epsilon(2e-6));
  }
  CHECK(table.magnitude == doctest::Approx(magnitude).epsilon(1e-6));
}

const std::vector<float> kLlama3 = {1.f,
                                    0.440366626f,
                                    0.193922758f,
                                    0.0853971019f,
                                    0.0376060307f,
                                    0.0102761155f,
                                    0.00131256948f,
                                    0.000401430763f,
                                    0.000176776681f,
                                    7.78465546e-05f,
                                    3.42810235e-05f,
                                    1.50962178e-05f,
                                    6.64786967e-06f,
                                    2.92749974e-06f,
                                    1.28917316e-06f,
                                    5.6770881e-07f};

}  // namespace

TEST_CASE("linear scaling divides every frequency") {
  check_table({.rotary_dim = 32, .theta = 10000, .scaling = RopeScaling::linear, .factor = 4},
              {0.25f, 0.140585333f, 0.079056941f, 0.0444569848f, 0.0250000004f, 0.0140585322f, 0.00790569466f,
               0.00444569858f, 0.00249999994f, 0.00140585331f, 0.000790569466f, 0.000444569858f, 0.000250000012f,
               0.000140585325f, 7.90569466e-05f, 4.44569851e-05f},
              1);
}

TEST_CASE("llama3 scaling keeps short waves, stretches long ones, blends between") {
  check_table({.rotary_dim = 32,
               .theta = 500000,
               .scaling = RopeScaling::llama3,
               .factor = 8,
               .original_context = 1024,
               .low_freq_factor = 1,
               .high_freq_factor = 4},
              kLlama3, 1);
}

TEST_CASE("divisors of the file give what the llama3 formula gives") {
  RopeSpec spec = {.rotary_dim = 32, .theta = 500000};
  const RopeTable base = make_rope_table(spec);
  for (size_t i = 0; i < kLlama3.size(); ++i) spec.freq_divisors.push_back(base.inv_freq[i] / kLlama3[i]);
  check_table(spec, kLlama3, 1);
}

TEST_CASE("yarn, with and without whole correction bounds") {
  check_table({.rotary_dim = 32, .theta = 10000, .scaling = RopeScaling::yarn, .factor = 4, .original_context = 1024},
              {1.f, 0.562341332f, 0.316227764f, 0.158774942f, 0.0785714313f, 0.0381588712f, 0.0180701576f,
               0.00825629756f, 0.00357142836f, 0.00140585331f, 0.000790569466f, 0.000444569858f, 0.000250000012f,
               0.000140585325f, 7.90569466e-05f, 4.44569851e-05f},
              1.138629436f);
  check_table({.rotary_dim = 32,
               .theta = 150000,
               .scaling = RopeScaling::yarn,
               .factor = 32,
               .original_context = 4096,
               .yarn_truncate = false},
              {1.f, 0.47478205f, 0.225418001f, 0.107024416f, 0.0508132726f, 0.0193350017f, 0.00679495931f,
               0.00209379266f, 0.000456483918f, 3.83088118e-05f, 1.8188337e-05f, 8.63549576e-06f, 4.09997847e-06f,
               1.94659629e-06f, 9.24208962e-07f, 4.38797855e-07f},
              1.34657359f);
}

TEST_CASE("an attention factor of the file replaces yarn's own") {
  const RopeSpec spec = {.rotary_dim = 32,
                         .theta = 10000,
                         .scaling = RopeScaling::yarn,
                         .factor = 4,
                         .original_context = 1024,
                         .attention_factor = 1.0648216f};
  CHECK(make_rope_table(spec).magnitude == 1.0648216f);
}
