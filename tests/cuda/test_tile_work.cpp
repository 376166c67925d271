#include <doctest/doctest.h>

#include <map>
#include <vector>

#include "linear/tile_work.h"

using namespace imp::cuda;

TEST_CASE("every step of every tile is done once, by blocks in order of k") {
  for (int row_tiles : {1, 3, 32, 48, 192})
    for (int token_tiles : {1, 2, 5, 16})
      for (int k_steps : {1, 2, 33, 64, 192})
        for (int blocks : {1, 5, 132})
          for (bool may_share : {false, true}) {
            const TileWork work = plan_tile_work(row_tiles, token_tiles, k_steps, blocks, may_share);
            CAPTURE(row_tiles);
            CAPTURE(token_tiles);
            CAPTURE(k_steps);
            CAPTURE(blocks);
            CHECK((may_share || work.shared_tiles == 0));
            std::vector<int> reached(work.tiles(), 0);
            std::vector<int> partial_of(work.num_blocks, -1);
            int64_t longest = 0;
            CHECK(work.num_blocks <= blocks);
            for (int block = 0; block < work.num_blocks; ++block) {
              TileWork::Cursor cursor(work, block);
              TileItem item;
              int64_t steps = 0;
              bool first = true;
              while (cursor.next(work, item)) {
                CHECK(item.begin < item.end);
                CHECK((item.begin == 0 || first));  // one partial a block
                CHECK(item.begin == reached[item.tile]);
                if (item.tile < work.shared_tiles) CHECK(work.covered(item.tile, block) == item.end);
                reached[item.tile] = item.end;
                steps += item.end - item.begin;
                first = false;
                if (item.begin > 0) partial_of[block] = item.tile;
              }
              CHECK(steps == work.steps_of(block));
              longest = std::max(longest, steps);
            }
            for (int done : reached) CHECK(done == k_steps);
            // A tile's first block adds up exactly the parts that others left.
            for (int block = 0; block < work.num_blocks; ++block) {
              TileWork::Cursor cursor(work, block);
              TileItem item;
              while (cursor.next(work, item)) {
                if (item.begin > 0) continue;
                for (int done = item.end, other = block + 1; done < k_steps; ++other) {
                  const bool adds = work.covered(item.tile, other) > done;
                  CHECK(adds == (partial_of[other] == item.tile));
                  if (adds) partial_of[other] = -1;
                  done = work.covered(item.tile, other);
                }
              }
            }
            for (int left : partial_of) CHECK(left == -1);
            const int64_t even = int64_t{work.tiles()} * k_steps / work.num_blocks;
            CHECK(longest <= even + k_steps + k_steps / 8 + 1);
          }
}

TEST_CASE("a tile has one place") {
  for (int row_tiles : {1, 7, 8, 9, 48})
    for (int token_tiles : {1, 3, 16}) {
      const TileWork work = plan_tile_work(row_tiles, token_tiles, 4, 132, false);
      std::map<std::pair<int, int>, int> seen;
      for (int tile = 0; tile < work.tiles(); ++tile) {
        const TilePlace place = work.place(tile);
        CHECK((place.row_tile >= 0 && place.row_tile < row_tiles));
        CHECK((place.token_tile >= 0 && place.token_tile < token_tiles));
        CHECK(++seen[{place.row_tile, place.token_tile}] == 1);
      }
    }
}
