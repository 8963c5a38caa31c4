// The server against cpp-httplib's own client and, where a client must misbehave, bare sockets.
#include "actors/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "dashboard/assets.h"

namespace tenax::actors {
namespace {

using namespace std::chrono_literals;

HttpServer::Sources test_sources() {
  return {.state_json = [] { return R"({"run":{"id":"r1"}})"; },
          .metrics_json = [](std::int64_t since) { return std::to_string(since); },
          .journal_json = [](std::uint64_t since) { return std::to_string(since); },
          .prometheus = [] { return "tenax_steps_total 1\n"; },
          .stop = [](const std::string&) { return Status(); }};
}

std::unique_ptr<HttpServer> start_server(HttpServer::Options options = {},
                                         HttpServer::Sources sources = test_sources()) {
  auto server = HttpServer::start(std::move(options), std::move(sources));
  EXPECT_TRUE(server) << server.error().message;
  return std::move(server).value();
}

httplib::Client client_of(const HttpServer& server) {
  httplib::Client client("127.0.0.1", server.port());
  client.set_read_timeout(20s);
  return client;
}

/// A GET /events on a thread of its own that collects what arrives.
class TestStream {
 public:
  explicit TestStream(const HttpServer& server, const std::string& last_event_id = "")
      : client_(client_of(server)) {
    thread_ = std::thread([this, last_event_id] {
      httplib::Headers headers;
      if (!last_event_id.empty()) headers.emplace("Last-Event-ID", last_event_id);
      auto result = client_.Get(
          "/events", headers,
          [this](const httplib::Response& response) {
            std::lock_guard lock(mutex_);
            status_ = response.status;
            return true;
          },
          [this](const char* data, std::size_t size) {
            std::unique_lock lock(mutex_);
            text_.append(data, size);
            changed_.notify_all();
            changed_.wait(lock, [&] { return !paused_ || leaving_; });
            return !leaving_;
          });
      std::lock_guard lock(mutex_);
      ended_ = true;
      changed_.notify_all();
    });
  }
  ~TestStream() {
    {
      std::lock_guard lock(mutex_);
      leaving_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// All text so far, once it holds `expected`; empty if it does not come.
  std::string wait_for(const std::string& expected) {
    std::unique_lock lock(mutex_);
    const bool found = changed_.wait_for(
        lock, 20s, [&] { return text_.find(expected) != std::string::npos || ended_; });
    return found && text_.find(expected) != std::string::npos ? text_ : "";
  }
  bool wait_for_end() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, [&] { return ended_; });
  }
  int status() {
    std::lock_guard lock(mutex_);
    return status_;
  }
  void pause(bool paused) {
    {
      std::lock_guard lock(mutex_);
      paused_ = paused;
    }
    changed_.notify_all();
  }

 private:
  httplib::Client client_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  int status_ = 0;
  bool ended_ = false;
  bool leaving_ = false;
  bool paused_ = false;
  std::thread thread_;
};

int connect_to(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

std::string raw_request(int port, const std::string& text) {
  const int fd = connect_to(port);
  EXPECT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, n);
  close(fd);
  return answer;
}

TEST(HttpServer, ServesEveryEmbeddedFileUnchangedWithItsTypeAndAnETag) {
  auto server = start_server();
  auto client = client_of(*server);
  for (const dashboard::Asset& asset : dashboard::assets()) {
    auto answer = client.Get(std::string(asset.path));
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 200) << asset.path;
    EXPECT_EQ(answer->body, asset.bytes);
    EXPECT_EQ(answer->get_header_value("Content-Type"), asset.content_type);
    const std::string etag = answer->get_header_value("ETag");
    ASSERT_FALSE(etag.empty());
    auto again = client.Get(std::string(asset.path), {{"If-None-Match", etag}});
    ASSERT_TRUE(again);
    EXPECT_EQ(again->status, 304);
    EXPECT_TRUE(again->body.empty());
  }
  auto root = client.Get("/");
  ASSERT_TRUE(root);
  EXPECT_EQ(root->body, client.Get("/index.html")->body);
  EXPECT_EQ(root->get_header_value("Content-Security-Policy").find("default-src 'self'"), 0u);
}

TEST(HttpServer, AnswersFromItsSourcesWithTheSinceParameter) {
  auto server = start_server();
  auto client = client_of(*server);
  EXPECT_EQ(client.Get("/api/state")->body, R"({"run":{"id":"r1"}})");
  EXPECT_EQ(client.Get("/api/state")->get_header_value("Content-Type"), "application/json");
  EXPECT_EQ(client.Get("/api/metrics")->body, "-1");
  EXPECT_EQ(client.Get("/api/metrics?since=41")->body, "41");
  EXPECT_EQ(client.Get("/api/journal")->body, "0");
  EXPECT_EQ(client.Get("/api/journal?since=18446744073709551615")->body, "18446744073709551615");
  EXPECT_EQ(client.Get("/metrics")->body, "tenax_steps_total 1\n");
  EXPECT_EQ(client.Get("/metrics")->get_header_value("Content-Type"),
            "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(client.Get("/healthz")->status, 200);
}

TEST(HttpServer, RefusesASinceThatIsNotANumber) {
  auto server = start_server();
  auto client = client_of(*server);
  for (const char* since : {"x", "1x", "", "1.5", "-1"}) {
    EXPECT_EQ(client.Get(std::string("/api/journal?since=") + since)->status, 400) << since;
  }
  EXPECT_EQ(client.Get("/api/metrics?since=99999999999999999999")->status, 400);
}

TEST(HttpServer, SaysInJsonThatAPageDoesNotExist) {
  auto server = start_server();
  auto answer = client_of(*server).Get("/nope");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 404);
  EXPECT_EQ(nlohmann::json::parse(answer->body).at("error"), "no such page: /nope");
}

TEST(HttpServer, TurnsASourcesExceptionIntoA500AndGoesOn) {
  auto sources = test_sources();
  sources.state_json = []() -> std::string { throw std::runtime_error("store closed"); };
  auto server = start_server({}, std::move(sources));
  auto client = client_of(*server);
  auto answer = client.Get("/api/state");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 500);
  EXPECT_EQ(nlohmann::json::parse(answer->body).at("error"), "store closed");
  EXPECT_EQ(client.Get("/healthz")->status, 200);
}

TEST(HttpServer, SendsABodyOfManyMegabytesWhole) {
  auto sources = test_sources();
  std::string large;
  for (int i = 0; large.size() < (20u << 20); ++i) large += std::to_string(i);
  sources.metrics_json = [&](std::int64_t) { return large; };
  auto server = start_server({}, std::move(sources));
  // A browser offers every compression; the server must not spend the run's CPU on it.
  auto answer = client_of(*server).Get("/api/metrics", {{"Accept-Encoding", "gzip, br"}});
  ASSERT_TRUE(answer);
  EXPECT_FALSE(answer->has_header("Content-Encoding"));
  EXPECT_TRUE(answer->body == large);
}

TEST(HttpServer, NamesTheAddressAndTheKeyWhenThePortIsInUse) {
  auto first = start_server();
  auto second = HttpServer::start({.port = first->port()}, test_sources());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kInUse);
  EXPECT_NE(second.error().message.find("127.0.0.1:" + std::to_string(first->port())),
            std::string::npos);
  EXPECT_NE(second.error().message.find("dashboard.port"), std::string::npos);
}

TEST(HttpServer, TakesThePortOfAServerThatEnded) {
  auto first = start_server();
  const int port = first->port();
  ASSERT_EQ(client_of(*first).Get("/healthz")->status, 200);
  first.reset();
  auto second = HttpServer::start({.port = port}, test_sources());
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ((*second)->port(), port);
}

TEST(HttpServer, RefusesAHostBeyondLoopbackUnlessToldSoAndThenNeedsAToken) {
  auto refused = HttpServer::start({.host = "0.0.0.0"}, test_sources());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  refused = HttpServer::start({.host = "0.0.0.0", .allow_remote = true}, test_sources());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
}

TEST(HttpServer, ARemoteServerAnswersNobodyWithoutTheToken) {
  auto server = start_server({.host = "0.0.0.0", .control_token = "s3cret", .allow_remote = true});
  auto client = client_of(*server);
  for (const char* path : {"/", "/api/state", "/events", "/metrics", "/?token=wrong"}) {
    EXPECT_EQ(client.Get(path)->status, 401) << path;
  }
  EXPECT_EQ(client.Get("/api/state", {{"X-Tenax-Token", "s3cret"}})->status, 200);
  EXPECT_EQ(client.Get("/api/state", {{"Authorization", "Bearer s3cret"}})->status, 200);
  auto login = client.Get("/?token=s3cret");
  EXPECT_EQ(login->status, 303);
  EXPECT_EQ(login->get_header_value("Location"), "/");
  const std::string cookie = login->get_header_value("Set-Cookie");
  EXPECT_NE(cookie.find("HttpOnly"), std::string::npos);
  EXPECT_NE(cookie.find("SameSite=Strict"), std::string::npos);
  const std::string pair = cookie.substr(0, cookie.find(';'));
  EXPECT_EQ(client.Get("/", {{"Cookie", pair}})->status, 200);
  // The cookie opens the page, but does not stop the run.
  EXPECT_EQ(
      client.Post("/api/stop", {{"Cookie", pair}}, R"({"kind":"now"})", "application/json")->status,
      403);
}

TEST(HttpServer, RefusesTheHostHeaderOfAReboundDnsName) {
  auto server = start_server();
  auto client = client_of(*server);
  EXPECT_EQ(client.Get("/api/state", {{"Host", "evil.example"}})->status, 403);
  EXPECT_EQ(client.Get("/api/state", {{"Host", "localhost:1234"}})->status, 200);
  const std::string answer = raw_request(server->port(), "GET /api/state HTTP/1.1\r\n\r\n");
  EXPECT_EQ(answer.find("HTTP/1.1 403"), 0u) << answer;
}

TEST(HttpServer, NeverTakesARefusedRequestsBodyForAnotherRequest) {
  auto server = start_server();
  const std::string inner = "GET /api/state HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const std::string answer = raw_request(server->port(),
                                         "POST /api/stop HTTP/1.1\r\nHost: evil.example\r\n"
                                         "Content-Length: " +
                                             std::to_string(inner.size()) + "\r\n\r\n" + inner);
  EXPECT_EQ(answer.find("\"run\""), std::string::npos) << answer;
}

struct StopCase {
  const char* description;
  httplib::Headers headers;
  std::string body;
  int status;
};

TEST(HttpServer, StopsTheRunOnlyForTheTokenFromTheSameSiteWithAKnownKind) {
  std::vector<std::string> kinds;
  auto sources = test_sources();
  sources.stop = [&](std::string kind) {
    kinds.push_back(std::move(kind));
    return Status();
  };
  auto server = start_server({.control_token = "s3cret"}, std::move(sources));
  auto client = client_of(*server);
  const std::string port = std::to_string(server->port());
  const std::vector<StopCase> cases = {
      {"no token", {}, R"({"kind":"now"})", 403},
      {"wrong token", {{"X-Tenax-Token", "s3creT"}}, R"({"kind":"now"})", 403},
      {"another site",
       {{"X-Tenax-Token", "s3cret"}, {"Origin", "http://evil.example"}},
       R"({"kind":"now"})",
       403},
      {"unknown kind", {{"X-Tenax-Token", "s3cret"}}, R"({"kind":"later"})", 400},
      {"not JSON", {{"X-Tenax-Token", "s3cret"}}, "kind=now", 400},
      {"not an object", {{"X-Tenax-Token", "s3cret"}}, "[1]", 400},
      {"kind is a number", {{"X-Tenax-Token", "s3cret"}}, R"({"kind":1})", 400},
      {"too long", {{"X-Tenax-Token", "s3cret"}}, std::string(1 << 20, ' '), 413},
  };
  for (const StopCase& c : cases) {
    auto answer = client.Post("/api/stop", c.headers, c.body, "application/json");
    if (c.status == 413 && !answer) continue;  // the connection may end before the body is sent
    ASSERT_TRUE(answer) << c.description;
    EXPECT_EQ(answer->status, c.status) << c.description;
  }
  EXPECT_EQ(client.Get("/api/stop", {{"X-Tenax-Token", "s3cret"}})->status, 404);
  EXPECT_TRUE(kinds.empty());
  EXPECT_EQ(
      client
          .Post("/api/stop", {{"X-Tenax-Token", "s3cret"}, {"Origin", "http://127.0.0.1:" + port}},
                R"({"kind":"graceful"})", "application/json")
          ->status,
      202);
  EXPECT_EQ(
      client
          .Post("/api/stop", {{"X-Tenax-Token", "s3cret"}}, R"({"kind":"now"})", "application/json")
          ->status,
      202);
  EXPECT_EQ(kinds, (std::vector<std::string>{"graceful", "now"}));
}

TEST(HttpServer, AnEmptyControlTokenStopsNothing) {
  auto server = start_server();
  auto client = client_of(*server);
  EXPECT_EQ(client.Post("/api/stop", R"({"kind":"now"})", "application/json")->status, 403);
  EXPECT_EQ(
      client.Post("/api/stop", {{"X-Tenax-Token", ""}}, R"({"kind":"now"})", "application/json")
          ->status,
      403);
}

TEST(HttpServer, PassesTheErrorOfARefusedStopOn) {
  auto sources = test_sources();
  sources.stop = [](const std::string&) -> Status {
    return make_error(ErrorCode::kInvalidArgument, "the run has finished");
  };
  auto server = start_server({.control_token = "s3cret"}, std::move(sources));
  auto answer = client_of(*server).Post("/api/stop", {{"X-Tenax-Token", "s3cret"}},
                                        R"({"kind":"now"})", "application/json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 409);
  EXPECT_EQ(nlohmann::json::parse(answer->body).at("error"), "the run has finished");
}

TEST(HttpServer, StreamsEventsToEveryOpenStreamAndBeatsInBetween) {
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

TEST(HttpServer, AReturningBrowserGetsWhatItMissedOrIsToldToReadAgain) {
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

TEST(HttpServer, Answers503BeyondItsStreamsAndStillServesPages) {
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

TEST(HttpServer, ServesPagesWhileAllThirtyTwoStreamsAreOpen) {
  auto server = start_server({.heartbeat = 20ms});
  std::vector<std::unique_ptr<TestStream>> streams;
  for (int i = 0; i < 32; ++i) streams.push_back(std::make_unique<TestStream>(*server));
  for (auto& stream : streams) ASSERT_NE(stream->wait_for("hello"), "");
  EXPECT_EQ(client_of(*server).Get("/api/state")->status, 200);
  server->publish("step", 1, "to all");
  for (auto& stream : streams) EXPECT_NE(stream->wait_for("data: to all"), "");
}

TEST(HttpServer, DropsAStreamThatDoesNotReadWithoutHoldingUpThePublisher) {
  auto server = start_server({.ring_events = 16, .ring_bytes = 2 << 20, .heartbeat = 20ms});
  TestStream slow(*server);
  TestStream quick(*server);
  ASSERT_NE(slow.wait_for("hello"), "");
  ASSERT_NE(quick.wait_for("hello"), "");
  slow.pause(true);
  const std::string block(256 << 10, 'x');
  // 64 MiB: more than the kernel's socket buffers and the ring can hold for the paused stream.
  for (int i = 0; i < 256; ++i) {
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

TEST(HttpServer, EndsWithOpenStreamsSilentAndHalfSentRequests) {
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

TEST(HttpServer, LeavesOtherConnectionsOfTheProcessAloneWhenItEnds) {
  auto staying = start_server({.heartbeat = 20ms});
  TestStream stream(*staying);
  ASSERT_NE(stream.wait_for("hello"), "");
  auto ending = start_server();
  ASSERT_EQ(client_of(*ending).Get("/healthz")->status, 200);
  ending.reset();
  staying->publish("step", 1, "still here");
  EXPECT_NE(stream.wait_for("data: still here"), "");
}

TEST(HttpServer, ManyThreadsMayPublishWhileStreamsComeAndGo) {
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
