#include "linear/tile_work.h"

#include <algorithm>

namespace imp::cuda {

TileWork plan_tile_work(int row_tiles, int token_tiles, int k_steps, int num_blocks, bool may_share, int share_steps) {
  TileWork work = {row_tiles, token_tiles, k_steps, num_blocks, 0};
  const int tiles = work.tiles(), rest = tiles % num_blocks, waves = tiles / num_blocks;
  // A last wave that is nearly full, or one of very many, costs less than adding up shared tiles does.
  const bool worth = rest > 0 && rest < num_blocks * 9 / 10 && waves < 8;
  if (!may_share || !worth) return work;
  work.shared_tiles = waves == 0 ? tiles : rest + num_blocks;
  if (waves == 0) work.num_blocks = std::min(num_blocks, std::max(tiles, tiles * k_steps / share_steps));
  return work;
}

}  // namespace imp::cuda
