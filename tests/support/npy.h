#pragma once
#include <cstdint>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace imp::test {

/// An array of a .npy file, version 1.0, C order.
template <class T>
struct NpyArray {
  std::vector<int64_t> shape;
  std::vector<T> values;
};

/// Reads what numpy.save wrote for `T` = float ("<f4") or int32_t ("<i4").
template <class T>
NpyArray<T> read_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char start[10];
  if (!file.read(start, sizeof start)) throw std::runtime_error("cannot read " + path);
  const size_t header_bytes = static_cast<unsigned char>(start[8]) + 256u * static_cast<unsigned char>(start[9]);
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const char* kind = std::is_same_v<T, float> ? "'<f4'" : "'<i4'";
  if (std::memcmp(start, "\x93NUMPY\x01", 7) != 0 || header.find(kind) == std::string::npos ||
      header.find("'fortran_order': False") == std::string::npos) {
    throw std::runtime_error(path + " is not a C-order array of " + kind);
  }
  NpyArray<T> array;
  int64_t count = 1;
  const char* at = header.c_str() + header.find('(', header.find("'shape'")) + 1;
  for (char* end; *at != ')'; at = *end == ',' ? end + 1 : end) {
    const int64_t dimension = std::strtoll(at, &end, 10);
    if (end == at) break;
    array.shape.push_back(dimension);
    count *= dimension;
  }
  array.values.resize(count);
  file.read(reinterpret_cast<char*>(array.values.data()), static_cast<std::streamsize>(count * sizeof(T)));
  if (!file) throw std::runtime_error(path + " ends early");
  return array;
}

}  // namespace imp::test
