#include "compute/cpu/gloo_communicator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <latch>

#include "compute/collectives.h"
#include "tests/support/thread_world.h"

namespace tenax::compute {
namespace {

using namespace std::chrono_literals;
using test::gloo_options;
using test::InMemoryRendezvous;
using test::loopback_device;
using test::run_world;
using Created = Result<std::unique_ptr<Communicator>>;

/// The communicators of all ranks, formed in threads and handed to the caller.
std::vector<std::unique_ptr<Communicator>> form_world(int world_size,
                                                      const std::string& generation = "g") {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  std::vector<std::future<Created>> forming;
  for (int rank = 0; rank < world_size; ++rank) {
    forming.push_back(std::async(std::launch::async, [=] {
      return GlooCommunicator::create(loopback_device(), gloo_options(rank, world_size, generation),
                                      rendezvous);
    }));
  }
  std::vector<std::unique_ptr<Communicator>> world;
  for (auto& future : forming) {
    auto created = future.get();
    EXPECT_TRUE(created) << created.error().message;
    world.push_back(*std::move(created));
  }
  return world;
}

std::size_t count_entries(const char* folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}

TEST(GlooDevice, RefusesNamesAndForeignAddresses) {
  loopback_device();
  for (const char* address : {"", "localhost", "no.such.host.invalid", "192.0.2.1"}) {
    const auto device = GlooDevice::open(address);
    ASSERT_FALSE(device) << address;
    EXPECT_EQ(device.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(GlooDevice, RefusesToRunWithoutSigpipeIgnored) {
  loopback_device();
  signal(SIGPIPE, SIG_DFL);
  const auto device = GlooDevice::open("127.0.0.1");
  signal(SIGPIPE, SIG_IGN);
  ASSERT_FALSE(device);
  EXPECT_NE(device.error().message.find("SIGPIPE"), std::string::npos);
}

TEST(GlooCommunicator, AWorldOfOneNeedsNoPeers) {
  auto world = form_world(1);
  EXPECT_EQ(world[0]->rank(), 0);
  EXPECT_EQ(world[0]->world_size(), 1);
  std::byte byte{};
  for (const int peer : {0, 1, -1}) {
    const auto status = world[0]->recv(peer, 1, {&byte, 1})->wait();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(GlooCommunicator, MessagesMatchByTagAndThenInOrder) {
  run_world(2, [](Communicator& comm) {
    constexpr int kMessages = 20;
    std::vector<int> first(kMessages);
    std::vector<int> second(kMessages);
    std::vector<std::unique_ptr<Transfer>> transfers;
    for (int i = 0; i < kMessages; ++i) {
      if (comm.rank() == 0) {
        first[i] = i;
        second[i] = 1000 + i;
        transfers.push_back(comm.send(1, 7, std::as_bytes(std::span(&first[i], 1))));
        transfers.push_back(comm.send(1, 8, std::as_bytes(std::span(&second[i], 1))));
      } else {
        // The other tag first: tags do not wait for each other.
        transfers.push_back(comm.recv(0, 8, std::as_writable_bytes(std::span(&second[i], 1))));
        transfers.push_back(comm.recv(0, 7, std::as_writable_bytes(std::span(&first[i], 1))));
      }
    }
    for (auto& transfer : transfers) ASSERT_TRUE(transfer->wait());
    for (int i = 0; i < kMessages; ++i) {
      EXPECT_EQ(first[i], i);
      EXPECT_EQ(second[i], 1000 + i);
    }
    const int ranks[] = {0, 1};
    EXPECT_TRUE(barrier(comm, {ranks, comm.rank()}, 9));  // neither leaves before the other has all
  });
}

TEST(GlooCommunicator, EverythingSentArrivesAlthoughTheSenderIsGone) {
  for (int round = 0; round < 20; ++round) {
    auto world = form_world(3);
    std::vector<std::byte> sent(200'000, std::byte{42});
    std::vector<std::byte> received(sent.size());
    auto recv = world[1]->recv(0, 5, received);
    auto send = world[0]->send(1, 5, sent);
    ASSERT_TRUE(send->wait());
    send.reset();
    world[0].reset();
    std::this_thread::sleep_for(1ms);  // lets the break be seen before the wait in some rounds
    const auto status = recv->wait();
    ASSERT_TRUE(status) << status.error().message;
    EXPECT_EQ(received, sent);
    // The others still reach each other.
    std::byte byte{1};
    auto there = world[1]->send(2, 6, {&byte, 1});
    std::byte other{};
    ASSERT_TRUE(world[2]->recv(1, 6, {&other, 1})->wait());
    ASSERT_TRUE(there->wait());
  }
}

TEST(GlooCommunicator, AbortFromAnotherThreadEndsEveryWait) {
  constexpr int kRanks = 4;
  auto world = form_world(kRanks);
  // Rank 3 does not take part; the others wait for it, receiving or with a message too large for
  // the socket's buffers.
  std::latch waiting(kRanks - 1);
  std::vector<std::future<Status>> waits;
  for (int rank = 0; rank < kRanks - 1; ++rank) {
    waits.push_back(std::async(std::launch::async, [&, rank]() -> Status {
      std::vector<std::byte> bytes(64 << 20);
      auto transfer = rank == 1 ? world[rank]->send(3, 1, bytes) : world[rank]->recv(3, 1, bytes);
      waiting.count_down();
      return transfer->wait();
    }));
  }
  waiting.wait();
  std::this_thread::sleep_for(20ms);
  for (int rank = 0; rank < kRanks - 1; ++rank) world[rank]->abort("generation 2 begins");
  for (auto& wait : waits) {
    ASSERT_EQ(wait.wait_for(30s), std::future_status::ready);
    const auto status = wait.get();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kAborted);
    EXPECT_NE(status.error().message.find("generation 2 begins"), std::string::npos);
    EXPECT_NE(status.error().message.find("rank 3"), std::string::npos);
  }
  // Future waits too, with the first reason.
  world[0]->abort("again");
  std::byte byte{};
  const auto later = world[0]->recv(1, 2, {&byte, 1})->wait();
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().code, ErrorCode::kAborted);
  EXPECT_NE(later.error().message.find("generation 2 begins"), std::string::npos);
}

TEST(GlooCommunicator, APeerDestroyedMidTransferIsUnavailable) {
  for (const bool peer_receives : {true, false}) {
    auto world = form_world(2);
    std::vector<std::byte> mine(64 << 20);
    std::vector<std::byte> theirs(64 << 20);
    auto here = peer_receives ? world[0]->send(1, 1, mine) : world[0]->recv(1, 1, mine);
    auto there = peer_receives ? world[1]->recv(0, 1, theirs) : world[1]->send(0, 1, theirs);
    auto waiting = std::async(std::launch::async, [&] { return here->wait(); });
    std::this_thread::sleep_for(2ms);  // some bytes have moved, most have not
    there.reset();
    world[1].reset();
    ASSERT_EQ(waiting.wait_for(30s), std::future_status::ready);
    const auto status = waiting.get();
    if (!status) {
      EXPECT_EQ(status.error().code, ErrorCode::kUnavailable) << status.error().message;
      EXPECT_NE(status.error().message.find("rank 1"), std::string::npos);
    }
    here.reset();
    // A transfer posted later fails as well.
    const auto later = world[0]->recv(1, 9, {mine.data(), 1})->wait();
    EXPECT_FALSE(later);
  }
}

TEST(GlooCommunicator, AHalfReceivedMessageFailsWhenTheSenderGoes) {
  std::vector<std::byte> bytes(256 << 20);
  std::vector<std::byte> sink(bytes.size());
  // A sender that is not scheduled for long may have sent everything before it goes.
  constexpr int kAttempts = 20;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    auto world = form_world(3);
    auto recv = world[0]->recv(1, 1, sink);
    // The sender never waits, so only what fits the socket's buffers is surely sent when it goes.
    auto send = world[1]->send(0, 1, bytes);
    send.reset();
    const auto status = recv->wait();
    if (status) continue;
    EXPECT_EQ(status.error().code, ErrorCode::kUnavailable) << status.error().message;
    return;
  }
  ADD_FAILURE() << "all of it came " << kAttempts << " times";
}

TEST(GlooCommunicator, ASilentPeerIsNamedInTheTimeout) {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  std::vector<std::future<Created>> forming;
  for (int rank = 0; rank < 2; ++rank) {
    forming.push_back(std::async(std::launch::async, [=] {
      auto options = gloo_options(rank, 2, "g");
      options.operation_timeout = 50ms;
      return GlooCommunicator::create(loopback_device(), options, rendezvous);
    }));
  }
  auto first = forming[0].get();
  auto second = forming[1].get();
  ASSERT_TRUE(first && second);
  std::byte bytes[8]{};
  const auto status = (*first)->recv(1, 0x21, bytes)->wait();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kTimeout);
  EXPECT_NE(status.error().message.find("rank 0: recv of 8 bytes from rank 1, tag 0x21"),
            std::string::npos)
      << status.error().message;
}

TEST(GlooCommunicator, DifferentLengthsTimeOutInsteadOfEndingTheProcess) {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  auto rank_main = [&](int rank) {
    auto options = gloo_options(rank, 2, "g");
    options.operation_timeout = 50ms;
    auto comm = GlooCommunicator::create(loopback_device(), options, rendezvous).value();
    std::vector<std::byte> bytes(rank == 0 ? 100 : 10);
    return (rank == 0 ? comm->send(1, 1, bytes) : comm->recv(0, 1, bytes))->wait();
  };
  auto sender = std::async(std::launch::async, rank_main, 0);
  const auto received = rank_main(1);
  const auto sent = sender.get();
  ASSERT_FALSE(received);
  ASSERT_FALSE(sent);
}

TEST(GlooCommunicator, FormingWithoutARankTimesOutAndNamesIt) {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  std::vector<std::future<Created>> forming;
  for (const int rank : {0, 1, 3}) {
    forming.push_back(std::async(std::launch::async, [=] {
      auto options = gloo_options(rank, 4, "g");
      options.form_timeout = 300ms;
      return GlooCommunicator::create(loopback_device(), options, rendezvous);
    }));
  }
  int named = 0;
  for (auto& future : forming) {
    const auto created = future.get();
    ASSERT_FALSE(created);
    EXPECT_TRUE(created.error().code == ErrorCode::kTimeout ||
                created.error().code == ErrorCode::kUnavailable)
        << created.error().message;
    named += created.error().message.find("rank 2 did not publish") != std::string::npos;
  }
  EXPECT_GE(named, 1);
}

TEST(GlooCommunicator, StopEndsTheWaitForARankThatDoesNotPublish) {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  std::stop_source stop;
  auto form = std::async(std::launch::async, [&] {
    return GlooCommunicator::create(loopback_device(), gloo_options(0, 2, "g"), rendezvous,
                                    stop.get_token());
  });
  ASSERT_TRUE(rendezvous->wait("g/0"));
  stop.request_stop();
  ASSERT_EQ(form.wait_for(30s), std::future_status::ready);
  EXPECT_EQ(form.get().error().code, ErrorCode::kAborted);
}

/// Makes rank 0 of 2 wait for a connection from a rank 1 that has published but never connects: of
/// two addresses the one with the higher port connects.
void publish_idle_peer(InMemoryRendezvous& rendezvous) {
  std::string address = rendezvous.wait("g/0")->substr(1);
  address.replace(4, 4, "ffff");
  ASSERT_TRUE(rendezvous.publish("g/1", address + ","));
}

TEST(GlooCommunicator, StopEndsTheWaitForARankThatDoesNotConnect) {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  std::stop_source stop;
  auto form = std::async(std::launch::async, [&] {
    return GlooCommunicator::create(loopback_device(), gloo_options(0, 2, "g"), rendezvous,
                                    stop.get_token());
  });
  publish_idle_peer(*rendezvous);
  EXPECT_EQ(form.wait_for(100ms), std::future_status::timeout);
  stop.request_stop();
  ASSERT_EQ(form.wait_for(30s), std::future_status::ready);
  EXPECT_EQ(form.get().error().code, ErrorCode::kAborted);
}

TEST(GlooCommunicator, ARankThatDoesNotConnectIsNamedInTheTimeout) {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  auto form = std::async(std::launch::async, [&] {
    auto options = gloo_options(0, 2, "g");
    options.form_timeout = 200ms;
    return GlooCommunicator::create(loopback_device(), options, rendezvous);
  });
  publish_idle_peer(*rendezvous);
  ASSERT_EQ(form.wait_for(30s), std::future_status::ready);
  const auto created = form.get();
  EXPECT_EQ(created.error().code, ErrorCode::kTimeout);
  EXPECT_NE(created.error().message.find("rank 1 did not"), std::string::npos);
}

TEST(GlooCommunicator, StopAbortsAFormedCommunicator) {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  std::stop_source stop;
  auto peer = std::async(std::launch::async, [&] {
    return GlooCommunicator::create(loopback_device(), gloo_options(1, 2, "g"), rendezvous);
  });
  auto comm = GlooCommunicator::create(loopback_device(), gloo_options(0, 2, "g"), rendezvous,
                                       stop.get_token())
                  .value();
  const auto other = peer.get();
  ASSERT_TRUE(other);
  std::byte byte{};
  auto transfer = comm->recv(1, 1, {&byte, 1});
  auto waiting = std::async(std::launch::async, [&] { return transfer->wait(); });
  stop.request_stop();
  EXPECT_EQ(waiting.get().error().code, ErrorCode::kAborted);
}

TEST(GlooCommunicator, AnEndedRendezvousEndsForming) {
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  auto form = std::async(std::launch::async, [&] {
    return GlooCommunicator::create(loopback_device(), gloo_options(0, 2, "g"), rendezvous);
  });
  rendezvous->end();
  EXPECT_EQ(form.get().error().code, ErrorCode::kAborted);
}

TEST(GlooCommunicator, PublishedRubbishIsAnError) {
  for (const char* rubbish : {"", ",", "zz,zz", "00,00", "0"}) {
    const auto rendezvous = std::make_shared<InMemoryRendezvous>();
    ASSERT_TRUE(rendezvous->publish("g/0", rubbish));
    const auto created =
        GlooCommunicator::create(loopback_device(), gloo_options(1, 2, "g"), rendezvous);
    ASSERT_FALSE(created);
    EXPECT_EQ(created.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(created.error().message.find("rank 0"), std::string::npos);
  }
}

TEST(GlooCommunicator, FiftyGenerationsLeaveNoThreadsAndNoSockets) {
  form_world(3);
  const auto threads = count_entries("/proc/self/task");
  const auto descriptors = count_entries("/proc/self/fd");
  for (int generation = 0; generation < 50; ++generation) {
    // Sizes 4, 3, 2, 1 in turn; each third one ends by abort with a transfer in flight.
    auto world = form_world(4 - generation % 4, std::to_string(generation));
    std::byte byte{};
    std::unique_ptr<Transfer> transfer;
    if (generation % 3 == 0 && world.size() > 1) {
      transfer = world[0]->recv(1, 1, {&byte, 1});
      world[0]->abort("next");
    }
    world.clear();
    if (transfer) {
      EXPECT_EQ(transfer->wait().error().code, ErrorCode::kAborted);
    }
  }
  EXPECT_EQ(count_entries("/proc/self/task"), threads);
  EXPECT_EQ(count_entries("/proc/self/fd"), descriptors);
}

TEST(GlooCommunicator, TheFlightRecorderShowsWhoIsWaitedFor) {
  SystemClock clock;
  FlightRecorder recorder(32, clock);
  const auto rendezvous = std::make_shared<InMemoryRendezvous>();
  auto peer = std::async(std::launch::async, [&] {
    return GlooCommunicator::create(loopback_device(), gloo_options(1, 2, "g"), rendezvous);
  });
  auto options = gloo_options(0, 2, "g");
  options.recorder = &recorder;
  auto comm = GlooCommunicator::create(loopback_device(), options, rendezvous).value();
  auto other = peer.get().value();
  std::byte bytes[16]{};
  auto transfer = comm->recv(1, 77, bytes);
  auto entry = recorder.snapshot().back();
  EXPECT_EQ(entry.operation, "recv");
  EXPECT_EQ(entry.peer, 1);
  EXPECT_EQ(entry.bytes, 16u);
  EXPECT_EQ(entry.tag, 77u);
  EXPECT_EQ(entry.state, FlightState::kPosted);
  comm->abort("enough");
  EXPECT_FALSE(transfer->wait());
  EXPECT_EQ(recorder.snapshot().back().state, FlightState::kFailed);
}

}  // namespace
}  // namespace tenax::compute
