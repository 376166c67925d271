#pragma once
#include "attention/attention.h"
#include "attention/cublas_decode.h"
#include "exec/backend.h"
#include "ops/args.h"
#include "ops/kernel_table.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Settings that concern attention. Two families of prefill kernels compute it fused, without a matrix of scores: the
/// register-resident one for heads of 128 (`fa2`) and the tiled one for the others, and for those of 128 where the
/// first is off. On sm_90 wgmma kernels stand in for both.
struct AttentionSwitches {
  bool fa2 = true;                            // attention.fmha_fa2
  bool tiled = true;                          // attention.fmha_sm120
  bool tiled_short = false;                   // the same: on, so also below an explicit threshold
  bool fa2_short = true;                      // attention.fa2_fp16qk: the first family also below the threshold
  bool half_scores = true;                    // attention.fa2_f16acc
  bool half_output = true;                    // attention.fa2_pv_f16acc
  int64_t threshold = -1;                     // attention.fmha_prefill_threshold
  int64_t scores_bytes = int64_t{384} << 20;  // attention.attn_scores_mib
  bool rope_in_decode = true;                 // attention.no_qknorm_fused is false
  bool decode_ahead = true;                   // attention.splitk_pipe: decode copies pages ahead
  bool cublas_decode = false;                 // attention.force_cublas_decode
  int64_t max_seq_len = 0;                    // runtime.max_seq_len; 0: what the model was trained for
};
AttentionSwitches attention_switches(const Settings& settings);

/// Tokens of a prompt from which its matrix of scores would be larger than `scores_bytes`:
/// floor(sqrt(scores_bytes / (2 * num_heads))) + 1.
int64_t derived_threshold(const AttentionSwitches& switches, int num_heads);

/// What attention runs with: the device, and memory taken at load.
struct AttentionContext {
  LaunchContext launch;
  AttentionScratch scratch;
  ScoresBuffer scores;
  CublasLt* products;  // of cublas_decode
  CublasDecodeBuffer cublas_decode;
  AttentionSwitches switches;
  int capability;  // of the device: 90 for sm_90
};

/// An attention as the choice of a kernel sees it; host data alone.
struct AttentionProblem {
  int num_sequences;
  int max_query_len, max_context_len;
  int num_heads, num_kv_heads, head_dim;
  int sliding_window;
  int num_counters;  // of the scratch
  int capability;
  AttentionSwitches switches = {};
  bool with_rope = false;  // q and k still need their norm and rotation

  int query_rows() const { return max_query_len * (num_heads / num_kv_heads); }  // of one kv head
};

/// How a candidate computes an attention.
struct AttentionKernel {
  /// `rope` is null where q and k come ready and k and v are in the cache, and for kernels that need it so.
  void (*run)(const AttentionContext&, const QkRopeKvArgs* rope, const AttentionArgs&);
  bool takes_rope = false;  // does the norm, the rotation and the cache's slots itself
};
const KernelTable<AttentionProblem, AttentionKernel>& attention_table();

void run_attention(const AttentionContext& context, const QkRopeKvArgs* rope, const AttentionArgs& args);
/// Whether norm, rotation and the cache's slots of such a batch are done by the attention kernel itself.
bool rope_runs_in_attention(const AttentionContext& context, const AttentionArgs& args);
std::vector<Verdict> explain_attention(const AttentionContext& context, const AttentionQuery& query);

/// What load settles about a model's attention.
struct AttentionPlan {
  AttentionSwitches switches;          // as they are used
  int64_t scores_bytes = 0;            // that attention_scores needs; 0 where it is never taken
  int64_t cublas_decode_bytes = 0;     // the same
  std::vector<std::string> sentences;  // about settings that were changed or have no effect
};
/// Throws where a layer of the model has attention that no kernel can compute with these settings: at load, not in a
/// step.
AttentionPlan plan_attention(const ModelSpec& spec, const AttentionSwitches& switches, int capability,
                             int64_t free_bytes);

}  // namespace imp::cuda
