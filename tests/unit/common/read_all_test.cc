#include "common/read_all.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace tenax {

TEST(ReadAll, GivesTextOfAnyLengthUnchanged) {
  for (const std::size_t size : {0u, 1u, 16383u, 16384u, 16385u, 100000u}) {
    std::string text(size, 'x');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7);
    std::istringstream in(text);
    EXPECT_EQ(read_all(in), text);
    EXPECT_FALSE(in.bad());
  }
}

TEST(ReadAll, AFolderIsAReadErrorAndNoException) {
  std::ifstream in("/proc/self");
  EXPECT_EQ(read_all(in), "");
  EXPECT_TRUE(in.bad());
}

}  // namespace tenax
