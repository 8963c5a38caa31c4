// What an agent tells the supervisor about the files of a checkpoint it wrote, as bytes for the
// wire. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "checkpoint/shard_writer.h"
#include "common/result.h"

namespace tenax::actors {

std::string encode_shard_files(const checkpoint::ShardFiles& files);
/// kDataLoss if the bytes are not an encoding.
Result<checkpoint::ShardFiles> decode_shard_files(std::string_view bytes);

}  // namespace tenax::actors
