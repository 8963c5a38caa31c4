#include "data/packing.h"

#include <gtest/gtest.h>

#include <vector>

namespace tenax::data {
namespace {

TEST(DocumentPositions, BeginAtTheEndOfTheDocumentBeforeAndAtTheWindow) {
  const std::vector<std::int32_t> inputs = {7, 8, 256, 9, 256, 256, 1, 2, 3, 256};
  std::vector<std::int32_t> positions(inputs.size(), -1);
  document_positions(inputs, 256, positions);
  EXPECT_EQ(positions, (std::vector<std::int32_t>{0, 1, 0, 1, 0, 0, 1, 2, 3, 0}));
}

TEST(DocumentPositions, AWindowInsideADocumentIsOneDocument) {
  const std::vector<std::int32_t> inputs = {7, 8, 9};
  std::vector<std::int32_t> positions(3, -1);
  document_positions(inputs, 256, positions);
  EXPECT_EQ(positions, (std::vector<std::int32_t>{0, 1, 2}));
}

}  // namespace
}  // namespace tenax::data
