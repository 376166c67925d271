#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define IMP_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define IMP_HOST_DEVICE inline
#endif

namespace imp::cuda {

/// Steps [begin, end) of a tile's k.
struct TileItem {
  int tile = 0, begin = 0, end = 0;
};
struct TilePlace {
  int row_tile, token_tile;
};

/// Which block does which steps of which tiles. The first shared_tiles tiles are one long row of steps, cut into equal
/// ranges, one a block; the others are dealt out whole, a wave at a time. Plain numbers, so that hosts test it.
struct TileWork {
  int row_tiles, token_tiles, k_steps;
  int num_blocks;
  int shared_tiles;

  static constexpr int kRowGroup = 8;  // row tiles that run beside each other: their x comes from L2 once

  IMP_HOST_DEVICE int tiles() const { return row_tiles * token_tiles; }

  IMP_HOST_DEVICE TilePlace place(int tile) const {
    const int group = tile / (kRowGroup * token_tiles), within = tile - group * kRowGroup * token_tiles;
    const int rows = row_tiles - group * kRowGroup < kRowGroup ? row_tiles - group * kRowGroup : kRowGroup;
    return {group * kRowGroup + within % rows, within / rows};
  }
  /// First step of a block in the row of steps; a cut close to a tile's border moves onto it.
  IMP_HOST_DEVICE int64_t cut(int block) const {
    const int64_t at = int64_t{shared_tiles} * k_steps * block / num_blocks;
    const int within = static_cast<int>(at % k_steps), near = k_steps / 16;
    if (within <= near) return at - within;
    if (k_steps - within <= near) return at + k_steps - within;
    return at;
  }
  /// How far blocks up to and with this one bring a tile.
  IMP_HOST_DEVICE int covered(int tile, int block) const {
    const int64_t reach = cut(block + 1) - int64_t{tile} * k_steps;
    return reach < k_steps ? static_cast<int>(reach) : k_steps;
  }
  IMP_HOST_DEVICE int steps_of(int block) const {
    const int whole = tiles() - shared_tiles;
    return static_cast<int>(cut(block + 1) - cut(block)) +
           (whole / num_blocks + (block < whole % num_blocks ? 1 : 0)) * k_steps;
  }

  /// The items of one block, in order.
  struct Cursor {
    int at, end;  // in the row of steps
    int whole;    // the next tile that is its own
    IMP_HOST_DEVICE Cursor(const TileWork& work, int block)
        : at(static_cast<int>(work.cut(block))),
          end(static_cast<int>(work.cut(block + 1))),
          whole(work.shared_tiles + block) {}
    IMP_HOST_DEVICE bool next(const TileWork& work, TileItem& item) {
      if (at < end) {
        item.tile = at / work.k_steps;
        item.begin = at - item.tile * work.k_steps;
        item.end = end - at < work.k_steps - item.begin ? item.begin + (end - at) : work.k_steps;
        at += item.end - item.begin;
        return true;
      }
      if (whole >= work.tiles()) return false;
      item = {whole, 0, work.k_steps};
      whole += work.num_blocks;
      return true;
    }
  };
};

/// The work of a product on `num_blocks` multiprocessors. may_share: there is scratch for tiles of several blocks;
/// adding up what one left costs as much as `share_steps` steps.
TileWork plan_tile_work(int row_tiles, int token_tiles, int k_steps, int num_blocks, bool may_share,
                        int share_steps = 8);

}  // namespace imp::cuda
