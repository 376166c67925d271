#pragma once
#include <cstdlib>
#include <initializer_list>
#include <vector>

namespace imp::test {

/// Whether each access of a kernel is checked by a tool, which takes 10 to 1000 times as long: tools/gpu_test.py sets
/// IMP_TEST_FEW. Tests then take few and small shapes that still reach every kernel and every way through it.
inline bool few_shapes() {
  static const bool few = std::getenv("IMP_TEST_FEW") != nullptr;
  return few;
}
template <class T>
T few(T all, T some) {
  return few_shapes() ? some : all;
}
/// Not an initializer_list, whose values would be gone when it is used.
template <class T>
std::vector<T> few(std::initializer_list<T> all, std::initializer_list<T> some) {
  return few_shapes() ? some : all;
}

}  // namespace imp::test
