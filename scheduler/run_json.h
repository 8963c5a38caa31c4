// The run's events, commands and state as JSON: the journal's records, the state saved with every
// decision, and what `tenax journal --json` prints. Numbers that are not finite are written as the
// strings "NaN", "Infinity", "-Infinity".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/result.h"
#include "scheduler/run_commands.h"
#include "scheduler/run_events.h"
#include "scheduler/run_state.h"

namespace tenax::scheduler {

/// One line of the journal: an event and what was decided on it.
struct JournalEntry {
  std::uint64_t seq = 0;
  Time time;
  std::uint64_t term = 0;
  std::uint64_t generation = 0;  ///< after the decision
  Event event;
  std::vector<Command> commands;
};

/// {"seq","time","term","generation","kind","severity","text","event":{"type",...},"commands":[{"type",...}]}
std::string to_json(const JournalEntry& entry);
/// kDataLoss, naming what is missing, for text that is not such an entry.
Result<JournalEntry> journal_entry_from_json(std::string_view text);

std::string to_json(const RunState& state);
Result<RunState> run_state_from_json(std::string_view text);

/// What the operator's program sends to a live supervisor; the same members as in the journal.
std::string to_json(const RollbackRequested& request);
/// kInvalidArgument for text that is not such an order.
Result<RollbackRequested> rollback_from_json(std::string_view text);

/// What a replay's process leaves for the supervisor.
std::string to_json(const ReplayEnded& result);
Result<ReplayEnded> replay_result_from_json(std::string_view text);

/// Whether the commands of a decision leave the generation that trains.
bool begins_a_generation(const std::vector<Command>& commands);

/// The worst severity among an entry's notes; kInfo without any.
Severity severity_of(const JournalEntry& entry);
/// Whether it has words for people, and is not only routine.
bool is_told(const JournalEntry& entry);
std::string_view to_string(Severity severity);
/// The entry as one line for people: its notes, or the event in words.
std::string describe(const JournalEntry& entry);

/// The member's name: "StepReported", "SpawnWorker".
std::string_view name_of(const Event& event);
std::string_view name_of(const Command& command);

}  // namespace tenax::scheduler
