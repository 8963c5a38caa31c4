#include "wire/message.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "wire/protocol.capnp.h"
#include "wire/value_codec.h"

namespace tenax::wire {

namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

void write_body(schema::Envelope::Builder e, const Body& body) {
  std::visit(Overloaded{[&](const AgentHello& m) {
                          auto b = e.initAgentHello();
                          b.setPid(m.pid);
                          b.setHost(m.host);
                          b.setNumSlots(m.num_slots);
                          auto list = b.initWorkers(m.workers.size());
                          for (std::size_t i = 0; i < m.workers.size(); ++i) {
                            list[i].setSlot(m.workers[i].slot);
                            list[i].setIncarnation(m.workers[i].incarnation);
                            list[i].setPid(m.workers[i].pid);
                            list[i].setRank(m.workers[i].rank);
                            list[i].setGeneration(m.workers[i].generation);
                            list[i].setTraining(m.workers[i].training);
                            list[i].setUp(m.workers[i].up);
                          }
                        },
                        [&](const Heartbeat& m) {
                          auto b = e.initHeartbeat();
                          b.setSequence(m.sequence);
                          auto list = b.initPaces(m.paces.size());
                          for (std::size_t i = 0; i < m.paces.size(); ++i) {
                            list[i].setRank(m.paces[i].rank);
                            list[i].setBusySeconds(m.paces[i].busy_seconds);
                            list[i].setPastSeconds(m.paces[i].past_seconds);
                            list[i].setSteps(m.paces[i].steps);
                          }
                        },
                        [&](const WorkerUp& m) { e.initWorkerUp().setPid(m.pid); },
                        [&](const WorkerExited& m) {
                          auto b = e.initWorkerExited();
                          b.setPid(m.pid);
                          b.setStatus(m.status);
                          b.setExpected(m.expected);
                          b.setLogTail(m.log_tail);
                        },
                        [&](const RankFormed& m) {
                          auto b = e.initRankFormed();
                          b.setRank(m.rank);
                          b.setStep(m.step);
                          b.setSource(m.source);
                          b.setSeconds(m.seconds);
                          b.setRestoreSeconds(m.restore_seconds);
                          b.setRejected(m.rejected);
                          auto tiers = b.initTiers(static_cast<unsigned>(m.bytes.size()));
                          unsigned i = 0;
                          for (const auto& [tier, bytes] : m.bytes) {
                            tiers[i].setName(tier);
                            tiers[i++].setBytes(bytes);
                          }
                        },
                        [&](const StepDone& m) { write(e.initStepDone(), m.report); },
                        [&](const RankStopped& m) {
                          auto b = e.initRankStopped();
                          b.setRank(m.rank);
                          write(b.initState(), m.state);
                          b.setReason(m.reason);
                          b.setBadCheckpoint(m.bad_checkpoint);
                          auto list = b.initFlight(m.flight.size());
                          for (std::size_t i = 0; i < m.flight.size(); ++i) {
                            list[i].setSequence(m.flight[i].sequence);
                            list[i].setOperation(m.flight[i].operation);
                            list[i].setWithin(m.flight[i].within);
                            list[i].setPeer(m.flight[i].peer);
                            list[i].setBytes(m.flight[i].bytes);
                            list[i].setState(m.flight[i].state);
                            list[i].setSeconds(m.flight[i].seconds);
                          }
                        },
                        [&](const RankFinished& m) {
                          auto b = e.initRankFinished();
                          b.setRank(m.rank);
                          b.setStep(m.step);
                          b.setCause(static_cast<std::uint8_t>(m.cause));
                        },
                        [&](const SnapshotSealed& m) {
                          auto b = e.initSnapshotSealed();
                          b.setRank(m.rank);
                          b.setBranch(m.branch);
                          b.setStep(m.step);
                          b.setSlotIndex(m.slot_index);
                          b.setTable(as_data(m.table));
                          auto list = b.initWrites(m.writes.size());
                          for (std::size_t i = 0; i < m.writes.size(); ++i)
                            list.set(i, m.writes[i]);
                          b.setReplicatedBytes(m.replicated_bytes);
                        },
                        [&](const ShardWritten& m) {
                          auto b = e.initShardWritten();
                          b.setRank(m.rank);
                          b.setBranch(m.branch);
                          b.setStep(m.step);
                          b.setCheckpointId(m.checkpoint_id);
                          b.setShard(as_data(m.shard));
                          b.setBytes(m.bytes);
                          b.setSeconds(m.seconds);
                          b.setDigest(m.digest);
                        },
                        [&](const ShardFailed& m) {
                          auto b = e.initShardFailed();
                          b.setRank(m.rank);
                          b.setBranch(m.branch);
                          b.setStep(m.step);
                          b.setCheckpointId(m.checkpoint_id);
                          b.setError(m.error);
                        },
                        [&](const RendezvousValue& m) {
                          auto b = e.initRendezvous();
                          b.setGeneration(m.generation);
                          b.setKey(m.key);
                          b.setValue(as_data(m.value));
                        },
                        [&](const Welcome&) { e.setWelcome(); },
                        [&](const SpawnWorker&) { e.setSpawnWorker(); },
                        [&](const KillWorker& m) { e.setKillWorker(m.reason); },
                        [&](const PlanFor& m) {
                          auto b = e.initPlanFor();
                          b.setRank(m.rank);
                          write(b.initPlan(), m.plan);
                          b.setConfig(m.config);
                        },
                        [&](const Abort& m) {
                          auto b = e.initAbort();
                          b.setGeneration(m.generation);
                          b.setCountedStep(m.counted_step);
                          b.setReason(m.reason);
                        },
                        [&](const Command& m) {
                          auto b = e.initWorkerCommand();
                          b.setNumber(m.command.number);
                          b.setKind(static_cast<std::uint8_t>(m.command.kind));
                        },
                        [&](const ReportAck& m) {
                          auto b = e.initReportAck();
                          b.setBranch(m.branch);
                          b.setStep(m.step);
                        },
                        [&](const CheckpointClosed& m) {
                          auto b = e.initCheckpointClosed();
                          b.setBranch(m.branch);
                          b.setStep(m.step);
                          b.setCommitted(m.committed);
                        },
                        [&](const Shutdown& m) { e.setShutdown(m.reason); },
                        [&](const JoinRequest& m) {
                          auto b = e.initJoinRequest();
                          b.setToken(m.token);
                          b.setPid(m.pid);
                          b.setHost(m.host);
                          b.setNumSlots(m.num_slots);
                        },
                        [&](const Admitted& m) {
                          auto b = e.initAdmitted();
                          b.setToken(m.token);
                          b.setRefusal(m.refusal);
                        },
                        [&](const ShardHash& m) {
                          auto b = e.initShardHash();
                          b.setRank(m.rank);
                          b.setBranch(m.branch);
                          b.setStep(m.step);
                          b.setHash(m.hash);
                        },
                        [&](const Leaving& m) { e.setLeaving(m.reason); },
                        [&](const Pace& m) { e.setPace(m.busy_seconds); },
                        [&](const DeviceReport& m) {
                          auto b = e.initDeviceReport();
                          b.setRank(m.rank);
                          b.setTrouble(static_cast<std::uint8_t>(m.trouble));
                          b.setText(m.text);
                          b.setEnds(m.ends);
                        }},
             body);
}

Result<Body> read_body(schema::Envelope::Reader e) {
  using E = schema::Envelope;
  switch (e.which()) {
    case E::AGENT_HELLO: {
      auto b = e.getAgentHello();
      AgentHello m{b.getPid(), text(b.getHost()), b.getNumSlots(), {}};
      for (auto w : b.getWorkers()) {
        m.workers.push_back({w.getSlot(), w.getIncarnation(), w.getPid(), w.getRank(),
                             w.getGeneration(), w.getTraining(), w.getUp()});
      }
      return Body(std::move(m));
    }
    case E::HEARTBEAT: {
      auto b = e.getHeartbeat();
      Heartbeat m{b.getSequence(), {}};
      for (auto p : b.getPaces())
        m.paces.push_back({p.getRank(), p.getBusySeconds(), p.getPastSeconds(), p.getSteps()});
      return Body(std::move(m));
    }
    case E::WORKER_UP:
      return Body(WorkerUp{e.getWorkerUp().getPid()});
    case E::WORKER_EXITED: {
      auto b = e.getWorkerExited();
      return Body(
          WorkerExited{b.getPid(), text(b.getStatus()), b.getExpected(), text(b.getLogTail())});
    }
    case E::RANK_FORMED: {
      auto b = e.getRankFormed();
      RankFormed m{
          b.getRank(), b.getStep(), text(b.getSource()), b.getSeconds(), b.getRestoreSeconds(),
          {},          {}};
      for (auto tier : b.getTiers()) m.bytes[text(tier.getName())] = tier.getBytes();
      m.rejected = text(b.getRejected());
      return Body(std::move(m));
    }
    case E::STEP_DONE:
      return Body(StepDone{read(e.getStepDone())});
    case E::RANK_STOPPED: {
      auto b = e.getRankStopped();
      RankStopped m{b.getRank(), read(b.getState()), text(b.getReason()), b.getBadCheckpoint(), {}};
      for (auto f : b.getFlight()) {
        m.flight.push_back({f.getSequence(), text(f.getOperation()), text(f.getWithin()),
                            f.getPeer(), f.getBytes(), text(f.getState()), f.getSeconds()});
      }
      return Body(std::move(m));
    }
    case E::RANK_FINISHED: {
      auto b = e.getRankFinished();
      return Body(RankFinished{b.getRank(), b.getStep(), static_cast<FinishCause>(b.getCause())});
    }
    case E::SNAPSHOT_SEALED: {
      auto b = e.getSnapshotSealed();
      SnapshotSealed m{b.getRank(),           b.getBranch(),       b.getStep(),
                       b.getSlotIndex(),      bytes(b.getTable()), {},
                       b.getReplicatedBytes()};
      for (auto w : b.getWrites()) m.writes.push_back(w);
      return Body(std::move(m));
    }
    case E::SHARD_WRITTEN: {
      auto b = e.getShardWritten();
      return Body(ShardWritten{b.getRank(), b.getBranch(), b.getStep(), b.getCheckpointId(),
                               bytes(b.getShard()), b.getBytes(), b.getSeconds(),
                               text(b.getDigest())});
    }
    case E::SHARD_FAILED: {
      auto b = e.getShardFailed();
      return Body(ShardFailed{b.getRank(), b.getBranch(), b.getStep(), b.getCheckpointId(),
                              text(b.getError())});
    }
    case E::RENDEZVOUS: {
      auto b = e.getRendezvous();
      return Body(RendezvousValue{b.getGeneration(), text(b.getKey()), bytes(b.getValue())});
    }
    case E::WELCOME:
      return Body(Welcome{});
    case E::SPAWN_WORKER:
      return Body(SpawnWorker{});
    case E::KILL_WORKER:
      return Body(KillWorker{text(e.getKillWorker())});
    case E::PLAN_FOR: {
      auto b = e.getPlanFor();
      return Body(PlanFor{b.getRank(), read(b.getPlan()), text(b.getConfig())});
    }
    case E::ABORT: {
      auto b = e.getAbort();
      return Body(Abort{b.getGeneration(), b.getCountedStep(), text(b.getReason())});
    }
    case E::WORKER_COMMAND: {
      auto b = e.getWorkerCommand();
      return Body(Command{{b.getNumber(), static_cast<WorkerCommandKind>(b.getKind())}});
    }
    case E::REPORT_ACK: {
      auto b = e.getReportAck();
      return Body(ReportAck{b.getBranch(), b.getStep()});
    }
    case E::CHECKPOINT_CLOSED: {
      auto b = e.getCheckpointClosed();
      return Body(CheckpointClosed{b.getBranch(), b.getStep(), b.getCommitted()});
    }
    case E::SHUTDOWN:
      return Body(Shutdown{text(e.getShutdown())});
    case E::JOIN_REQUEST: {
      auto b = e.getJoinRequest();
      return Body(JoinRequest{text(b.getToken()), b.getPid(), text(b.getHost()), b.getNumSlots()});
    }
    case E::ADMITTED: {
      auto b = e.getAdmitted();
      return Body(Admitted{text(b.getToken()), text(b.getRefusal())});
    }
    case E::PACE:
      return Body(Pace{e.getPace()});
    case E::DEVICE_REPORT: {
      auto b = e.getDeviceReport();
      return Body(DeviceReport{b.getRank(), static_cast<DeviceTrouble>(b.getTrouble()),
                               text(b.getText()), b.getEnds()});
    }
    case E::LEAVING:
      return Body(Leaving{text(e.getLeaving())});
    case E::SHARD_HASH: {
      auto b = e.getShardHash();
      return Body(ShardHash{b.getRank(), b.getBranch(), b.getStep(), text(b.getHash())});
    }
  }
  return make_error(ErrorCode::kUnsupported,
                    fmt::format("message kind {} is not known to this version",
                                static_cast<unsigned>(e.which())));
}

std::string flat(capnp::MessageBuilder& builder) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  const auto b = words.asBytes();
  return {reinterpret_cast<const char*>(b.begin()), b.size()};
}

}  // namespace

std::string encode(const Message& message) {
  capnp::MallocMessageBuilder builder;
  auto e = builder.initRoot<schema::Envelope>();
  e.setRunId(message.run_id);
  e.setTerm(message.term);
  e.setGeneration(message.generation);
  e.setAgent(message.agent);
  e.setAgentIncarnation(message.agent_incarnation);
  e.setSlot(message.slot);
  e.setWorkerIncarnation(message.worker_incarnation);
  write_body(e, message.body);
  return flat(builder);
}

Result<Message> decode(std::span<const std::byte> frame) {
  // Received frames are not aligned to words, so the bytes are copied once.
  if (frame.empty() || frame.size() % sizeof(capnp::word) != 0) {
    return make_error(
        ErrorCode::kDataLoss,
        fmt::format("control frame of {} bytes is not a whole number of words", frame.size()));
  }
  auto words = kj::heapArray<capnp::word>(frame.size() / sizeof(capnp::word));
  std::memcpy(words.asBytes().begin(), frame.data(), frame.size());
  try {
    capnp::FlatArrayMessageReader reader(words);
    auto e = reader.getRoot<schema::Envelope>();
    TENAX_TRY(Body body, read_body(e));
    return Message{text(e.getRunId()),      e.getTerm(), e.getGeneration(),        e.getAgent(),
                   e.getAgentIncarnation(), e.getSlot(), e.getWorkerIncarnation(), std::move(body)};
  } catch (const kj::Exception& e) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("control frame of {} bytes is malformed: {}", frame.size(),
                                  std::string(e.getDescription().cStr())));
  }
}

std::string_view body_name(const Body& body) {
  static constexpr std::array<std::string_view, std::variant_size_v<Body>> kNames = {
      "agentHello",  "heartbeat",   "workerUp",      "workerExited",   "rankFormed",
      "stepDone",    "rankStopped", "rankFinished",  "snapshotSealed", "shardWritten",
      "shardFailed", "rendezvous",  "welcome",       "spawnWorker",    "killWorker",
      "planFor",     "abort",       "workerCommand", "reportAck",      "checkpointClosed",
      "shutdown",    "joinRequest", "admitted",      "shardHash",      "leaving",
      "pace",        "deviceReport"};
  return kNames[body.index()];
}

Hash128 plan_digest(const Plan& plan) {
  capnp::MallocMessageBuilder builder;
  write(builder.initRoot<schema::Plan>(), plan);
  return hash128(flat(builder));
}

}  // namespace tenax::wire
