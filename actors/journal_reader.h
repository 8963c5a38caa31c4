// Reads a run's journal in batches, so that memory does not grow with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "checkpoint/store_reader.h"
#include "common/result.h"
#include "scheduler/run_json.h"

namespace tenax::actors {

/// Calls f(entry, bytes as they are journalled) for every entry, oldest first.
template <class F>
Status for_each_entry(const checkpoint::StoreReader& store, F f) {
  constexpr std::size_t kBatch = 4096;
  std::uint64_t next = 0;
  while (true) {
    TENAX_TRY(const auto records, store.read_journal(next, kBatch));
    for (const checkpoint::JournalRecord& r : records) {
      next = r.seq + 1;
      TENAX_TRY(const scheduler::JournalEntry entry, scheduler::journal_entry_from_json(r.bytes));
      f(entry, r.bytes);
    }
    if (records.size() < kBatch) return {};
  }
}

}  // namespace tenax::actors
