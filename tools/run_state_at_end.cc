#include "tools/run_state_at_end.h"

#include <vector>

#include "scheduler/run_json.h"

namespace tenax::tools {

namespace {
constexpr std::uint64_t kJournalEntries = 20000;  // as many as a supervisor's takeover looks at
}  // namespace

Result<RunStateAtEnd> read_run_state(const checkpoint::StoreView& store,
                                     const scheduler::RunController& controller) {
  RunStateAtEnd out;
  TENAX_TRY(const auto saved, store.state());
  if (!saved) return make_error(ErrorCode::kNotFound, "the run has no journal yet");
  TENAX_TRY(out.state, scheduler::run_state_from_json(*saved));
  TENAX_TRY(const auto last, store.last_journal_seq());
  out.last_seq = last.value_or(0);
  TENAX_TRY(
      const auto records,
      store.read_journal(out.last_seq > kJournalEntries ? out.last_seq - kJournalEntries : 0));
  std::vector<scheduler::JournalEntry> entries;
  for (const checkpoint::JournalRecord& r : records) {
    TENAX_TRY(entries.emplace_back(), scheduler::journal_entry_from_json(r.bytes));
  }
  controller.catch_up(out.state, entries);
  return out;
}

}  // namespace tenax::tools
