// The agent as an actor: keeps workers, watches them, passes messages between them and the
// supervisor, has snapshots written. actors/agent.h is the process around it. Confined to the
// actor.
#pragma once

#include <signal.h>

#include <caf/all.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "actors/agent_state.h"
#include "actors/buddy_copies.h"
#include "actors/caf_messages.h"
#include "actors/process_watcher.h"
#include "actors/slot_writer.h"
#include "checkpoint/run_presence.h"

namespace tenax::actors {

/// A worker's threads have had time to write their stacks.
struct KillNow {
  std::uint64_t incarnation = 0;
};

/// A signal asks an agent that joined to leave the run.
struct LeaveRun {
  std::string reason;
};

}  // namespace tenax::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::KillNow)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(tenax::actors::LeaveRun)

namespace tenax::actors {

class Agent {
 public:
  Agent(caf::stateful_actor<AgentState>* self, const Environment& e);
  void start();
  void tick();
  void on(const Frame& frame);
  void on(const ChildExited& exited);

  /// The host is wanted back: the workers leave at a step boundary. A second time ends at once.
  void leave(const std::string& reason);
  void on(const KillNow& kill) { e_.watcher.signal(kill.incarnation, SIGKILL); }

  void on(SlotWritten& written);

 private:
  Duration scaled(Duration d) const;
  wire::Message message(wire::Body body) const;
  void send_up(const wire::Message& m);
  void send_down(std::uint32_t slot, const wire::Message& m);
  void send_to_all(const wire::Message& m);
  void start_writer();

  /// Dials the supervisor of the newest term, if the run directory names a newer one than the one
  /// known.
  void look_for_supervisor();
  bool dial(const std::string& endpoint);
  void ask();
  void ask_again(std::chrono::steady_clock::time_point now);
  void on_admitted(const wire::Admitted& admitted, const wire::Message& m);
  void introduce();
  void from_worker(const wire::Message& in);
  void from_supervisor(const wire::Message& m);
  std::filesystem::path log_of(std::uint32_t slot) const;

  /// Its log gets what it was doing first.
  void kill_worker(std::uint32_t slot, std::uint64_t incarnation, const std::string& reason);

  /// Reports of an older generation reach the supervisor with the ranks' answers to the abort.
  void enter(std::uint64_t generation);
  void spawn(std::uint32_t slot, std::uint64_t incarnation);
  void begin_end(int code);
  void end_if_possible(std::chrono::steady_clock::time_point now);
  void finish(int code);

  caf::stateful_actor<AgentState>* self_;
  AgentState& s_;
  Environment e_;
  std::unique_ptr<BuddyCopies> buddy_;
  std::optional<checkpoint::RunPresence> presence_;
};

}  // namespace tenax::actors
