// The control protocol as C++ values, and their framing. The contract is wire/protocol.capnp; this
// file mirrors it so that nothing outside this room sees Cap'n Proto. Value types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "common/result.h"
#include "common/run_types.h"

namespace tenax::wire {

struct WorkerInfo {
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t pid = 0;
  std::int32_t rank = -1;
  std::uint64_t generation = 0;
  bool training = false;
  bool up = true;  ///< it has spoken
};
struct AgentHello {
  std::uint32_t pid = 0;
  std::string host;
  std::uint32_t num_slots = 0;
  std::vector<WorkerInfo> workers;
};
struct JoinRequest {
  std::string token;
  std::uint32_t pid = 0;
  std::string host;
  std::uint32_t num_slots = 0;
};
struct Admitted {
  std::string token;
  std::string refusal;
};
struct WorkerPace {
  std::uint32_t rank = 0;
  double busy_seconds = 0;
  double past_seconds = 0;
  std::int64_t steps = 0;
};
struct Heartbeat {
  std::uint64_t sequence = 0;
  std::vector<WorkerPace> paces = {};
};
struct WorkerUp {
  std::uint32_t pid = 0;
};
struct WorkerExited {
  std::uint32_t pid = 0;
  std::string status;
  bool expected = false;
  std::string log_tail = {};
};
struct RankFormed {
  std::uint32_t rank = 0;
  std::int64_t step = 0;
  std::string source;
  double seconds = 0;
  double restore_seconds = 0;
  std::map<std::string, std::uint64_t> bytes;  ///< that each tier served
  std::string rejected;
};
struct StepDone {
  StepReport report;
};
struct RankStopped {
  std::int32_t rank = -1;
  RankState state;
  std::string reason;
  std::uint64_t bad_checkpoint = 0;
  std::vector<FlightNote> flight = {};
};
struct RankFinished {
  std::uint32_t rank = 0;
  std::int64_t step = 0;
  FinishCause cause = FinishCause::kDone;
};
struct SnapshotSealed {
  std::uint32_t rank = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::uint8_t slot_index = 0;
  std::string table;
  std::vector<std::uint32_t> writes;
  std::uint64_t replicated_bytes = 0;
};
struct ShardWritten {
  std::uint32_t rank = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::uint64_t checkpoint_id = 0;
  std::string shard;
  std::uint64_t bytes = 0;
  double seconds = 0;
  std::string digest;
};
struct ShardFailed {
  std::uint32_t rank = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::uint64_t checkpoint_id = 0;
  std::string error;
};
struct ShardHash {
  std::uint32_t rank = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  std::string hash;
};
struct Pace {
  double busy_seconds = 0;
};
struct Leaving {
  std::string reason;
};
struct DeviceReport {
  std::int32_t rank = -1;
  DeviceTrouble trouble = DeviceTrouble::kFault;
  std::string text;
  bool ends = false;  ///< the worker waits for shutdown
};
struct RendezvousValue {
  std::uint64_t generation = 0;
  std::string key;
  std::string value;
};
struct Welcome {};
struct SpawnWorker {};
struct KillWorker {
  std::string reason;
};
struct PlanFor {
  std::uint32_t rank = 0;
  Plan plan;
  std::string config;
};
struct Abort {
  std::uint64_t generation = 0;
  std::int64_t counted_step = 0;
  std::string reason;
};
struct Command {
  WorkerCommand command;
};
struct ReportAck {
  std::uint64_t branch = 0;
  std::int64_t step = 0;
};
struct CheckpointClosed {
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  bool committed = false;
};
struct Shutdown {
  std::string reason;
};

using Body =
    std::variant<AgentHello, Heartbeat, WorkerUp, WorkerExited, RankFormed, StepDone, RankStopped,
                 RankFinished, SnapshotSealed, ShardWritten, ShardFailed, RendezvousValue, Welcome,
                 SpawnWorker, KillWorker, PlanFor, Abort, Command, ReportAck, CheckpointClosed,
                 Shutdown, JoinRequest, Admitted, ShardHash, Leaving, Pace, DeviceReport>;

/// One control message with its fences.
struct Message {
  std::string run_id;
  std::uint64_t term = 0;
  std::uint64_t generation = 0;
  std::uint32_t agent = 0;
  std::uint64_t agent_incarnation = 0;
  std::uint32_t slot = 0;
  std::uint64_t worker_incarnation = 0;
  Body body;
};

/// The frame: a Cap'n Proto flat message (segment table included). At most 64 MiB.
std::string encode(const Message& message);

/// kDataLoss for anything that is not a well-formed Envelope; kUnsupported for a member this
/// version does not know.
Result<Message> decode(std::span<const std::byte> frame);

/// The name of the member a body holds, such as "stepDone", for logs.
std::string_view body_name(const Body& body);

/// Digest of everything in a plan: ranks compare it before the first step of a generation.
Hash128 plan_digest(const Plan& plan);

}  // namespace tenax::wire
