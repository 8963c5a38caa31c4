#include "data/packing.h"

#include "common/check.h"

namespace tenax::data {

void document_positions(std::span<const std::int32_t> inputs, std::int32_t end_of_document,
                        std::span<std::int32_t> positions) {
  TENAX_CHECK(inputs.size() == positions.size());
  std::int32_t position = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] == end_of_document) position = 0;
    positions[i] = position++;
  }
}

}  // namespace tenax::data
