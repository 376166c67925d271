#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "ops/args.h"

/// The vector kernels, each a template over a set of registers and instantiated once for each in kernels_<isa>.cpp,
/// which are compiled for more than the base machine (as linear_<isa>.cpp are, see linear_kernels.h). They compute a
/// part of an op and know no threads: what dispatches them is compiled for the base machine. Their headers hold
/// templates over the registers only: the linker may keep either copy of a common inline function, and one of them
/// would not run everywhere.
namespace imp::cpu {

struct Avx2;
struct Avx512;

/// Rows [rows.begin, rows.end) of the op.
template <class V>
void rms_norm_rows(const RmsNormArgs& args, Range rows);

/// x[i] = cap * tanh(x[i] / cap) for i < count
template <class V>
void softcap_span(float* x, int64_t count, float cap);

/// Tokens [tokens.begin, tokens.end) of the op. cos_sin: [tokens of the batch, rotary_dim]: rotary_dim / 2 cosines,
/// then as many sines, both times the magnitude.
template <class V>
void qk_rope_kv_rows(const QkRopeKvArgs& args, const float* cos_sin, Range tokens);

/// The tokens [token_begin, token_end) of one sequence and the query heads of one kv head, over all their keys.
struct AttentionTile {
  int sequence;
  int kv_head;
  int token_begin, token_end;  // batch rows
};
/// Most query rows (tokens * heads of the group) of a tile, and floats of workspace that a tile needs.
inline constexpr int kAttentionTileRows = 48;
inline constexpr int kAttentionTileKeys = 64;
inline constexpr int kAttentionMaxGroup = kAttentionTileRows;
inline constexpr int kAttentionMaxHeadDim = 512;
int64_t attention_tile_workspace(int head_dim);
template <class V>
void attention_tile(const AttentionArgs& args, const AttentionTile& tile, float* workspace);

/// One new token of a sequence, the query heads of one kv head, the keys [key_begin, key_end).
struct AttentionSplit {
  int sequence;
  int kv_head;
  int key_begin, key_end;
  float* partial;  // null: the split is all there is, out is written; else [group, kAttentionPartialHead + head_dim]
};
/// A partial row: the highest score, the sum of exp(score - highest), one pad, then the unnormalized mean.
inline constexpr int kAttentionPartialHead = 4;
/// Query heads that share a pass over the keys, at most.
inline constexpr int kAttentionMaxDotRows = 3;
/// Floats of workspace for a split of `num_keys` keys.
int64_t attention_split_workspace(int head_dim, int num_keys);
template <class V>
void attention_split(const AttentionArgs& args, const AttentionSplit& split, float* workspace);

}  // namespace imp::cpu
