// Opens a run's databases although files of them are damaged: one bad shard file must not take the
// other checkpoints with it. Internal to checkpoint/.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/rocks_db.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// As primary. If that fails for damage, drops the shard files that are missing, cut or unreadable,
/// appends a line for each to `dropped`, and opens again.
Result<Rocks> open_shards_or_repair(const std::string& path, rocksdb::Env* env,
                                    std::vector<std::string>& dropped);

/// Opens records whose journal is damaged and keeps what stands before the damage.
Result<Rocks> salvage_records(const std::string& path, rocksdb::Env* env);

}  // namespace tenax::checkpoint
