// What an agent keeps while it runs. Confined to the agent's actor.
#pragma once

#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "actors/agent.h"
#include "actors/buddy_copies.h"
#include "actors/caf_messages.h"
#include "actors/network_interface.h"
#include "actors/process.h"
#include "actors/process_evidence.h"
#include "actors/process_watcher.h"
#include "actors/run_directory.h"
#include "actors/slot_writer.h"
#include "checkpoint/slot.h"
#include "configs/run_config.h"
#include "wire/peer_sockets.h"

namespace tenax::actors {

struct WorkerRecord {
  std::uint64_t incarnation = 0;
  std::uint32_t pid = 0;
  std::int32_t rank = -1;
  std::uint64_t generation = 0;
  bool training = false;
  bool up = false;  ///< it has said so
  bool expected_to_end = false;
  double busy_seconds = 0;  ///< moving averages over some 20 and some 200 steps
  double past_seconds = 0;
  std::int64_t steps = 0;

  void add_pace(double seconds) {
    ++steps;
    busy_seconds +=
        (seconds - busy_seconds) / static_cast<double>(std::min<std::int64_t>(steps, 20));
    past_seconds +=
        (seconds - past_seconds) / static_cast<double>(std::min<std::int64_t>(steps, 200));
  }
};

struct AgentState {
  static inline const char* name = "agent";
  std::uint32_t agent = 0;
  std::uint64_t incarnation = 0;  ///< 0: it has asked to join and has no answer yet
  std::uint64_t term = 0;
  std::uint64_t generation = 0;
  std::map<std::uint32_t, WorkerRecord> workers;  ///< by slot
  std::deque<wire::Message> reports;              ///< sent, not yet acknowledged
  /// Answers about snapshots that the supervisor has not closed, by worker incarnation: a new one
  /// is told again.
  std::map<std::uint64_t, wire::Message> open_shards;
  std::int64_t newest_report = -1;  ///< step, of this generation
  wire::PeerSockets::SocketId supervisor = -1;
  std::string supervisor_endpoint;
  wire::PeerSockets::SocketId router = -1;
  std::string endpoint;  ///< that workers dial
  std::chrono::steady_clock::time_point last_heard;
  std::uint64_t heartbeats = 0;
  bool leaving = false;  ///< it asked to be drained
  bool ending = false;
  std::chrono::steady_clock::time_point ending_since;
  caf::actor writer;
};

struct Environment {
  const AgentOptions& options;
  const RunDirectory& directory;
  const RunIdentity& identity;
  const std::string& token;  ///< of an agent that joins
  const configs::RunConfig& config;
  wire::PeerSockets& sockets;
  ProcessWatcher& watcher;
  int& exit_code;
};

}  // namespace tenax::actors
