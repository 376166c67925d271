#include <doctest/doctest.h>

#include "kv/layout.h"

TEST_CASE("blocks round up and bytes add up over layers") {
  CHECK(imp::blocks_for(0) == 0);
  CHECK(imp::blocks_for(1) == 1);
  CHECK(imp::blocks_for(16) == 1);
  CHECK(imp::blocks_for(17) == 2);
  const imp::KvLayout layout{{{3, 64}, {1, 256}}, 2};
  CHECK(layout.array_bytes(0, 1) == 16 * 3 * 64 * 2);
  CHECK(layout.array_bytes(1, 10) == 10 * 16 * 256 * 2);
  CHECK(layout.token_bytes() == 2 * 2 * (3 * 64 + 256));
  CHECK(layout.block_bytes() == 16 * layout.token_bytes());
}
