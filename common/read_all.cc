#include "common/read_all.h"

#include <array>

namespace tenax {

std::string read_all(std::istream& in) {
  std::string text;
  std::array<char, 16384> block;
  while (in.read(block.data(), block.size()) || in.gcount() > 0) {
    text.append(block.data(), static_cast<std::size_t>(in.gcount()));
  }
  return text;
}

}  // namespace tenax
