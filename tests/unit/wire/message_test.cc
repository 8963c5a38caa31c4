#include "wire/message.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace tenax::wire {
namespace {

std::span<const std::byte> bytes_of(const std::string& s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

StepReport report(std::int64_t step) {
  StepReport r;
  r.branch = 1;
  r.step = step;
  r.loss = 2.5;
  r.grad_norm = std::numeric_limits<double>::infinity();
  r.learning_rate = 1e-4;
  r.tokens = 7;
  r.position_begin = 8;
  r.position_end = 9;
  r.update = UpdateKind::kSkippedNonFinite;
  r.eval_loss = 0.5;
  r.has_eval = true;
  r.seconds = 0.25;
  r.snapshot_seconds = 0.125;
  return r;
}

Plan plan() {
  return {3,
          2,
          11,
          100,
          {2, 1, 3},
          {{SourceKind::kMemory, -1}, {SourceKind::kPeer, 0}, {SourceKind::kCheckpoint, -1}},
          77,
          1,
          true,
          report(11),
          {{4, 8}, {20, 30}},
          {{1, 5, 0.5}},
          {9, 0.5, 0.25, 0.125, 40}};
}

std::vector<Message> one_of_each() {
  RankState held;
  held.has_weights = true;
  held.branch = 2;
  held.last_applied = 11;
  held.gradients_ready = 12;
  held.verdict_known = true;
  held.verdict = report(12);
  held.reports = {report(10), report(11)};
  held.rank = 3;
  held.degrees = {2, 1, 2};
  const std::vector<Body> bodies = {
      AgentHello{1, "host", 2, {{0, 5, 6, -1, 0, false, false}, {1, 7, 8, 3, 9, true}}},
      Heartbeat{5, {{1, 0.25, 0.5, 40}}},
      WorkerUp{4},
      WorkerExited{4, "killed", true},
      RankFormed{1, 3, "memory", 0.5, 0.25, {{"memory", 12}, {"store", 5}}, "a slot"},
      StepDone{report(5)},
      RankStopped{-1, held, "abort", 9},
      RankFinished{1, 3, FinishCause::kStopped},
      SnapshotSealed{1, 2, 3, 1, std::string("table\0bytes", 11), {0, 3, 5}, 4096},
      ShardWritten{1, 2, 3, 4, std::string("\0\xff shard", 8), 6, 0.5, "digest"},
      ShardFailed{1, 2, 3, 4, "disk full"},
      RendezvousValue{3, "key", std::string("\0value", 6)},
      Welcome{},
      SpawnWorker{},
      KillWorker{"why"},
      PlanFor{2, plan(), "config = 1"},
      Abort{3, 11, "why"},
      Command{{4, WorkerCommandKind::kSnapshot}},
      ReportAck{1, 11},
      CheckpointClosed{1, 5, true},
      Shutdown{"why"},
      JoinRequest{"token", 7, "host", 2},
      Admitted{"token", "why not"},
      ShardHash{1, 2, 3, "hash"},
      Leaving{"why"},
      Pace{0.25},
      DeviceReport{3, DeviceTrouble::kHealth, "GPU 0: Xid 79", true}};
  std::vector<Message> messages;
  for (const Body& body : bodies) messages.push_back({"run", 1, 2, 3, 4, 5, 6, body});
  return messages;
}

TEST(Message, EveryBodySurvivesTheWire) {
  const auto messages = one_of_each();
  ASSERT_EQ(messages.size(), std::variant_size_v<Body>);
  for (const Message& m : messages) {
    const std::string frame = encode(m);
    const auto read = decode(bytes_of(frame));
    ASSERT_TRUE(read) << body_name(m.body) << ": " << read.error().message;
    EXPECT_EQ(read->body.index(), m.body.index());
    EXPECT_EQ(encode(*read), frame) << body_name(m.body);
    EXPECT_EQ(read->run_id, "run");
    EXPECT_EQ(read->term, 1u);
    EXPECT_EQ(read->generation, 2u);
    EXPECT_EQ(read->agent, 3u);
    EXPECT_EQ(read->agent_incarnation, 4u);
    EXPECT_EQ(read->slot, 5u);
    EXPECT_EQ(read->worker_incarnation, 6u);
  }
}

TEST(Message, ValuesOfTheLargeBodiesAreAllThere) {
  const auto messages = one_of_each();
  const auto stopped = std::get<RankStopped>(decode(bytes_of(encode(messages[6])))->body);
  EXPECT_EQ(stopped.rank, -1);
  EXPECT_EQ(stopped.bad_checkpoint, 9u);
  EXPECT_EQ(stopped.state.gradients_ready, 12);
  EXPECT_TRUE(stopped.state.verdict_known);
  EXPECT_EQ(stopped.state.rank, 3);
  EXPECT_EQ(stopped.state.degrees, (Degrees{2, 1, 2}));
  ASSERT_EQ(stopped.state.reports.size(), 2u);
  const StepReport r = stopped.state.reports[1];
  EXPECT_EQ(r.step, 11);
  EXPECT_EQ(r.loss, 2.5);
  EXPECT_TRUE(std::isinf(r.grad_norm));
  EXPECT_EQ(r.update, UpdateKind::kSkippedNonFinite);
  EXPECT_EQ(r.position_begin, 8);
  EXPECT_EQ(r.position_end, 9);
  EXPECT_TRUE(r.has_eval);
  EXPECT_EQ(r.eval_loss, 0.5);
  EXPECT_EQ(r.snapshot_seconds, 0.125);
  const auto p = std::get<PlanFor>(decode(bytes_of(encode(messages[15])))->body).plan;
  EXPECT_EQ(p.sources, plan().sources);
  EXPECT_EQ(p.degrees, plan().degrees);
  EXPECT_EQ(p.skip_windows, plan().skip_windows);
  EXPECT_EQ(p.softenings, plan().softenings);
  EXPECT_EQ(p.guard, plan().guard);
  EXPECT_EQ(p.checkpoint_id, 77u);
  EXPECT_EQ(p.checkpoint_branch, 1u);
  EXPECT_TRUE(p.has_half_step);
  EXPECT_EQ(p.half_step.step, 11);
  EXPECT_EQ(p.total_steps, 100);
  const auto sealed = std::get<SnapshotSealed>(decode(bytes_of(encode(messages[8])))->body);
  EXPECT_EQ(sealed.table, std::string("table\0bytes", 11));
  EXPECT_EQ(sealed.writes, (std::vector<std::uint32_t>{0, 3, 5}));
}

TEST(Message, WhatTheGuardDidIsInTheReport) {
  StepReport r = report(7);
  r.update = UpdateKind::kSkippedOutlier;
  r.clip_norm = 0.75;
  r.held = HoldOutcome::kDiffered;
  r.suspect_rank = 3;
  r.replica_losses = {2.25, 2.75};
  const Message message{"run", 1, 2, 3, 4, 5, 6, StepDone{r}};
  const StepReport read = std::get<StepDone>(decode(bytes_of(encode(message)))->body).report;
  EXPECT_EQ(read.update, r.update);
  EXPECT_EQ(read.clip_norm, r.clip_norm);
  EXPECT_EQ(read.held, r.held);
  EXPECT_EQ(read.suspect_rank, r.suspect_rank);
  EXPECT_EQ(read.replica_losses, r.replica_losses);
}

TEST(Message, DamagedFramesAreNeverMoreThanAnError) {
  std::mt19937_64 rng(1);
  for (const Message& m : one_of_each()) {
    const std::string frame = encode(m);
    for (std::size_t n = 0; n < frame.size(); ++n) {
      static_cast<void>(decode(bytes_of(frame.substr(0, n))));
      for (int bit = 0; bit < 8; ++bit) {
        std::string flipped = frame;
        flipped[n] = static_cast<char>(flipped[n] ^ (1 << bit));
        static_cast<void>(decode(bytes_of(flipped)));
      }
    }
  }
  for (int round = 0; round < 20000; ++round) {
    std::string noise(rng() % 200, '\0');
    for (char& c : noise) c = static_cast<char>(rng() % 4 == 0 ? rng() : 0);
    static_cast<void>(decode(bytes_of(noise)));
  }
}

TEST(Message, AnEmptyOrUnalignedFrameIsDataLoss) {
  EXPECT_EQ(decode({}).error().code, ErrorCode::kDataLoss);
  EXPECT_EQ(decode(bytes_of("123")).error().code, ErrorCode::kDataLoss);
}

TEST(Message, TheDigestOfAPlanSeesEveryPart) {
  const Hash128 digest = plan_digest(plan());
  EXPECT_EQ(plan_digest(plan()), digest);
  std::vector<Plan> changed(9, plan());
  changed[0].step += 1;
  changed[1].sources[1].peer = 2;
  changed[2].skip_windows.pop_back();
  changed[3].softenings[0].factor = 0.25;
  changed[4].half_step.loss = 2.6;
  changed[5].branch += 1;
  changed[6].generation += 1;
  changed[7].total_steps += 1;
  changed[8].guard.norm_level += 0.01;
  for (const Plan& p : changed) EXPECT_NE(plan_digest(p), digest);
}

}  // namespace
}  // namespace tenax::wire
