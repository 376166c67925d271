#pragma once
#include <fstream>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace imp::test {

/// The named arrays of a file that tools/make_op_goldens.py wrote.
class Golden {
 public:
  explicit Golden(const std::string& path) {
    std::ifstream file(path);
    std::string name;
    for (size_t count = 0; file >> name >> count;) {
      std::vector<float>& values = arrays_[name];
      std::string number;  // operator>> into float refuses what overflows and underflows
      while (count-- > 0 && file >> number) values.push_back(std::stof(number));
    }
    if (arrays_.empty()) throw std::runtime_error("no golden values in " + path);
  }
  std::vector<float>& operator[](const std::string& name) {
    const auto found = arrays_.find(name);
    if (found == arrays_.end()) throw std::runtime_error("no golden array " + name);
    return found->second;
  }

 private:
  std::map<std::string, std::vector<float>> arrays_;
};

}  // namespace imp::test
