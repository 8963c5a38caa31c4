// Where RocksDB writes what worries it: the file LOG of its folder. RocksDB's own logger ends the
// process (an assertion of Debian's build) when it writes again after a write failed, as on a full
// disk; this one drops what cannot be written and goes on.
#pragma once

#include <rocksdb/env.h>

#include <memory>
#include <string>

namespace tenax::checkpoint {

/// A logger of warnings and worse that appends to LOG in `folder`, which is made if missing; a LOG
/// beyond 4 MiB becomes LOG.old first. A file that cannot be opened is a log of nothing. Any
/// thread.
std::shared_ptr<rocksdb::Logger> make_rocks_log(const std::string& folder);

/// Drops everything: for readers, who leave the owner's folder alone.
std::shared_ptr<rocksdb::Logger> make_silent_rocks_log();

}  // namespace tenax::checkpoint
