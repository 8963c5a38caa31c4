#include <gtest/gtest.h>

#include "tests/unit/checkpoint/crash_child.h"

int main(int argc, char** argv) {
  // The crash tests start this program again, as the process that dies.
  if (argc > 1 && std::string_view(argv[1]) == tenax::checkpoint::kCrashChild) {
    return tenax::checkpoint::crash_child_main(argc, argv);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
