#include <gtest/gtest.h>

#include "actors/event_codec.h"
#include "actors/shard_codec.h"

namespace tenax::actors {
namespace {

wire::Message message(wire::Body body) { return {"run", 1, 2, 3, 4, 5, 6, std::move(body)}; }

template <class T>
T event_of(wire::Body body) {
  return std::get<T>(to_event(message(std::move(body))).value());
}

TEST(EventCodec, TheFencesOfTheEnvelopeGoIntoTheEvent) {
  const auto up = event_of<scheduler::WorkerUp>(wire::WorkerUp{9});
  EXPECT_EQ(up.agent, 3u);
  EXPECT_EQ(up.slot, 5u);
  EXPECT_EQ(up.incarnation, 6u);
  EXPECT_EQ(up.pid, 9u);
  const auto joined =
      event_of<scheduler::AgentJoined>(wire::AgentHello{8, "host", 1, {{1, 7, 8, 3, 9, true}}});
  EXPECT_EQ(joined.incarnation, 4u);
  ASSERT_EQ(joined.workers.size(), 1u);
  EXPECT_EQ(joined.workers[0].incarnation, 7u);
  EXPECT_EQ(joined.workers[0].generation, 9u);
  EXPECT_TRUE(joined.workers[0].training);
  StepReport report;
  report.step = 12;
  EXPECT_EQ(event_of<scheduler::StepReported>(wire::StepDone{report}).generation, 2u);
  const auto stopped =
      event_of<scheduler::RankStopped>(wire::RankStopped{1, RankState{}, "why", 77});
  EXPECT_EQ(stopped.generation, 2u);
  EXPECT_EQ(stopped.bad_checkpoint, 77u);
  EXPECT_EQ(stopped.worker, 6u);
  const auto device = event_of<scheduler::DeviceReported>(
      wire::DeviceReport{1, DeviceTrouble::kOutOfMemory, "GPU 0", true});
  EXPECT_EQ(device.agent, 3u);
  EXPECT_EQ(device.slot, 5u);
  EXPECT_EQ(device.incarnation, 6u);
  EXPECT_EQ(device.trouble, DeviceTrouble::kOutOfMemory);
  EXPECT_EQ(device.text, "GPU 0");
  EXPECT_TRUE(device.ends);
  const auto asked = event_of<scheduler::AgentAsked>(wire::JoinRequest{"token", 7, "host", 2});
  EXPECT_EQ(asked.token, "token");
  EXPECT_EQ(asked.num_slots, 2u);
  const auto written =
      event_of<scheduler::ShardWritten>(wire::ShardWritten{1, 10, 11, 12, "", 13, 0.5, "digest"});
  EXPECT_EQ(written.branch, 10u);
  EXPECT_EQ(written.step, 11);
  EXPECT_EQ(written.checkpoint_id, 12u);
  EXPECT_EQ(written.bytes, 13u);
  EXPECT_EQ(written.digest, "digest");
}

TEST(EventCodec, WhatASupervisorSaysIsNoEvent) {
  for (const wire::Body& body : std::initializer_list<wire::Body>{
           wire::Heartbeat{}, wire::Welcome{}, wire::SpawnWorker{}, wire::KillWorker{},
           wire::PlanFor{}, wire::Abort{}, wire::Command{}, wire::ReportAck{},
           wire::CheckpointClosed{}, wire::Shutdown{}, wire::RendezvousValue{},
           wire::SnapshotSealed{}}) {
    EXPECT_FALSE(to_event(message(body))) << wire::body_name(body);
  }
}

checkpoint::ShardFiles files() {
  checkpoint::ShardFiles f;
  f.chunk_bytes = 4096;
  f.files.push_back({"/staging/1-r0-0.chunks", "1-r0-0.chunks", 123, 4});
  checkpoint::StoredShard shard;
  shard.shard.name = "token_embedding";
  shard.shard.kind = "parameter";
  shard.shard.global_shape = {4, 8};
  shard.shard.box = {{0, 0}, {4, 8}};
  shard.shard.bytes = 128;
  f.shards.push_back(shard);
  return f;
}

TEST(ShardCodec, FilesAndShardsComeBack) {
  const auto read = decode_shard_files(encode_shard_files(files()));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->chunk_bytes, 4096u);
  ASSERT_EQ(read->files.size(), 1u);
  EXPECT_EQ(read->files[0].path, "/staging/1-r0-0.chunks");
  EXPECT_EQ(read->files[0].name, "1-r0-0.chunks");
  EXPECT_EQ(read->files[0].bytes, 123u);
  EXPECT_EQ(read->files[0].num_chunks, 4u);
  ASSERT_EQ(read->shards.size(), 1u);
  EXPECT_EQ(read->shards[0].shard.name, "token_embedding");
  EXPECT_EQ(read->shards[0].shard.box, files().shards[0].shard.box);
}

TEST(ShardCodec, DamageIsAnErrorAndNeverACrash) {
  const std::string bytes = encode_shard_files(files());
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(decode_shard_files(bytes.substr(0, n)));
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[n] = static_cast<char>(flipped[n] ^ (1 << bit));
      static_cast<void>(decode_shard_files(flipped));
    }
  }
}

}  // namespace
}  // namespace tenax::actors
