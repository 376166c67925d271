#include <array>

#include "config/config.h"
#include "cpu/linear.h"
#include "cpu/linear_kernels.h"

namespace imp::cpu {
namespace {

constexpr int64_t kMaxFewTokens = 4;  // what gemv_int serves; from there on unpacking a tile pays

constexpr std::array<std::string_view, kNumWeightFormats> kFormatNames = {
    "f32",  "f16",  "bf16", "q4_0", "q4_1",   "q5_0",   "q5_1",  "q8_0", "q2_k",
    "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4", "nvfp4"};
constexpr std::array<std::string_view, 8> kFamilyNames = {
    "gemv_dp4a", "gemv_dp4a_skip", "mmvq", "mmq", "gemv_dequant", "gemm_dequant", "dequant_lm_head", "reference"};
constexpr std::array<std::string_view, 3> kIsaNames = {"reference", "avx2", "avx512"};

constexpr bool is_float(WeightFormat format) { return format <= WeightFormat::bf16; }

// ---- predicates ----

const char* reject_isa(Isa have, Isa need) {
  if (have >= need) return nullptr;
  return need == Isa::avx512 ? "needs AVX-512 with VNNI" : "needs AVX2";
}

/// Why integer dots are not to be used at all.
const char* reject_integer_dots(const LinearProblem& p) {
  if (p.switches.debug_raw) return "runtime.debug_raw";
  if (p.switches.no_mmvq) return "gemm.no_mmvq";
  if (p.switches.no_mmvq_q8_0 && p.format == WeightFormat::q8_0) return "gemm.no_mmvq_q8_0";
  if (p.switches.no_dp4a_lm && p.role == LinearRole::lm_head) return "gemm.no_dp4a_lm";
  return nullptr;
}

const char* reject_tokens(LinearFamily family, int64_t m) {
  switch (family) {
    case LinearFamily::gemv_dp4a:
    case LinearFamily::gemv_dp4a_skip:
    case LinearFamily::gemv_dequant: return m == 1 ? nullptr : "more than one token";
    case LinearFamily::mmvq: return m <= kMaxFewTokens ? nullptr : "more than 4 tokens";
    case LinearFamily::mmq: return m > kMaxFewTokens ? nullptr : "fewer than 5 tokens";
    default: return nullptr;
  }
}

const char* reject_family(LinearFamily family, const LinearProblem& p) {
  switch (family) {
    case LinearFamily::gemv_dp4a_skip:
      if (!p.skip) return "ffn.sparsity_threshold is 0";
      [[fallthrough]];
    case LinearFamily::gemv_dp4a:
    case LinearFamily::mmvq:
      if (p.switches.no_dp4a_gemv) return "gemm.no_dp4a_gemv";
      return reject_integer_dots(p);
    case LinearFamily::mmq: return reject_integer_dots(p);
    case LinearFamily::dequant_lm_head:
      if (p.role != LinearRole::lm_head) return "not the head";
      return p.switches.lm_dequant_fp16 ? nullptr : "generation.lm_dequant_fp16 is off";
    default: return nullptr;
  }
}

template <LinearFamily kFamily, Isa kIsa>
const char* reject(const LinearProblem& p) {
  if (const char* reason = reject_isa(p.isa, kIsa)) return reason;
  if (const char* reason = reject_tokens(kFamily, p.m)) return reason;
  return reject_family(kFamily, p);
}

// ---- the table of each format ----

/// "<family>_<format>_<isa>" as a constant.
template <LinearFamily kFamily, WeightFormat kFormat, Isa kIsa>
struct KernelName {
  struct Text {
    char chars[48] = {};
    size_t size = 0;
    constexpr void add(std::string_view part) {
      for (char c : part) chars[size++] = c;
    }
  };
  static constexpr Text make() {
    Text text;
    text.add(kFamilyNames[static_cast<int>(kFamily)]);
    text.add("_");
    text.add(kFormatNames[static_cast<int>(kFormat)]);
    text.add("_");
    text.add(kIsaNames[static_cast<int>(kIsa)]);
    return text;
  }
  static constexpr Text kText = make();
  static constexpr std::string_view kValue{kText.chars, kText.size};
};

using Entry = LinearTable::Entry;

template <WeightFormat kFormat, LinearFamily kFamily, Isa kIsa>
constexpr Entry entry() {
  return {KernelName<kFamily, kFormat, kIsa>::kValue, reject<kFamily, kIsa>, {kFamily, kIsa}};
}

constexpr Entry kReference = {
    "reference", reject<LinearFamily::reference, Isa::reference>, {LinearFamily::reference, Isa::reference}};

template <WeightFormat kFormat, LinearFamily... kFamilies>
constexpr auto entries() {
  return std::array<Entry, 2 * sizeof...(kFamilies) + 1>{entry<kFormat, kFamilies, Isa::avx512>()...,
                                                         entry<kFormat, kFamilies, Isa::avx2>()..., kReference};
}

template <WeightFormat kFormat>
constexpr auto entries_of_format() {
  using enum LinearFamily;
  if constexpr (is_float(kFormat))
    return entries<kFormat, dequant_lm_head, gemv_dequant, gemm_dequant>();
  else if constexpr (kFormat == WeightFormat::q8_0)
    return entries<kFormat, dequant_lm_head, gemv_dp4a_skip, gemv_dp4a, mmvq, mmq, gemv_dequant, gemm_dequant>();
  else
    return entries<kFormat, dequant_lm_head, gemv_dp4a, mmvq, mmq, gemv_dequant, gemm_dequant>();
}

template <WeightFormat kFormat>
constexpr auto kEntries = entries_of_format<kFormat>();

template <size_t... kIndex>
constexpr std::array<LinearTable, sizeof...(kIndex)> make_tables(std::index_sequence<kIndex...>) {
  return {LinearTable("linear", kEntries<static_cast<WeightFormat>(kIndex)>)...};
}
constexpr auto kTables = make_tables(std::make_index_sequence<kNumWeightFormats>());

}  // namespace

const LinearTable& linear_table(WeightFormat format) { return kTables[static_cast<size_t>(format)]; }

LinearSwitches linear_switches(const Settings& settings) {
  return {.no_dp4a_gemv = settings.gemm.no_dp4a_gemv,
          .no_dp4a_lm = settings.gemm.no_dp4a_lm,
          .no_mmvq = settings.gemm.no_mmvq,
          .no_mmvq_q8_0 = settings.gemm.no_mmvq_q8_0,
          .lm_dequant_fp16 = settings.generation.lm_dequant_fp16,
          .debug_raw = settings.runtime.debug_raw};
}

}  // namespace imp::cpu
