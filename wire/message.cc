#include "wire/message.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "wire/protocol.capnp.h"

namespace tenax::wire {

namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

std::string text(capnp::Text::Reader t) { return {t.begin(), t.size()}; }
std::string bytes(capnp::Data::Reader d) {
  return {reinterpret_cast<const char*>(d.begin()), d.size()};
}
capnp::Data::Reader as_data(const std::string& s) {
  return {reinterpret_cast<const capnp::byte*>(s.data()), s.size()};
}

void write(schema::StepReport::Builder b, const StepReport& r) {
  b.setBranch(r.branch);
  b.setStep(r.step);
  b.setLoss(r.loss);
  b.setGradNorm(r.grad_norm);
  b.setLearningRate(r.learning_rate);
  b.setTokens(r.tokens);
  b.setPositionBegin(r.position_begin);
  b.setPositionEnd(r.position_end);
  b.setUpdate(static_cast<std::uint8_t>(r.update));
  b.setHasEval(r.has_eval);
  b.setEvalLoss(r.eval_loss);
  b.setSeconds(r.seconds);
  b.setClipNorm(r.clip_norm);
  b.setHeld(static_cast<std::uint8_t>(r.held));
  b.setSuspectRank(r.suspect_rank);
  auto losses = b.initReplicaLosses(r.replica_losses.size());
  for (std::size_t i = 0; i < r.replica_losses.size(); ++i) losses.set(i, r.replica_losses[i]);
}

StepReport read(schema::StepReport::Reader b) {
  StepReport r;
  r.branch = b.getBranch();
  r.step = b.getStep();
  r.loss = b.getLoss();
  r.grad_norm = b.getGradNorm();
  r.learning_rate = b.getLearningRate();
  r.tokens = b.getTokens();
  r.position_begin = b.getPositionBegin();
  r.position_end = b.getPositionEnd();
  r.update = static_cast<UpdateKind>(b.getUpdate());
  r.has_eval = b.getHasEval();
  r.eval_loss = b.getEvalLoss();
  r.seconds = b.getSeconds();
  r.clip_norm = b.getClipNorm();
  r.held = static_cast<HoldOutcome>(b.getHeld());
  r.suspect_rank = b.getSuspectRank();
  for (const double loss : b.getReplicaLosses()) r.replica_losses.push_back(loss);
  return r;
}

void write(schema::GuardState::Builder b, const GuardState& s) {
  b.setSamples(s.samples);
  b.setNormLevel(s.norm_level);
  b.setNormMean(s.norm_mean);
  b.setNormVariance(s.norm_variance);
  b.setQuietUntil(s.quiet_until);
}

GuardState read(schema::GuardState::Reader b) {
  return {b.getSamples(), b.getNormLevel(), b.getNormMean(), b.getNormVariance(),
          b.getQuietUntil()};
}

void write(schema::RankState::Builder b, const RankState& s) {
  b.setHasWeights(s.has_weights);
  b.setBranch(s.branch);
  b.setLastApplied(s.last_applied);
  b.setGradientsReady(s.gradients_ready);
  b.setVerdictKnown(s.verdict_known);
  write(b.initVerdict(), s.verdict);
  auto list = b.initReports(s.reports.size());
  for (std::size_t i = 0; i < s.reports.size(); ++i) write(list[i], s.reports[i]);
  b.setRank(s.rank);
  b.setDp(s.degrees.dp);
  b.setTp(s.degrees.tp);
  b.setPp(s.degrees.pp);
}

RankState read(schema::RankState::Reader b) {
  RankState s;
  s.has_weights = b.getHasWeights();
  s.branch = b.getBranch();
  s.last_applied = b.getLastApplied();
  s.gradients_ready = b.getGradientsReady();
  s.verdict_known = b.getVerdictKnown();
  s.verdict = read(b.getVerdict());
  for (auto r : b.getReports()) s.reports.push_back(read(r));
  s.rank = b.getRank();
  s.degrees = {static_cast<int>(b.getDp()), static_cast<int>(b.getTp()),
               static_cast<int>(b.getPp())};
  return s;
}

void write(schema::Plan::Builder b, const Plan& p) {
  b.setGeneration(p.generation);
  b.setBranch(p.branch);
  b.setStep(p.step);
  b.setTotalSteps(p.total_steps);
  b.setDp(p.degrees.dp);
  b.setTp(p.degrees.tp);
  b.setPp(p.degrees.pp);
  auto sources = b.initSources(p.sources.size());
  for (std::size_t i = 0; i < p.sources.size(); ++i) {
    sources[i].setKind(static_cast<std::uint8_t>(p.sources[i].kind));
    sources[i].setPeer(p.sources[i].peer);
  }
  b.setCheckpointId(p.checkpoint_id);
  b.setCheckpointBranch(p.checkpoint_branch);
  b.setHasHalfStep(p.has_half_step);
  write(b.initHalfStep(), p.half_step);
  auto windows = b.initSkipWindows(p.skip_windows.size());
  for (std::size_t i = 0; i < p.skip_windows.size(); ++i) {
    windows[i].setBegin(p.skip_windows[i].begin);
    windows[i].setEnd(p.skip_windows[i].end);
  }
  auto softenings = b.initSoftenings(p.softenings.size());
  for (std::size_t i = 0; i < p.softenings.size(); ++i) {
    softenings[i].setFirst(p.softenings[i].first);
    softenings[i].setLast(p.softenings[i].last);
    softenings[i].setFactor(p.softenings[i].factor);
  }
  write(b.initGuard(), p.guard);
}

Plan read(schema::Plan::Reader b) {
  Plan p;
  p.generation = b.getGeneration();
  p.branch = b.getBranch();
  p.step = b.getStep();
  p.total_steps = b.getTotalSteps();
  p.degrees = {static_cast<int>(b.getDp()), static_cast<int>(b.getTp()),
               static_cast<int>(b.getPp())};
  for (auto s : b.getSources()) {
    p.sources.push_back({static_cast<SourceKind>(s.getKind()), s.getPeer()});
  }
  p.checkpoint_id = b.getCheckpointId();
  p.checkpoint_branch = b.getCheckpointBranch();
  p.has_half_step = b.getHasHalfStep();
  p.half_step = read(b.getHalfStep());
  for (auto w : b.getSkipWindows()) p.skip_windows.push_back({w.getBegin(), w.getEnd()});
  for (auto s : b.getSoftenings()) {
    p.softenings.push_back({s.getFirst(), s.getLast(), s.getFactor()});
  }
  p.guard = read(b.getGuard());
  return p;
}

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
                        [&](const Pace& m) { e.setPace(m.busy_seconds); }},
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
                             w.getGeneration(), w.getTraining()});
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
      "pace"};
  return kNames[body.index()];
}

Hash128 plan_digest(const Plan& plan) {
  capnp::MallocMessageBuilder builder;
  write(builder.initRoot<schema::Plan>(), plan);
  return hash128(flat(builder));
}

}  // namespace tenax::wire
