// Writes a run as programs of manifest format 1 did: chunks as values of a second RocksDB, whose
// SST files were ingested. Independent of the product's writer, which has forgotten how.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {

/// The run must not be open. Chunks of 4096 bytes, one writer, one file.
Result<Manifest> save_in_format_1(const std::string& run_path, std::uint64_t id,
                                  const Model& model);

}  // namespace tenax::checkpoint
