#include "linear/gemm_wgmma_work.h"

#include <algorithm>

namespace imp::cuda {

WgmmaWork plan_wgmma_work(int row_tiles, int token_tiles, int k_steps, int num_blocks, bool may_share) {
  WgmmaWork work = {row_tiles, token_tiles, k_steps, num_blocks, 0};
  const int tiles = work.tiles(), rest = tiles % num_blocks, waves = tiles / num_blocks;
  // A last wave that is nearly full, or one of very many, costs less than adding up shared tiles does.
  const bool worth = rest > 0 && rest < num_blocks * 9 / 10 && waves < 8;
  if (!may_share || !worth) return work;
  work.shared_tiles = waves == 0 ? tiles : rest + num_blocks;
  // Adding up costs about as much as 8 steps.
  if (waves == 0) work.num_blocks = std::min(num_blocks, std::max(tiles, tiles * k_steps / 8));
  return work;
}

}  // namespace imp::cuda
