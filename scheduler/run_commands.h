// What the controller decides, as values; actors turn them into messages and system calls.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/run_types.h"

namespace tenax::scheduler {

/// Start the agent's process (on this host), or wait for it to dial in.
struct SpawnAgent {
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;
};
struct SpawnWorker {
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
};
struct KillWorker {
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
  std::string reason;
};
/// SIGKILL an agent that is silent but not known to be dead.
struct KillAgent {
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;
  std::string reason;
};
/// The answer to AgentAsked: it may say hello as this agent.
struct AdmitAgent {
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;
  std::string token;
  std::string refusal;  ///< why it may not; empty: it may
};
/// Tell an agent to end in good order: the run does without it.
struct ReleaseAgent {
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;
  std::string reason;
};
/// Tell every worker to leave all generations older than `generation` at once.
struct AbortGeneration {
  std::uint64_t generation = 0;
  std::int64_t counted_step = 0;
  std::string reason;
};
/// Give the plan to every rank: rank r lives at seats[r].
struct StartGeneration {
  struct Seat {
    std::uint32_t agent = 0;
    std::uint32_t slot = 0;
    std::uint64_t incarnation = 0;
  };
  Plan plan;
  std::vector<Seat> seats;
};
struct IssueCommand {
  WorkerCommand command;
};
struct CommitCheckpoint {
  std::uint64_t checkpoint_id = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::int64_t position = 0;  ///< samples before it were trained or skipped
};
/// Drop what was written of a checkpoint that will not be committed, and free the slots.
struct DiscardCheckpoint {
  std::uint64_t checkpoint_id = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::string reason;
};
struct VerifyCheckpoint {
  std::uint64_t checkpoint_id = 0;
};
struct DeleteCheckpoint {
  std::uint64_t checkpoint_id = 0;
  std::string reason;
};
/// Evidence against a worker's device. Whoever chooses where ranks run may act on it.
struct SuspectDevice {
  std::uint32_t rank = 0;
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::string evidence;
};
/// Write the losses of these steps' samples, which the ranks have noted, to a file that stays.
struct KeepSamples {
  std::uint64_t branch = 0;
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;  ///< inclusive
  std::string name;            ///< of the file: "branch0-step30"
};
/// Compute steps from + 1 .. to again in a process of its own, from a checkpoint, and compare them
/// with the journal; answered by ReplayEnded.
struct ReplaySteps {
  std::uint64_t id = 0;
  std::uint64_t checkpoint_id = 0;  ///< 0: the initial weights
  std::int64_t from = 0;            ///< the step whose weights it starts with
  std::int64_t to = 0;
};
enum class Severity : std::uint8_t { kInfo = 0, kNotice = 1, kWarning = 2, kError = 3 };
/// A sentence for the journal, the terminal and the dashboard.
struct Note {
  Severity severity = Severity::kInfo;
  std::string text;
};
/// End all processes; the run's result.
struct Finish {
  int exit_code = 0;
  std::string reason;
};

using Command = std::variant<SpawnAgent, SpawnWorker, KillWorker, KillAgent, AbortGeneration,
                             StartGeneration, IssueCommand, CommitCheckpoint, DiscardCheckpoint,
                             VerifyCheckpoint, DeleteCheckpoint, Note, Finish, AdmitAgent,
                             ReleaseAgent, SuspectDevice, KeepSamples, ReplaySteps>;

}  // namespace tenax::scheduler
