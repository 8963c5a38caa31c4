// Event streams of the HTTP server, with clients that come and go, read slowly, or say nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/actors/http_test_client.h"

namespace tenax::actors {
namespace {

TEST(HttpStream, StreamsEventsToEveryOpenStreamAndBeatsInBetween) {
  auto server = start_server({.heartbeat = 20ms});
  TestStream one(*server);
  TestStream two(*server);
  for (TestStream* stream : {&one, &two}) {
    EXPECT_NE(stream->wait_for("event: hello"), "");
    EXPECT_NE(stream->wait_for(": heartbeat\n\n"), "");
  }
  server->publish("step", 12, R"({"step":12})");
  server->publish("state", 1, R"({"run":{}})");
  for (TestStream* stream : {&one, &two}) {
    const std::string text = stream->wait_for("event: step\ndata: {\"step\":12}\n\n");
    EXPECT_NE(text.find("-1-12\nevent: step"), std::string::npos) << text;
    EXPECT_NE(stream->wait_for("event: state\ndata: {\"run\":{}}\n\n"), "");
  }
}

TEST(HttpStream, AReturningBrowserGetsWhatItMissedOrIsToldToReadAgain) {
  auto server = start_server({.heartbeat = 20ms});
  std::string last_id;
  {
    TestStream stream(*server);
    const std::string text = stream.wait_for("event: hello");
    const std::size_t begin = text.find("id: ") + 4;
    last_id = text.substr(begin, text.find('\n', begin) - begin);
  }
  server->publish("journal", 1, "missed");
  TestStream resumed(*server, last_id);
  const std::string text = resumed.wait_for("data: missed");
  EXPECT_NE(text, "");
  EXPECT_EQ(text.find("event: reset"), std::string::npos);
  TestStream stranger(*server, "earlierprocess-5-5");
  EXPECT_NE(stranger.wait_for("event: reset"), "");
}

TEST(HttpStream, Answers503BeyondItsStreamsAndStillServesPages) {
  auto server = start_server({.max_streams = 2, .heartbeat = 20ms});
  auto client = client_of(*server);
  {
    TestStream one(*server);
    TestStream two(*server);
    ASSERT_NE(one.wait_for("hello"), "");
    ASSERT_NE(two.wait_for("hello"), "");
    auto refused = client.Get("/events");
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->status, 503);
    EXPECT_EQ(refused->get_header_value("Retry-After"), "5");
    EXPECT_EQ(client.Get("/api/state")->status, 200);
  }
  // A stream whose browser left gives its place back at the next heartbeat.
  for (int attempt = 0; attempt < 400; ++attempt) {
    TestStream next(*server);
    if (!next.wait_for("hello").empty()) return;
    std::this_thread::sleep_for(10ms);
  }
  FAIL() << "no place became free";
}

TEST(HttpStream, ServesPagesWhileAllThirtyTwoStreamsAreOpen) {
  auto server = start_server({.heartbeat = 20ms});
  std::vector<std::unique_ptr<TestStream>> streams;
  for (int i = 0; i < 32; ++i) streams.push_back(std::make_unique<TestStream>(*server));
  for (auto& stream : streams) ASSERT_NE(stream->wait_for("hello"), "");
  EXPECT_EQ(client_of(*server).Get("/api/state")->status, 200);
  server->publish("step", 1, "to all");
  for (auto& stream : streams) EXPECT_NE(stream->wait_for("data: to all"), "");
}

TEST(HttpStream, DropsAStreamThatDoesNotReadWithoutHoldingUpThePublisher) {
  auto server = start_server({.ring_events = 16, .ring_bytes = 2 << 20, .heartbeat = 20ms});
  TestStream slow(*server);
  TestStream quick(*server);
  ASSERT_NE(slow.wait_for("hello"), "");
  ASSERT_NE(quick.wait_for("hello"), "");
  slow.pause(true);
  const std::string block(256 << 10, 'x');
  // 32 MiB: more than the kernel's socket buffers and the ring can hold for the paused stream.
  for (int i = 0; i < 128; ++i) {
    server->publish("journal", i, block);
    if (i % 4 == 3) {
      // The quick one keeps up, so it must survive.
      ASSERT_NE(quick.wait_for("-" + std::to_string(i + 1) + "-" + std::to_string(i) + "\n"), "");
    }
  }
  slow.pause(false);
  EXPECT_TRUE(slow.wait_for_end());
  server->publish("step", 1, "last");
  EXPECT_NE(quick.wait_for("data: last"), "");
}

TEST(HttpStream, EndsWithOpenStreamsSilentAndHalfSentRequests) {
  auto server = start_server({.heartbeat = 1h});
  TestStream stream(*server);
  ASSERT_NE(stream.wait_for("hello"), "");
  const int silent = connect_to(server->port());
  const int half = connect_to(server->port());
  send(half, "GET / HT", 8, MSG_NOSIGNAL);
  const int stuck = connect_to(server->port());
  const std::string request = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
  send(stuck, request.data(), request.size(), MSG_NOSIGNAL);
  const std::string block(256 << 10, 'x');
  for (int i = 0; i < 256; ++i) server->publish("journal", i, block);
  server.reset();  // would take an hour if it waited for the heartbeat
  EXPECT_TRUE(stream.wait_for_end());
  for (int fd : {silent, half}) {
    char byte = 0;
    EXPECT_LE(recv(fd, &byte, 1, 0), 0);
  }
  for (int fd : {silent, half, stuck}) close(fd);
}

TEST(HttpStream, LeavesOtherConnectionsOfTheProcessAloneWhenItEnds) {
  auto staying = start_server({.heartbeat = 20ms});
  TestStream stream(*staying);
  ASSERT_NE(stream.wait_for("hello"), "");
  auto ending = start_server();
  ASSERT_EQ(client_of(*ending).Get("/healthz")->status, 200);
  ending.reset();
  staying->publish("step", 1, "still here");
  EXPECT_NE(stream.wait_for("data: still here"), "");
}

TEST(HttpStream, ManyThreadsMayPublishWhileStreamsComeAndGo) {
  auto server = start_server({.heartbeat = 20ms});
  std::atomic<bool> done = false;
  std::vector<std::thread> publishers;
  for (int p = 0; p < 3; ++p) {
    publishers.emplace_back([&] {
      for (std::uint64_t i = 0; !done; ++i) {
        server->publish(i % 2 == 0 ? "step" : "state", i, "{}");
        std::this_thread::sleep_for(1ms);
      }
    });
  }
  for (int i = 0; i < 8; ++i) {
    TestStream stream(*server);
    EXPECT_NE(stream.wait_for("event: step"), "");
  }
  done = true;
  for (std::thread& thread : publishers) thread.join();
}

}  // namespace
}  // namespace tenax::actors
