// The store's actors: one detached actor writes (journal, commits, deletions), another reads back
// (verification), so that neither the supervisor nor the journal waits for a disk. The store
// belongs to the writer (invariant A1).
#pragma once

#include <caf/all.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/store.h"

namespace tenax::actors {

/// Append these records; answered by Journalled once they are safe.
struct AppendJournal {
  std::vector<checkpoint::JournalRecord> records;
  std::optional<std::string> state;
  bool synced = true;
};
struct Journalled {
  std::uint64_t seq = 0;  ///< of the last record
  std::string error;      ///< empty: done
};

/// Answered by CommitDone.
struct CommitFiles {
  std::shared_ptr<const checkpoint::Manifest> manifest;
  std::vector<checkpoint::ShardFile> files;
  std::string gpu_plans;  ///< folder whose lines join the manifest's arithmetic; empty: none
};
struct CommitDone {
  std::uint64_t checkpoint_id = 0;
  std::uint64_t bytes = 0;
  std::string error;
  std::uint64_t free_bytes = 0;  ///< of the file system; 0: not known
};

struct RemoveCheckpoint {
  std::uint64_t checkpoint_id = 0;
};
/// Remove staging files that will not be committed.
struct DropFiles {
  std::vector<std::string> paths;
};

/// Copy losses of samples from the ranks' rings to a file (actors/sample_log.h).
struct KeepSampleLosses {
  std::string rings;
  std::uint64_t branch = 0;
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;
  std::string out;
};

/// Read back every byte; answered by VerifyDone.
struct VerifyFull {
  std::uint64_t checkpoint_id = 0;
};
struct VerifyDone {
  std::uint64_t checkpoint_id = 0;
  std::string error;
};

void store_writer(caf::blocking_actor* self, std::shared_ptr<checkpoint::Store> store,
                  caf::actor supervisor);
void store_verifier(caf::blocking_actor* self, std::shared_ptr<checkpoint::Store> store,
                    caf::actor supervisor);

}  // namespace tenax::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::AppendJournal)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::Journalled)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::CommitFiles)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::CommitDone)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::RemoveCheckpoint)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::DropFiles)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::KeepSampleLosses)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::VerifyFull)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::VerifyDone)
