// What the tests of the HTTP server share: a server with made-up sources, an event-stream client on
// a thread, bare sockets.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "actors/http_server.h"

namespace tenax::actors {

using namespace std::chrono_literals;

inline HttpServer::Sources test_sources() {
  return {.state_json = [] { return R"({"run":{"id":"r1"}})"; },
          .metrics_json = [](std::int64_t since) { return std::to_string(since); },
          .journal_json = [](std::uint64_t since) { return std::to_string(since); },
          .prometheus = [] { return "tenax_steps_total 1\n"; },
          .stop = [](const std::string&) { return Status(); }};
}

inline std::unique_ptr<HttpServer> start_server(HttpServer::Options options = {},
                                                HttpServer::Sources sources = test_sources()) {
  auto server = HttpServer::start(std::move(options), std::move(sources));
  EXPECT_TRUE(server) << server.error().message;
  return std::move(server).value();
}

inline httplib::Client client_of(const HttpServer& server) {
  httplib::Client client("127.0.0.1", server.port());
  client.set_read_timeout(20s);
  return client;
}

/// A GET /events on a thread of its own that collects what arrives (the last part of it, if it is
/// much).
class TestStream {
 public:
  static constexpr std::size_t kKeptBytes = 1 << 20;

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
            if (text_.size() > 2 * kKeptBytes) text_.erase(0, text_.size() - kKeptBytes);
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

inline int connect_to(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

inline std::string raw_request(int port, const std::string& text) {
  const int fd = connect_to(port);
  EXPECT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, n);
  close(fd);
  return answer;
}

}  // namespace tenax::actors
