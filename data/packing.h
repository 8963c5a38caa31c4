// Documents inside a sample. A sample is a window of the token file and may hold the end of one
// document, whole ones and the beginning of another; the token that ends a document is also the
// first input of the next. Pure function.
#pragma once

#include <cstdint>
#include <span>

namespace tenax::data {

/// How the documents of a window are kept apart.
enum class Packing : std::uint8_t {
  kConcatenate,  ///< not at all: tokens attend across documents
  kDocuments,    ///< attention stays inside a document and positions begin at 0 in each
};

/// positions[i] = place of inputs[i] in its document: 0 at an end-of-document token, which begins
/// the next document, and at the window's start. Equally long spans.
void document_positions(std::span<const std::int32_t> inputs, std::int32_t end_of_document,
                        std::span<std::int32_t> positions);

}  // namespace tenax::data
