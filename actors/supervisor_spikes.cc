// What the supervisor does about spikes beside starting generations: it keeps the losses of the
// samples behind one, and has steps computed again in a process of their own.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "actors/process.h"
#include "actors/supervisor_actor.h"
#include "scheduler/run_json.h"

namespace tenax::actors {

namespace {

/// Set in the watcher's tokens of replays; those of agents are incarnations, which stay small.
constexpr std::uint64_t kReplayToken = std::uint64_t{1} << 63;

std::filesystem::path result_of(const RunDirectory& run, std::uint64_t id) {
  return run.spikes() / fmt::format("replay{}.result", id);
}

}  // namespace

void Supervisor::act(const scheduler::KeepSamples& c) {
  const RunDirectory& run = e_.options.directory;
  self_->send(writer_, KeepSampleLosses{run.samples().string(), c.branch, c.first_step, c.last_step,
                                        (run.spikes() / (c.name + ".json")).string()});
}

void Supervisor::act(const scheduler::ReplaySteps& c) {
  const RunDirectory& run = e_.options.directory;
  std::error_code ec;
  std::filesystem::create_directories(run.spikes(), ec);
  std::filesystem::remove(result_of(run, c.id), ec);
  Process::SpawnOptions spawn;
  spawn.arguments = {self_path(),
                     "replay",
                     run.path().string(),
                     "--checkpoint",
                     fmt::to_string(c.checkpoint_id),
                     "--to",
                     fmt::to_string(c.to),
                     "--id",
                     fmt::to_string(c.id),
                     "--out",
                     result_of(run, c.id).string(),
                     "--parent-pid",
                     fmt::to_string(getpid())};
  spawn.log_path = (run.logs() / "replay.log").string();
  auto process = Process::spawn(spawn);
  if (!process) {
    feed(scheduler::ReplayEnded{c.id, 0, 0, -1, "", process.error().message});
    return;
  }
  e_.watcher.watch(kReplayToken | c.id, *std::move(process));
}

bool Supervisor::replay_ended(const ChildExited& exited) {
  if ((exited.token & kReplayToken) == 0) return false;
  const std::uint64_t id = exited.token & ~kReplayToken;
  if (ending_) return true;
  const std::filesystem::path path = result_of(e_.options.directory, id);
  const auto text = read_file(path);
  auto ended = text ? scheduler::replay_result_from_json(*text)
                    : Result<scheduler::ReplayEnded>(tl::unexpected(text.error()));
  if (ended) {
    feed(*std::move(ended));
  } else {
    feed(scheduler::ReplayEnded{id, 0, 0, -1, "", "its process " + exited.status});
  }
  return true;
}

}  // namespace tenax::actors
