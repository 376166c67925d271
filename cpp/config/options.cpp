#include "config/options.h"

#include <type_traits>

#include "core/text.h"

namespace imp {
namespace {

template <auto Section, auto Field>
OptionField bind(Settings& settings) {
  return &(settings.*Section.*Field);
}

// One short name a section, so that a row says `moe<&Moe::skip>`.
using Runtime = Settings::Runtime;
using KvCache = Settings::KvCache;
using Attention = Settings::Attention;
using Moe = Settings::Moe;
using Gdn = Settings::Gdn;
using Gemm = Settings::Gemm;
using Generation = Settings::Generation;
using Server = Settings::Server;
using Bench = Settings::Bench;
using Paths = Settings::Paths;
using Speculative = Settings::Speculative;
using Ffn = Settings::Ffn;
using Diagnostics = Settings::Diagnostics;
template <auto Field>
constexpr auto runtime = bind<&Settings::runtime, Field>;
template <auto Field>
constexpr auto kv_cache = bind<&Settings::kv_cache, Field>;
template <auto Field>
constexpr auto attention = bind<&Settings::attention, Field>;
template <auto Field>
constexpr auto moe = bind<&Settings::moe, Field>;
template <auto Field>
constexpr auto gdn = bind<&Settings::gdn, Field>;
template <auto Field>
constexpr auto gemm = bind<&Settings::gemm, Field>;
template <auto Field>
constexpr auto generation = bind<&Settings::generation, Field>;
template <auto Field>
constexpr auto server = bind<&Settings::server, Field>;
template <auto Field>
constexpr auto bench = bind<&Settings::bench, Field>;
template <auto Field>
constexpr auto paths = bind<&Settings::paths, Field>;
template <auto Field>
constexpr auto speculative = bind<&Settings::speculative, Field>;
template <auto Field>
constexpr auto ffn = bind<&Settings::ffn, Field>;
template <auto Field>
constexpr auto diagnostics = bind<&Settings::diagnostics, Field>;

constexpr auto kActive = OptionStatus::active;
constexpr auto kPending = OptionStatus::pending;

constexpr OptionLimits kBool{.type = OptionType::boolean};
constexpr OptionLimits kPath{.type = OptionType::path};
constexpr OptionLimits at_least(int64_t min) { return {.type = OptionType::integer, .min = min}; }
constexpr OptionLimits between(int64_t min, int64_t max) {
  return {.type = OptionType::integer, .min = min, .max = max};
}
constexpr OptionLimits capped(int64_t min, int64_t max) {
  return {.type = OptionType::integer, .min = min, .max = max, .clamp_above = true};
}
constexpr OptionLimits clamped(int64_t min, int64_t max) {
  return {.type = OptionType::integer, .min = min, .max = max, .clamp_below = true, .clamp_above = true};
}
constexpr OptionLimits off_or_clamped(int64_t min, int64_t max) {
  OptionLimits limits = clamped(min, max);
  limits.zero_is_off = true;
  return limits;
}
constexpr OptionLimits one_integer_of(std::string_view choices) {
  return {.type = OptionType::integer, .choices = choices};
}
constexpr OptionLimits number_below(double below) { return {.type = OptionType::number, .below = below}; }
constexpr OptionLimits kNumber{.type = OptionType::number};
constexpr OptionLimits one_of(std::string_view choices) { return {.type = OptionType::choice, .choices = choices}; }
constexpr OptionLimits tri_state(std::string_view choices) {
  return {.type = OptionType::choice, .choices = choices, .tri_state = true};
}

// clang-format off
constexpr OptionRow kRows[] = {
    {"runtime.deterministic_gemm", runtime<&Runtime::deterministic_gemm>, kActive, "a,c", kBool,
     "Reduce every matrix product in a fixed order, so that runs repeat bit for bit; the CPU backend always does."},
    {"runtime.deterministic", runtime<&Runtime::deterministic>, kActive, "a,c", kBool,
     "Make the whole engine repeat bit for bit; implies deterministic_gemm. On a CPU it does so in any case."},
    {"runtime.cuda_graphs", runtime<&Runtime::cuda_graphs>, kActive, "a", one_of("auto|always|never"),
     "Capture decode steps as CUDA graphs: where the model allows it, always (or fail), or never."},
    {"runtime.graph_capture_mode", runtime<&Runtime::graph_capture_mode>, kActive, "a", one_of("relaxed|global|thread_local"),
     "How strictly CUDA forbids unsafe calls while a graph is captured."},
    {"runtime.prefill_graph", runtime<&Runtime::prefill_graph>, kActive, "a", kBool,
     "Capture prefill chunks of recurring length as graphs too."},
    {"runtime.max_batch_size", runtime<&Runtime::max_batch_size>, kActive, "a,c", capped(1, 256),
     "Most sequences that decode together in one step; the rest waits."},
    {"runtime.warmup", runtime<&Runtime::warmup>, kActive, "a,c", kBool,
     "Run one prefill and one decode step at load, so that the first request is as fast as the second."},
    {"runtime.max_seq_len", runtime<&Runtime::max_seq_len>, kActive, "a,c", at_least(0),
     "Most tokens of prompt and answer together, a sequence; 0 takes the model's own limit as far as memory allows."},
    {"runtime.no_pdl", runtime<&Runtime::no_pdl>, kActive, "a", kBool,
     "Do not let a kernel start while the one before it ends (programmatic dependent launch)."},
    {"runtime.debug_raw", runtime<&Runtime::debug_raw>, kActive, "a,(c)", kBool,
     "Run without the optimisation layers, to find which of them changes an answer; sets the keys listed under \"Implied settings\"."},
    {"runtime.no_vision_graph", runtime<&Runtime::no_vision_graph>, kPending, "a", kBool,
     "Run the vision tower without its own CUDA graph."},

    {"kv_cache.dtype", kv_cache<&KvCache::dtype>, kPending, "a,c", one_of("fp16|fp8|int8|int4|nvfp4"),
     "Element type of the paged KV cache."},
    {"kv_cache.allow_nondeterministic_fp8", kv_cache<&KvCache::allow_nondeterministic_fp8>, kPending, "a", kBool,
     "With an fp8 KV cache, allow library algorithms that do not repeat bit for bit."},
    {"kv_cache.fp8_auto_legacy", kv_cache<&KvCache::fp8_auto_legacy>, kPending, "a,c", kBool,
     "Turn an fp16 KV cache that nobody asked for into fp8 at load."},
    {"kv_cache.bitdecoding_qk", kv_cache<&KvCache::bitdecoding_qk>, kPending, "a", kBool,
     "With an nvfp4 KV cache, compute decode's Q.K products on tensor cores (experimental)."},
    {"kv_cache.bitdecoding_residual_tokens", kv_cache<&KvCache::bitdecoding_residual_tokens>, kPending, "a,c", off_or_clamped(4, 32),
     "With an nvfp4 KV cache, keep this many of the newest tokens in fp16; 0 keeps none."},

    {"attention.fp8_prefill", attention<&Attention::fp8_prefill>, kActive, "a", tri_state("auto|always|never"),
     "Keep an fp8 copy of the weights and run prefill products in fp8; auto is off: 4 significant bits are few."},
    {"attention.fp8_fmha", attention<&Attention::fp8_fmha>, kPending, "a", tri_state("on|never"),
     "Prefill attention with Q and K rounded to fp8 without scales; inaccurate on real models."},
    {"attention.fmha_sm120", attention<&Attention::fmha_sm120>, kActive, "a", tri_state("auto|on|never"),
     "CUDA: fused prefill attention for heads that are not of 128, and for those where fmha_fa2 is off; \"on\" also below an explicit fmha_prefill_threshold."},
    {"attention.fmha_fa2", attention<&Attention::fmha_fa2>, kActive, "a", tri_state("auto|on|never"),
     "CUDA: fused prefill attention for heads of 128 with scores and output in registers; \"never\" leaves them to the tiled kernel."},
    {"attention.fa2_fp16qk", attention<&Attention::fa2_fp16qk>, kActive, "a", tri_state("auto|on|never"),
     "CUDA: fuse attention of heads of 128 below fmha_prefill_threshold too; \"never\" keeps the probabilities of such prompts in memory."},
    {"attention.fa2_f16acc", attention<&Attention::fa2_f16acc>, kActive, "a(b speed)", kBool,
     "CUDA, heads of 128: sum up Q.K in fp16 on GPUs where that is faster (GeForce); elsewhere sums are fp32 in any case."},
    {"attention.fa2_pv_f16acc", attention<&Attention::fa2_pv_f16acc>, kActive, "a(b speed)", kBool,
     "The same for P.V, a tile of keys at a time; needs fa2_f16acc."},
    {"attention.fmha_prefill_threshold", attention<&Attention::fmha_prefill_threshold>, kActive, "a", at_least(-1),
     "CUDA: chunk length in tokens from which prefill attention is fused where shorter ones are not; 0 always, -1 derives it from attn_scores_mib."},
    {"attention.mxfp4", attention<&Attention::mxfp4>, kPending, "b", tri_state("auto|on|never"),
     "Prefill attention with Q and K in MXFP4."},
    {"attention.mxfp4_fp16_fallback", attention<&Attention::mxfp4_fp16_fallback>, kPending, "a,c", kBool,
     "Expand MXFP4 weights to an fp16 copy and compute with that."},
    {"attention.mxfp4_fp16_cache_policy", attention<&Attention::mxfp4_fp16_cache_policy>, kPending, "a,c", one_of("legacy|pruned"),
     "Which MXFP4 tensors get an fp16 copy: all, or all but experts and LM head."},
    {"attention.force_cublas_decode", attention<&Attention::force_cublas_decode>, kActive, "a", kBool,
     "CUDA: decode attention by gathered K and V and library products, to check the paged kernel with; needs runtime.cuda_graphs = \"never\"."},
    {"attention.no_qknorm_fused", attention<&Attention::no_qknorm_fused>, kActive, "a,c", kBool,
     "Run QK norm and RoPE as separate kernels."},
    {"attention.splitk_pipe", attention<&Attention::splitk_pipe>, kActive, "a", kBool,
     "Decode attention with a pipelined split over the context."},
    {"attention.gate_concat", attention<&Attention::gate_concat>, kPending, "a,c", kBool,
     "Read the joint query and gate projection as all queries, then all gates, instead of one head after another."},
    {"attention.attn_scores_mib", attention<&Attention::attn_scores_mib>, kActive, "a", at_least(0),
     "CUDA: most MiB that attention's matrix of probabilities may take where it is not fused; 0 never has one."},

    {"moe.expert_overhead_pct", moe<&Moe::expert_overhead_pct>, kPending, "a", capped(0, 100),
     "Margin in percent on the size of the experts when deciding whether all of them fit the GPU."},
    {"moe.force_host_experts", moe<&Moe::force_host_experts>, kPending, "a", at_least(0),
     "Keep the experts of this many last MoE layers in host memory."},
    {"moe.skip", moe<&Moe::skip>, kPending, "a,c", kBool,
     "Leave out every MoE block, routed and shared experts alike."},
    {"moe.force_fp16_sync", moe<&Moe::force_fp16_sync>, kPending, "a,c", kBool,
     "Round the residual stream to fp16 after every MoE block."},
    {"moe.no_expert_cache", moe<&Moe::no_expert_cache>, kPending, "a", kBool,
     "Copy host-resident experts each time they are needed instead of caching them on the GPU."},
    {"moe.zero_workspace", moe<&Moe::zero_workspace>, kPending, "a,c", kBool,
     "Clear the MoE workspaces before every layer, to reveal reads of stale data."},
    {"moe.no_shared_mlp", moe<&Moe::no_shared_mlp>, kPending, "a,c", kBool,
     "Leave out the branch of an MoE block that is always active."},
    {"moe.no_shexp_gate", moe<&Moe::no_shexp_gate>, kPending, "a,c", kBool,
     "Add the shared expert without its gate."},
    {"moe.no_cutlass3x", moe<&Moe::no_cutlass3x>, kPending, "a(b)", kBool,
     "Run expert prefill one expert at a time instead of as one grouped product."},
    {"moe.expert_cache_debug_parity", moe<&Moe::expert_cache_debug_parity>, kPending, "a", kBool,
     "Compare the expert cache's tables on device and host after every change."},
    {"moe.prefetch_top_k", moe<&Moe::prefetch_top_k>, kPending, "a", at_least(0),
     "With experts on the host, copy this many expected experts of the next layer ahead; 0 is off, 3 to 16 make sense."},
    {"moe.allow_graphs_under_offload", moe<&Moe::allow_graphs_under_offload>, kPending, "a", kBool,
     "Allow CUDA graphs although experts live on the host; refused unless every expert has its own slot."},
    {"moe.reserve_mib", moe<&Moe::reserve_mib>, kPending, "a", at_least(0),
     "GPU memory in MiB set aside for MoE workspaces; 0 computes it."},
    {"moe.nvfp4_device_args", moe<&Moe::nvfp4_device_args>, kPending, "a(b)", kBool,
     "Build the arguments of NVFP4 grouped products on the device, without a round trip to the host."},
    {"moe.nvfp4_smallM", moe<&Moe::nvfp4_smallM>, kPending, "a(b)", kBool,
     "Use smaller tiles for NVFP4 expert prefill with few tokens an expert."},
    {"moe.nvfp4_smallM_threshold", moe<&Moe::nvfp4_smallM_threshold>, kPending, "a(b)", clamped(0, 128),
     "Tokens an expert up to which nvfp4_smallM acts; 0 disables it."},
    {"moe.mr_nr", moe<&Moe::mr_nr>, kPending, "a", one_integer_of("4|8|16|32"),
     "Output rows that one thread block of NVFP4 expert decode computes."},

    {"gdn.fp32_scan", gdn<&Gdn::fp32_scan>, kPending, "a,c", kBool,
     "Stage the delta-net scan's inputs in fp32."},
    {"gdn.fp32_out", gdn<&Gdn::fp32_out>, kPending, "a,c", kBool,
     "Compute the delta-net output projection in fp32."},
    {"gdn.norm_eps_override", gdn<&Gdn::norm_eps_override>, kPending, "a,c", number_below(1.0),
     "Epsilon of the delta-net output norm; 0 takes the model's."},
    {"gdn.ref_kernel", gdn<&Gdn::ref_kernel>, kPending, "a,c", kBool,
     "Scan token by token with the plain reference kernel."},
    {"gdn.vhead_reorder", gdn<&Gdn::vhead_reorder>, kPending, "a,c", kBool,
     "Reorder value heads before the scan instead of mapping indices inside it."},
    {"gdn.chunkwise_scan", gdn<&Gdn::chunkwise_scan>, kPending, "a,c", kBool,
     "Scan prompts in chunks instead of token by token."},
    {"gdn.layout_override", gdn<&Gdn::layout_override>, kPending, "a,c", one_of("|tiled|grouped"),
     "Force how value heads map to key heads; empty takes what the file format says."},

    {"gemm.no_dp4a_gemv", gemm<&Gemm::no_dp4a_gemv>, kActive, "a,c", kBool,
     "Products of up to 8 rows without the integer-dot kernels (8-bit activations); weights are dequantized."},
    {"gemm.no_dp4a_lm", gemm<&Gemm::no_dp4a_lm>, kActive, "a,c", kBool,
     "The same for the LM head alone."},
    {"gemm.no_mmvq", gemm<&Gemm::no_mmvq>, kActive, "a,c", kBool,
     "No kernels that multiply with quantized weights directly, for few rows; weights are dequantized instead."},
    {"gemm.no_mmvq_q8_0", gemm<&Gemm::no_mmvq_q8_0>, kActive, "a,c", kBool,
     "The same for Q8_0 weights alone."},
    {"gemm.nvfp4_decode_all", gemm<&Gemm::nvfp4_decode_all>, kPending, "a", kBool,
     "Extend the NVFP4 copy of the weights for decode to 2-, 3- and 4-bit K-quants."},
    {"gemm.q4k_hmma_enabled", gemm<&Gemm::q4k_hmma_enabled>, kActive, "a", kBool,
     "Q4_K products of 32 tokens and more by bf16 tensor cores, without expanding the weights in memory first."},
    {"gemm.nvfp4_lm_head", gemm<&Gemm::nvfp4_lm_head>, kPending, "a", kBool,
     "Keep an NVFP4 copy of a dense model's 16-bit LM head for decode."},
    {"gemm.nvfp4_lm_head_gdn", gemm<&Gemm::nvfp4_lm_head_gdn>, kPending, "a", kBool,
     "The same for models with recurrent layers."},
    {"gemm.nvfp4_ssm_proj", gemm<&Gemm::nvfp4_ssm_proj>, kPending, "a", kBool,
     "Keep NVFP4 copies of the recurrent blocks' projections for decode."},
    {"gemm.nvfp4_attn_proj", gemm<&Gemm::nvfp4_attn_proj>, kPending, "a", kBool,
     "Keep NVFP4 copies of 16-bit attention projections for decode."},
    {"gemm.nvfp4_moe_decode", gemm<&Gemm::nvfp4_moe_decode>, kPending, "a", kBool,
     "Decode NVFP4 experts with one kernel an expert instead of the grouped product."},
    {"gemm.cublas_fp16_acc", gemm<&Gemm::cublas_fp16_acc>, kActive, "a(b speed)", tri_state("auto|on|off"),
     "Library prefill products with fp16 factors, sums and results; auto is off, for Hopper gains nothing by it."},
    {"gemm.q8_imma_enabled", gemm<&Gemm::q8_imma_enabled>, kActive, "a,(c)", kBool,
     "Q8_0 products of 64 to 128 tokens on integer tensor cores, where they are faster."},
    {"gemm.moe_imma_prefill", gemm<&Gemm::moe_imma_prefill>, kPending, "a", kBool,
     "Expert prefill on integer tensor cores, one launch for all experts."},
    {"gemm.q4k_imma_prefill", gemm<&Gemm::q4k_imma_prefill>, kActive, "a", kBool,
     "Q4_K products of 65 to 256 tokens on integer tensor cores too."},

    {"generation.no_logit_softcap", generation<&Generation::no_logit_softcap>, kActive, "a,c", kBool,
     "Skip the final soft cap on logits of models that have one."},
    {"generation.lm_dequant_fp16", generation<&Generation::lm_dequant_fp16>, kActive, "a,c", kBool,
     "Multiply with the whole LM head dequantized to fp16: each time on a CPU, once at load on a GPU."},
    {"generation.think_budget", generation<&Generation::think_budget>, kActive, "a,c", at_least(0),
     "Most tokens between a thinking model's think marks; then the closing mark is forced. 0 is no limit."},
    {"generation.force_bos", generation<&Generation::force_bos>, kActive, "a,c", kBool,
     "Start every prompt with the BOS token, also where the model's file says not to; never twice."},
    {"generation.no_ban", generation<&Generation::no_ban>, kActive, "a,c", kBool,
     "Let the model write control tokens that are banned otherwise; padding rows of the vocabulary stay masked."},
    {"generation.mtp_no_rope", generation<&Generation::mtp_no_rope>, kPending, "a,c", kBool,
     "No RoPE in the attention of the multi-token-prediction head."},

    {"server.prefix_cache", server<&Server::prefix_cache>, kPending, "a,c", kBool,
     "Reuse the KV blocks of prompts with the same beginning; programs that embed imp without a file start with it off."},
    {"server.prefix_pin_budget_pct", server<&Server::prefix_pin_budget_pct>, kPending, "a,c", between(0, 100),
     "Most percent of the KV pool that clients may pin; 0 ignores requests to pin."},
    {"server.green_contexts", server<&Server::green_contexts>, kPending, "a", kBool,
     "Split the GPU so that prefill and decode of different requests overlap."},

    {"bench.generate", bench<&Bench::generate>, kActive, "a,c", kBool,
     "`imp-cli --bench` also times whole generations: tokenizer, prefill, decode, sampling and text."},

    {"paths.mmproj", paths<&Paths::mmproj>, kPending, "a,c", kPath,
     "Vision tower and projector (GGUF); empty is text only."},

    {"speculative.ngram", speculative<&Speculative::ngram>, kPending, "a,c", kBool,
     "Propose tokens from repeats in a request's own text and verify them in one step."},
    {"speculative.k", speculative<&Speculative::k>, kPending, "a,c", capped(1, 64),
     "Tokens proposed a step."},
    {"speculative.min_match", speculative<&Speculative::min_match>, kPending, "a,c", at_least(1),
     "Shortest repeat in tokens that leads to a proposal; at most max_match."},
    {"speculative.max_match", speculative<&Speculative::max_match>, kPending, "a,c", at_least(1),
     "Longest repeat that is searched for."},
    {"speculative.give_up_after", speculative<&Speculative::give_up_after>, kPending, "a,c", at_least(0),
     "Misses in a row after which a request stops proposing; 0 is never."},
    {"speculative.burst", speculative<&Speculative::burst>, kPending, "a,c", at_least(0),
     "Tokens after which a request that gave up tries again; 0 is never."},
    {"speculative.miss_burst", speculative<&Speculative::miss_burst>, kPending, "a,c", at_least(0),
     "Tokens generated plainly after a miss before the next search; at most burst."},

    {"ffn.sparsity_probe", ffn<&Ffn::sparsity_probe>, kActive, "a,c", kBool,
     "Count small FFN activations a layer and print a table at the end; skips nothing."},
    {"ffn.sparsity_threshold", ffn<&Ffn::sparsity_threshold>, kActive, "a,c", kNumber,
     "Q8_0 decode: skip blocks of 32 FFN activations that are all smaller than this; 0 is off, 0.005 to 0.05 make sense."},

    {"diagnostics.debug_forward", diagnostics<&Diagnostics::debug_forward>, kActive, "a,c", kBool,
     "Print smallest, largest and mean value and NaN counts of key tensors, layer by layer, to stderr."},
    {"diagnostics.debug_template", diagnostics<&Diagnostics::debug_template>, kActive, "a,c", kBool,
     "Print how the chat template was rendered to stderr."},
    {"diagnostics.dump_hidden_dir", diagnostics<&Diagnostics::dump_hidden_dir>, kActive, "a,c", kPath,
     "Write the hidden state after each layer as .npy files into this folder; \"1\" or \"all\" is the temporary folder."},
    {"diagnostics.dump_logits_dir", diagnostics<&Diagnostics::dump_logits_dir>, kPending, "a,c", kPath,
     "Write the MoE router's logits into this folder; \"all\" is every layer, into the temporary folder."},
    {"diagnostics.dump_routing_dir", diagnostics<&Diagnostics::dump_routing_dir>, kPending, "a,c", kPath,
     "Write the chosen experts and their weights into this folder; \"all\" is every layer, into the temporary folder."},
    {"diagnostics.dump_tokens", diagnostics<&Diagnostics::dump_tokens>, kActive, "a,c", kBool,
     "Print the first 20 token ids of each prompt to stderr."},
    {"diagnostics.exit_layer", diagnostics<&Diagnostics::exit_layer>, kActive, "a,c", at_least(-1),
     "Go to the final norm and the LM head after this layer, counted from 0; -1 runs all."},
    {"diagnostics.profile", diagnostics<&Diagnostics::profile>, kActive, "a,c", kBool,
     "Time each kind of operation and print a table when the engine ends."},
    {"diagnostics.graph_diag", diagnostics<&Diagnostics::graph_diag>, kActive, "a", kBool,
     "Log captures, replays and refusals of CUDA graphs."},
    {"diagnostics.graph_dump_dir", diagnostics<&Diagnostics::graph_dump_dir>, kActive, "a", kPath,
     "Write each captured CUDA graph as a .dot file into this folder."},
    {"diagnostics.nvfp4_force_dequant", diagnostics<&Diagnostics::nvfp4_force_dequant>, kPending, "a,c", kBool,
     "Dequantize NVFP4 weights to fp16 for decode instead of multiplying with them directly."},
    {"diagnostics.log_gemm_algo", diagnostics<&Diagnostics::log_gemm_algo>, kActive, "a", kBool,
     "Log each choice of a library algorithm with its candidates."},
    {"diagnostics.mtp_pattern_log", diagnostics<&Diagnostics::mtp_pattern_log>, kPending, "a,c", kBool,
     "Log proposed, verified and accepted ids of every speculative step."},
    {"diagnostics.mtp_prenorm_h", diagnostics<&Diagnostics::mtp_prenorm_h>, kPending, "a,c", kBool,
     "Feed the multi-token-prediction head the other side of the final norm than the model's own choice."},
    {"diagnostics.audit_nvfp4_scales", diagnostics<&Diagnostics::audit_nvfp4_scales>, kPending, "a,c", kBool,
     "Check all NVFP4 scales for zeros, infinities and values out of range at load."},
};
// clang-format on

}  // namespace

std::span<const OptionRow> option_rows() { return kRows; }

const OptionRow* find_option(std::string_view key) {
  for (const OptionRow& row : kRows) {
    if (row.key == key) return &row;
  }
  return nullptr;
}

OptionValue read_option(const OptionRow& row, const Settings& settings) {
  // The accessor hands out writable pointers; here they are only read.
  const OptionField field = row.field(const_cast<Settings&>(settings));
  return std::visit([](const auto* value) { return OptionValue(*value); }, field);
}

void write_option(const OptionRow& row, Settings& settings, const OptionValue& value) {
  std::visit([&](auto* field) { *field = std::get<std::remove_pointer_t<decltype(field)>>(value); },
             row.field(settings));
}

OptionValue default_value(const OptionRow& row) { return read_option(row, Settings{}); }

std::string_view type_name(OptionType type) {
  switch (type) {
    case OptionType::boolean: return "bool";
    case OptionType::integer: return "int";
    case OptionType::number: return "float";
    case OptionType::choice: return "enum";
    case OptionType::path: return "path";
  }
  return "";
}

std::string_view status_name(OptionStatus status) { return status == OptionStatus::active ? "active" : "pending"; }

namespace {

/// "a|b|c" -> "a, b or c"; an empty choice is written "".
std::string joined_choices(std::string_view choices) {
  std::string out;
  while (true) {
    const size_t bar = choices.find('|');
    const std::string_view word = choices.substr(0, bar);
    out += word.empty() ? "\"\"" : std::string(word);
    if (bar == std::string_view::npos) return out;
    choices.remove_prefix(bar + 1);
    out += choices.find('|') == std::string_view::npos ? " or " : ", ";
  }
}

std::string integer_text(const OptionLimits& limits) {
  if (!limits.choices.empty()) return joined_choices(limits.choices);
  const bool open = limits.max == OptionLimits{}.max;
  std::string out = open ? cat("an integer >= ", limits.min) : cat("an integer from ", limits.min, " to ", limits.max);
  if (limits.zero_is_off) out = cat("0 or ", out);
  if (limits.clamp_below) out += cat("; less becomes ", limits.min);
  if (limits.clamp_above) out += cat("; more becomes ", limits.max);
  return out;
}

}  // namespace

std::string allowed_text(const OptionRow& row) {
  switch (row.limits.type) {
    case OptionType::boolean: return "true or false";
    case OptionType::integer: return integer_text(row.limits);
    case OptionType::number:
      return row.limits.below < std::numeric_limits<double>::infinity()
                 ? cat("a number from 0 to below ", row.limits.below)
                 : "a number >= 0";
    case OptionType::choice: return joined_choices(row.limits.choices);
    case OptionType::path: return "a path, or empty";
  }
  return "";
}

}  // namespace imp
