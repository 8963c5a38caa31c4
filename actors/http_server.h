// The dashboard's HTTP server: the page, its JSON, server-sent events, Prometheus text, and one
// guarded way to stop the run. It knows nothing of actors: the supervisor hands it functions that
// render the current state, and publishes events. Routes and JSON are described in
// docs/dashboard.md.
//
// Threads: owns its own (cpp-httplib's pool, one thread a connection). All members may be called
// from any thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "common/result.h"

namespace tenax::actors {

class HttpServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;  ///< 0 = any free one
    /// What POST /api/stop must send as X-Tenax-Token. Empty: nobody may stop the run over HTTP.
    std::string control_token = {};
    /// Without it a host beyond loopback is refused. With it every request needs `control_token`,
    /// as header X-Tenax-Token, "Authorization: Bearer", or the cookie that GET /?token=... sets.
    bool allow_remote = false;
    std::size_t max_streams = 32;  ///< open /events; further ones are answered 503
    std::size_t ring_events = 4096;
    std::size_t ring_bytes = 8 << 20;
    std::chrono::milliseconds heartbeat{1000};
  };

  /// Called on server threads, several at once; they must be thread safe and should answer within
  /// milliseconds. An exception of theirs becomes a 500 answer. A missing one is answered 404.
  struct Sources {
    std::function<std::string()> state_json = {};
    /// Rows with step > since_step (-1 = all).
    std::function<std::string(std::int64_t since_step)> metrics_json = {};
    /// Entries with seq > since_seq (0 = all).
    std::function<std::string(std::uint64_t since_seq)> journal_json = {};
    std::function<std::string()> prometheus = {};
    /// `kind` is "graceful" or "now". An error is answered 409 with its message.
    std::function<Status(std::string kind)> stop = {};
    /// POST /api/control/ACTION with a JSON object, guarded as /api/stop. An error is answered 409
    /// with its message.
    std::function<Status(const std::string& action, const nlohmann::json& body)> control = {};
  };

  /// Binds and serves. kInUse (naming host:port and dashboard.port) if the port is taken,
  /// kInvalidArgument for a host beyond loopback that was not allowed, kPermission or kUnavailable
  /// if the address cannot be bound.
  static Result<std::unique_ptr<HttpServer>> start(Options options, Sources sources);

  /// Ends every connection, open streams too, and joins all threads; well under a second unless a
  /// source hangs.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;
  /// "http://127.0.0.1:8765/"
  std::string url() const;

  /// Sends an event ("step", "journal" or "state") to every open stream. `id` is the publisher's
  /// own number of it (step or journal seq) and appears as the last part of the event's id. Never
  /// waits for a client: events are kept in a bounded ring, and a stream that falls behind it is
  /// ended (its browser reconnects and is told to read everything again). Of "state" a stream gets
  /// only the newest, at most 5 a second, so it may be published on every change.
  void publish(std::string_view event, std::uint64_t id, std::string_view data);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tenax::actors
