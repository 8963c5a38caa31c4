// The actor behind start_supervisor(). Internal to actors/.
#pragma once

#include <caf/all.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "actors/caf_messages.h"
#include "actors/process_watcher.h"
#include "actors/proxies.h"
#include "actors/store_actor.h"
#include "actors/supervisor.h"
#include "scheduler/straggler.h"
#include "wire/peer_sockets.h"

namespace tenax::actors {

/// What the actor works with; all of it outlives the actor.
struct SupervisorEnvironment {
  const SupervisorOptions& options;
  const scheduler::RunController& controller;
  const Clock& clock;
  std::shared_ptr<checkpoint::Store> store;
  wire::PeerSockets& sockets;
  wire::PeerSockets::SocketId router = -1;
  ProcessWatcher& watcher;
  ActorRegistry& registry;
  RunView& view;
  HttpServer* http = nullptr;
  std::function<void(RunOutcome)> on_end;
};

struct StopRun {
  scheduler::StopKind kind = scheduler::StopKind::kGraceful;
  std::string by;
};
struct AbandonRun {};
/// The operator's word: DrainRequested, ScaleRequested or RollbackRequested.
struct ChangeRun {
  scheduler::Event event;
};

/// What the actor starts from: the state left by the last supervisor.
struct InheritedState {
  scheduler::RunState state;
  std::uint64_t last_seq = 0;
  std::uint64_t term = 1;
};

struct SupervisorState {
  static inline const char* name = "supervisor";
};

class Supervisor {
 public:
  Supervisor(caf::stateful_actor<SupervisorState>* self, SupervisorEnvironment environment,
             InheritedState inherited);

  void start();
  void on(const Frame& frame);
  void on(const AgentGone& gone);
  void on(const ChildExited& exited);
  void on(const Journalled& done);
  void on(const CommitDone& done);
  void on(const VerifyDone& done);
  void on(const StopRun& stop);
  void on(const AbandonRun&);
  void on(const ChangeRun& change);
  void tick();

 private:
  void feed(scheduler::Event event);
  void show();
  void flush(bool synced, std::optional<std::string> state);
  void act(const scheduler::Command& command);

  void act(const scheduler::SpawnAgent& c);
  void act(const scheduler::SpawnWorker& c);
  void act(const scheduler::KillWorker& c);
  void act(const scheduler::KillAgent& c);
  void act(const scheduler::AdmitAgent& c);
  void act(const scheduler::ReleaseAgent& c);
  void act(const scheduler::AbortGeneration& c);
  void act(const scheduler::StartGeneration& c);
  void act(const scheduler::IssueCommand& c);
  void act(const scheduler::CommitCheckpoint& c);
  void act(const scheduler::DiscardCheckpoint& c);
  void act(const scheduler::VerifyCheckpoint& c);
  void act(const scheduler::DeleteCheckpoint& c);
  void act(const scheduler::Note&) {}
  void act(const scheduler::SuspectDevice&) {}  // told by its note
  void act(const scheduler::KeepSamples& c);
  void act(const scheduler::ReplaySteps& c);
  void act(const scheduler::Finish& c);

  wire::Message message(wire::Body body) const;
  void send_to_agent(std::uint32_t agent, wire::Message m);
  void send_to_all(const wire::Message& m);
  void release(std::uint64_t branch, std::int64_t step, bool committed);
  checkpoint::Manifest manifest_of(const scheduler::CommitCheckpoint& c) const;
  void judge_paces(std::uint64_t generation, const wire::Heartbeat& beat);
  void join(const Frame& frame);
  bool is_member(const wire::Message& m) const;
  void dismiss(const Frame& frame);
  void end_if_possible();
  /// Whether it was a replay's process; then its result is an event.
  bool replay_ended(const ChildExited& exited);
  Duration scaled(Duration d) const;

  caf::stateful_actor<SupervisorState>* self_;
  SupervisorEnvironment e_;
  scheduler::RunState state_;
  std::uint64_t seq_;
  std::uint64_t term_;
  caf::actor writer_;
  caf::actor verifier_;
  std::map<std::uint32_t, caf::actor> proxies_;          ///< by agent
  std::map<std::uint32_t, std::uint64_t> incarnations_;  ///< of the proxies
  std::map<std::string, std::string> askers_;        ///< routing id of who asked to join, by token
  std::set<std::uint64_t> processes_;                ///< agents being watched, by incarnation
  std::vector<checkpoint::JournalRecord> buffered_;  ///< records without decisions, not yet written
  std::deque<std::pair<std::uint64_t, std::vector<scheduler::Command>>> undispatched_;
  std::map<std::uint64_t, std::map<std::uint32_t, checkpoint::ShardFiles>>
      shards_;  ///< by checkpoint, rank
  std::int64_t acknowledged_ = 0;
  bool view_stale_ = false;
  std::uint64_t paces_generation_ = 0;
  std::map<int, scheduler::RankPace> paces_;  ///< by rank, of that generation
  std::map<int, bool> straggles_;
  Time shown_at_{};
  Time last_tick_{};
  bool ending_ = false;
  Time ending_since_;
  int exit_code_ = 1;
  std::string reason_;
};

caf::behavior supervisor_actor(caf::stateful_actor<SupervisorState>* self,
                               SupervisorEnvironment environment, InheritedState inherited);

}  // namespace tenax::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::StopRun)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::AbandonRun)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::ChangeRun)
