#include <doctest/doctest.h>

#include <random>

#include "kv/block_pool.h"

using imp::BlockId;
using imp::BlockPool;

namespace {

std::string check(const BlockPool& pool, const std::vector<std::vector<BlockId>>& tables) {
  std::vector<const std::vector<BlockId>*> pointers;
  for (const auto& table : tables) pointers.push_back(&table);
  return pool.check_integrity(pointers);
}

}  // namespace

TEST_CASE("a pool hands out each block once and says when it is empty") {
  BlockPool pool(3);
  std::vector<BlockId> table;
  for (int i = 0; i < 3; ++i) table.push_back(pool.allocate().value());
  CHECK(table == std::vector<BlockId>{0, 1, 2});
  CHECK_FALSE(pool.allocate().has_value());
  CHECK(pool.num_used() == 3);
  CHECK(pool.peak_used() == 3);
  CHECK(check(pool, {table}) == "");
}

TEST_CASE("a shared block is free only when its last owner let it go") {
  BlockPool pool(2);
  const BlockId block = pool.allocate().value();
  pool.retain(block);
  CHECK(pool.ref_count(block) == 2);
  pool.release(block);
  CHECK(pool.num_free() == 1);
  pool.release(block);
  CHECK(pool.num_free() == 2);
  CHECK(pool.peak_used() == 1);
}

TEST_CASE("check_integrity names what is wrong") {
  BlockPool pool(4);
  const BlockId a = pool.allocate().value();
  CHECK(check(pool, {{a}}) == "");
  CHECK(check(pool, {}) == "block 0 has 0 owners and 1 references");
  CHECK(check(pool, {{a}, {a}}) == "block 0 has 2 owners and 1 references");
  CHECK(check(pool, {{a, 9}}) == "a table refers to block 9 of 4");
  CHECK(check(pool, {{a, 3}}) == "block 3 has 1 owners and 0 references");
}

TEST_CASE("random use keeps the books") {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    BlockPool pool(17);
    std::vector<std::vector<BlockId>> tables(6);
    for (int step = 0; step < 4000; ++step) {
      auto& table = tables[random() % tables.size()];
      switch (random() % 4) {
        case 0:
          if (const auto block = pool.allocate()) table.push_back(*block);
          break;
        case 1: {  // share another table's blocks
          const auto& other = tables[random() % tables.size()];
          if (!table.empty() || &other == &table) break;
          for (BlockId block : other) pool.retain(block);
          table = other;
          break;
        }
        case 2:
          if (!table.empty()) {
            pool.release(table.back());
            table.pop_back();
          }
          break;
        default:
          if (random() % 8 == 0) {
            for (BlockId block : table) pool.release(block);
            table.clear();
          }
      }
      REQUIRE(check(pool, tables) == "");
      REQUIRE(pool.num_free() + pool.num_used() == pool.num_blocks());
    }
  }
}
