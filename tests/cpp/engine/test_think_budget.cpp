#include <doctest/doctest.h>

#include "engine/think_budget.h"

using namespace imp;

namespace {

constexpr ThinkMarkers kMarkers{.open = 100, .close = 101};

/// How many tokens of thought come before the closing marker is forced; -1: never.
int tokens_until_forced(ThinkBudget budget) {
  for (int spent = 0; spent < 50; ++spent) {
    if (budget.forced() == kMarkers.close) return spent;
    budget.accept(7);
  }
  return -1;
}

}  // namespace

TEST_CASE("a model that opens the block itself gets exactly its budget") {
  const std::vector<TokenId> prompt = {1, 2, 3};
  ThinkBudget budget(kMarkers, 8, prompt);
  CHECK(tokens_until_forced(budget) == -1);  // does not think: free
  budget.accept(kMarkers.open);
  CHECK(tokens_until_forced(budget) == 8);
}

TEST_CASE("the state comes from the prompt's tail, not from anywhere in it") {
  CHECK(tokens_until_forced(ThinkBudget(kMarkers, 3, std::vector<TokenId>{1, 100, 9})) == 3);
  CHECK(tokens_until_forced(ThinkBudget(kMarkers, 3, std::vector<TokenId>{1, 100, 5, 101, 9})) == -1);
  CHECK(tokens_until_forced(ThinkBudget(kMarkers, 3, std::vector<TokenId>{100, 101, 2, 100})) == 3);
}

TEST_CASE("closing ends the count, and a second block starts anew") {
  ThinkBudget budget(kMarkers, 2, std::vector<TokenId>{100});
  budget.accept(7);
  budget.accept(kMarkers.close);
  CHECK_FALSE(budget.forced().has_value());
  budget.accept(kMarkers.open);
  CHECK(tokens_until_forced(budget) == 2);
}

TEST_CASE("zero is no limit") { CHECK(tokens_until_forced(ThinkBudget(kMarkers, 0, std::vector<TokenId>{100})) == -1); }
