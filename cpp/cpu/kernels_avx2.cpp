#include "cpu/attention_split_kernel.h"
#include "cpu/attention_tile_kernel.h"
#include "cpu/qk_rope_kv_kernel.h"
#include "cpu/rms_norm_kernel.h"
#include "cpu/simd_avx2.h"
#include "cpu/softcap_kernel.h"

namespace imp::cpu {

template void rms_norm_rows<Avx2>(const RmsNormArgs&, Range);
template void softcap_span<Avx2>(float*, int64_t, float);
template void qk_rope_kv_rows<Avx2>(const QkRopeKvArgs&, const float*, Range);
template void attention_tile<Avx2>(const AttentionArgs&, const AttentionTile&, float*);
template void attention_split<Avx2>(const AttentionArgs&, const AttentionSplit&, float*);

}  // namespace imp::cpu
