#pragma once
#include "ops/args.h"

/// The oracle: every op as one plain loop, single-threaded, sums in double. Kernels of all backends are tested
/// against these, and the CPU backend ends every kernel table with them.
namespace imp::reference {

void embed(const EmbedArgs& args);
void rms_norm(const RmsNormArgs& args);
void linear(const LinearArgs& args);
void qk_rope_kv(const QkRopeKvArgs& args);
void attention(const AttentionArgs& args);
void softcap(const SoftcapArgs& args);
void sample(const SampleArgs& args);

/// y = activation(x)
double activate(Activation activation, double x);

/// Elements from the start of a KV tensor to (sequence, position, kv head, dim 0).
int64_t kv_offset(const KvLayerView& cache, const SequenceBatch& batch, int sequence, int position, int kv_head);

}  // namespace imp::reference
