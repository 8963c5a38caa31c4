// Opens a store's database although shard files of it are damaged: one bad file must not take the
// journal and the other checkpoints with it. Internal to checkpoint/.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/rocks_db.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// Opens as primary. If that fails for damage, drops the shard files that are missing, cut or
/// unreadable, appends a line for each to `dropped`, and opens again. A damaged journal is refused
/// with kDataLoss unless `salvage_journal`.
Result<Database> open_or_repair(const std::string& path, bool salvage_journal, rocksdb::Env* env,
                                std::vector<std::string>& dropped);

}  // namespace tenax::checkpoint
