#include "actors/http_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "actors/event_ring.h"
#include "actors/http_guard.h"
#include "common/hash.h"
#include "dashboard/assets.h"

namespace tenax::actors {
namespace {

/// Threads beyond those of the open streams: for the page, its JSON and Prometheus.
constexpr std::size_t kRequestThreads = 16;
/// The package's listen() asks for 5 waiting connections; a browser with several tabs opens more at
/// once.
constexpr int kListenBacklog = 128;
constexpr std::size_t kMaxBodyBytes = 4096;
constexpr const char* kJson = "application/json";
constexpr const char* kTokenCookie = "tenax_token";

/// `doing` is what was tried, `number` an errno.
Error listen_error(const HttpServer::Options& options, int number) {
  const std::string address = fmt::format("{}:{}", options.host, options.port);
  if (number == EADDRINUSE) {
    return make_error(ErrorCode::kInUse,
                      fmt::format("dashboard: {} is already in use; set dashboard.port to another "
                                  "port, or to 0 for any free one",
                                  address));
  }
  const auto code = number == EACCES ? ErrorCode::kPermission : ErrorCode::kUnavailable;
  return make_error(
      code, fmt::format("dashboard: cannot listen on {} (dashboard.host, dashboard.port): {}",
                        address, number == 0 ? "unknown address" : std::strerror(number)));
}

/// Wakes every thread that reads from or writes to a connection accepted on `port` of this process.
/// cpp-httplib offers no way to end its connections early. Each descriptor is duplicated before it
/// is looked at, so one that is closed and reused meanwhile is never hit.
void shut_down_connections(int port) {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return;
  while (const dirent* entry = readdir(directory)) {
    int fd = -1;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    if (std::from_chars(entry->d_name, end, fd).ec != std::errc()) continue;
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) continue;
    sockaddr_storage address{};
    socklen_t address_size = sizeof(address);
    int type = 0;
    int listening = 1;
    socklen_t size = sizeof(int);
    if (getsockname(copy, reinterpret_cast<sockaddr*>(&address), &address_size) == 0 &&
        getsockopt(copy, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM &&
        getsockopt(copy, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening == 0) {
      int local_port = -1;
      if (address.ss_family == AF_INET) {
        local_port = ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
      } else if (address.ss_family == AF_INET6) {
        local_port = ntohs(reinterpret_cast<sockaddr_in6*>(&address)->sin6_port);
      }
      if (local_port == port) shutdown(copy, SHUT_RDWR);
    }
    close(copy);
  }
  closedir(directory);
}

/// Sends `body` as it is. (cpp-httplib's set_content would compress it with brotli's slowest
/// setting.)
void send_body(httplib::Response& response, std::string_view body, const std::string& content_type,
               std::shared_ptr<const void> keep_alive) {
  if (body.empty()) return response.set_content("", content_type);
  response.set_content_provider(
      body.size(), content_type,
      [body, keep_alive = std::move(keep_alive)](std::size_t offset, std::size_t length,
                                                 httplib::DataSink& sink) {
        return sink.write(body.data() + offset, length);
      });
}

void send_text(httplib::Response& response, std::string text, const std::string& content_type) {
  auto owned = std::make_shared<const std::string>(std::move(text));
  send_body(response, *owned, content_type, owned);
}

void send_error(httplib::Response& response, int status, std::string_view message) {
  response.status = status;
  response.set_content(nlohmann::json{{"error", message}}.dump(), kJson);
}

/// The number in parameter `since`, `missing` without one, nothing if it is not a number.
template <class Integer>
std::optional<Integer> parse_since(const httplib::Request& request, Integer missing) {
  if (!request.has_param("since")) return missing;
  const std::string text = request.get_param_value("since");
  Integer value = 0;
  auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Tells this server's event ids from those of an earlier process of the same run.
std::string make_ring_name() {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return fmt::format(
      "{:x}", static_cast<std::uint64_t>(now) ^ (static_cast<std::uint64_t>(getpid()) << 48));
}

std::string escape_regex(std::string_view path) {
  std::string pattern;
  for (char c : path) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace

struct HttpServer::Impl {
  Impl(Options given_options, Sources given_sources)
      : options(std::move(given_options)),
        sources(std::move(given_sources)),
        ring({.max_events = options.ring_events, .max_bytes = options.ring_bytes},
             make_ring_name()) {}

  ~Impl() {
    ring.close();
    server.stop();
    while (listener.joinable() && !listener_done) {
      shut_down_connections(port);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    if (listener.joinable()) listener.join();
  }

  Status start();
  void set_limits();
  void add_routes();
  bool admit(const httplib::Request& request, httplib::Response& response);
  bool has_token(const httplib::Request& request) const;
  void serve_asset(const dashboard::Asset& asset, const std::string& etag,
                   const httplib::Request& request, httplib::Response& response) const;
  void serve_events(const httplib::Request& request, httplib::Response& response);
  void serve_stop(const httplib::Request& request, httplib::Response& response) const;
  void serve_control(const httplib::Request& request, httplib::Response& response) const;
  /// Whether the sender may change the run; answers 403 if not.
  bool may_control(const httplib::Request& request, httplib::Response& response) const;

  const Options options;
  const Sources sources;
  EventRing ring;
  std::atomic<std::size_t> num_streams = 0;
  httplib::Server server;
  int port = 0;
  int listen_fd = -1;
  std::thread listener;
  std::atomic<bool> listener_done = false;
};

Status HttpServer::Impl::start() {
  const bool loopback = is_loopback_host(options.host);
  if (!loopback && !options.allow_remote) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("dashboard.host = \"{}\" is not a loopback address; use 127.0.0.1 "
                    "and `ssh -L`, or set dashboard.allow_remote = true",
                    options.host));
  }
  if (options.allow_remote && options.control_token.empty()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "dashboard.allow_remote needs a control token, and none was given");
  }
  set_limits();
  add_routes();
  std::string bare_host = options.host;
  std::erase_if(bare_host, [](char c) { return c == '[' || c == ']'; });
  errno = 0;
  if (options.port == 0) {
    port = server.bind_to_any_port(bare_host);
  } else {
    port = server.bind_to_port(bare_host, options.port) ? options.port : -1;
  }
  if (port <= 0) return listen_error(options, errno);
  ::listen(listen_fd, kListenBacklog);
  listener = std::thread([this] {
    server.listen_after_bind();
    listener_done = true;
  });
  // stop() does nothing before the listener runs, so the destructor must not come earlier.
  while (!server.is_running() && !listener_done) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {};
}

void HttpServer::Impl::set_limits() {
  server.new_task_queue = [threads = options.max_streams + kRequestThreads] {
    return new httplib::ThreadPool(threads);
  };
  // One request a connection: an idle browser connection would hold a thread, and a refused
  // request's unread body could be taken for the next request.
  server.set_keep_alive_max_count(1);
  server.set_keep_alive_timeout(5);
  server.set_read_timeout(std::chrono::seconds(5));
  server.set_write_timeout(std::chrono::seconds(5));
  server.set_payload_max_length(kMaxBodyBytes);
  server.set_tcp_nodelay(true);
  // The package's default is SO_REUSEPORT, with which a second server would take the same port
  // without an error.
  server.set_socket_options([this](int fd) {
    const int yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    listen_fd = fd;
  });
  server.set_default_headers({{"Content-Security-Policy",
                               "default-src 'self'; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'"},
                              {"X-Content-Type-Options", "nosniff"},
                              {"Referrer-Policy", "no-referrer"},
                              {"Cross-Origin-Resource-Policy", "same-origin"}});
  server.set_pre_routing_handler([this](const auto& request, auto& response) {
    using Handled = httplib::Server::HandlerResponse;
    return admit(request, response) ? Handled::Unhandled : Handled::Handled;
  });
  server.set_exception_handler([](const auto&, auto& response, std::exception_ptr thrown) {
    try {
      std::rethrow_exception(std::move(thrown));
    } catch (const std::exception& error) {
      send_error(response, 500, error.what());
    } catch (...) {
      send_error(response, 500, "unknown exception");
    }
  });
  server.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
    if (response.body.empty() && response.status == 404) {
      send_error(response, 404, fmt::format("no such page: {}", request.path));
    }
  });
}

bool HttpServer::Impl::has_token(const httplib::Request& request) const {
  const std::string bearer = request.get_header_value("Authorization");
  return token_matches(request.get_header_value("X-Tenax-Token"), options.control_token) ||
         (bearer.starts_with("Bearer ") &&
          token_matches(std::string_view(bearer).substr(7), options.control_token)) ||
         token_matches(cookie_value(request.get_header_value("Cookie"), kTokenCookie),
                       options.control_token);
}

bool HttpServer::Impl::admit(const httplib::Request& request, httplib::Response& response) {
  if (!options.allow_remote) {
    const std::string host = request.get_header_value("Host");
    if (host_allowed(host, options.host)) return true;
    send_error(response, 403, fmt::format("host \"{}\" is not this server", host));
    return false;
  }
  // Any host name may lead here, but a rebound one carries no cookie, so the token is the guard.
  if (has_token(request)) return true;
  if (request.method == "GET" && request.path == "/" &&
      token_matches(request.get_param_value("token"), options.control_token)) {
    response.set_header("Set-Cookie", fmt::format("{}={}; Path=/; HttpOnly; SameSite=Strict",
                                                  kTokenCookie, options.control_token));
    response.set_redirect("/", 303);
    return false;
  }
  send_error(response, 401, "open the address with ?token=..., or send X-Tenax-Token");
  return false;
}

void HttpServer::Impl::add_routes() {
  for (const dashboard::Asset& asset : dashboard::assets()) {
    auto handler = [this, &asset, etag = fmt::format("\"{}\"", hash128(asset.bytes).hex())](
                       const httplib::Request& request, httplib::Response& response) {
      serve_asset(asset, etag, request, response);
    };
    server.Get(escape_regex(asset.path), handler);
    if (asset.path == "/index.html") server.Get("/", handler);
  }
  server.Get("/healthz", [](const auto&, auto& response) {
    send_text(response, "ok\n", "text/plain; charset=utf-8");
  });
  if (sources.state_json) {
    server.Get("/api/state", [this](const auto&, auto& response) {
      response.set_header("Cache-Control", "no-store");
      send_text(response, sources.state_json(), kJson);
    });
  }
  if (sources.metrics_json) {
    server.Get("/api/metrics", [this](const auto& request, auto& response) {
      const auto since = parse_since<std::int64_t>(request, -1);
      if (!since) return send_error(response, 400, "since must be a step number");
      response.set_header("Cache-Control", "no-store");
      send_text(response, sources.metrics_json(*since), kJson);
    });
  }
  if (sources.journal_json) {
    server.Get("/api/journal", [this](const auto& request, auto& response) {
      const auto since = parse_since<std::uint64_t>(request, 0);
      if (!since) return send_error(response, 400, "since must be a journal seq");
      response.set_header("Cache-Control", "no-store");
      send_text(response, sources.journal_json(*since), kJson);
    });
  }
  if (sources.prometheus) {
    server.Get("/metrics", [this](const auto&, auto& response) {
      send_text(response, sources.prometheus(), "text/plain; version=0.0.4; charset=utf-8");
    });
  }
  server.Get("/events",
             [this](const auto& request, auto& response) { serve_events(request, response); });
  if (sources.stop) {
    server.Post("/api/stop",
                [this](const auto& request, auto& response) { serve_stop(request, response); });
  }
  if (sources.control) {
    server.Post(R"(/api/control/([a-z_]+))",
                [this](const auto& request, auto& response) { serve_control(request, response); });
  }
}

void HttpServer::Impl::serve_asset(const dashboard::Asset& asset, const std::string& etag,
                                   const httplib::Request& request,
                                   httplib::Response& response) const {
  response.set_header("ETag", etag);
  response.set_header("Cache-Control", "no-cache");
  if (request.get_header_value("If-None-Match").find(etag) != std::string::npos) {
    response.status = 304;
    return;
  }
  send_body(response, asset.bytes, std::string(asset.content_type), nullptr);
}

void HttpServer::Impl::serve_events(const httplib::Request& request, httplib::Response& response) {
  if (num_streams.fetch_add(1) >= options.max_streams) {
    --num_streams;
    response.set_header("Retry-After", "5");
    return send_error(response, 503,
                      fmt::format("all {} event streams are taken", options.max_streams));
  }
  std::shared_ptr<void> slot(nullptr, [this](void*) { --num_streams; });
  EventRing::Cursor cursor = ring.join(request.get_header_value("Last-Event-ID"));
  std::string greeting =
      fmt::format("retry: 1000\nid: {}\nevent: {}\ndata: {{}}\n\n", ring.id_before(cursor),
                  cursor.lost_events ? "reset" : "hello");
  response.set_header("Cache-Control", "no-store");
  response.set_header("X-Accel-Buffering", "no");
  response.set_chunked_content_provider(
      "text/event-stream", [this, slot = std::move(slot), cursor, greeting = std::move(greeting)](
                               std::size_t, httplib::DataSink& sink) mutable {
        if (!greeting.empty()) {
          const bool written = sink.write(greeting.data(), greeting.size());
          greeting.clear();
          return written;
        }
        const EventRing::Batch batch = ring.next(cursor, options.heartbeat);
        switch (batch.outcome) {
          case EventRing::Outcome::kFrames:
            return sink.write(batch.frames.data(), batch.frames.size());
          case EventRing::Outcome::kIdle: {
            constexpr std::string_view kHeartbeat = ": heartbeat\n\n";
            return sink.write(kHeartbeat.data(), kHeartbeat.size());
          }
          case EventRing::Outcome::kLagging:
          case EventRing::Outcome::kClosed:
            break;
        }
        return false;
      });
}

bool HttpServer::Impl::may_control(const httplib::Request& request,
                                   httplib::Response& response) const {
  if (!origin_allowed(request.get_header_value("Origin"), request.get_header_value("Host"))) {
    send_error(response, 403, "the request comes from another site");
    return false;
  }
  // Only the header counts here, not the cookie: a browser sends cookies by itself.
  if (!token_matches(request.get_header_value("X-Tenax-Token"), options.control_token)) {
    send_error(response, 403, "X-Tenax-Token is missing or wrong");
    return false;
  }
  return true;
}

void HttpServer::Impl::serve_control(const httplib::Request& request,
                                     httplib::Response& response) const {
  if (!may_control(request, response)) return;
  const auto body = nlohmann::json::parse(request.body, nullptr, /*allow_exceptions=*/false);
  if (!body.is_object()) return send_error(response, 400, "the body must be a JSON object");
  const std::string action = request.matches[1];
  if (const Status done = sources.control(action, body); !done)
    return send_error(response, 409, done.error().message);
  response.status = 202;
  send_text(response, nlohmann::json{{"accepted", action}}.dump(), kJson);
}

void HttpServer::Impl::serve_stop(const httplib::Request& request,
                                  httplib::Response& response) const {
  if (!may_control(request, response)) return;
  const auto body = nlohmann::json::parse(request.body, nullptr, /*allow_exceptions=*/false);
  const std::string kind = body.is_object() && body.contains("kind") && body["kind"].is_string()
                               ? body["kind"].get<std::string>()
                               : "";
  if (kind != "graceful" && kind != "now") {
    return send_error(response, 400, R"(the body must be {"kind":"graceful"} or {"kind":"now"})");
  }
  if (Status stopped = sources.stop(kind); !stopped) {
    return send_error(response, 409, stopped.error().message);
  }
  response.status = 202;
  send_text(response, nlohmann::json{{"stopping", kind}}.dump(), kJson);
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::start(Options options, Sources sources) {
  try {
    auto impl = std::make_unique<Impl>(std::move(options), std::move(sources));
    TENAX_RETURN_IF_ERROR(impl->start());
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
  } catch (const std::exception& error) {  // no threads left, a bad pattern
    return make_error(ErrorCode::kUnavailable,
                      fmt::format("dashboard: starting the server: {}", error.what()));
  }
}

int HttpServer::port() const { return impl_->port; }

std::string HttpServer::url() const {
  const std::string& host = impl_->options.host;
  const bool bracket = host.find(':') != std::string::npos && !host.starts_with('[');
  return fmt::format("http://{}{}{}:{}/", bracket ? "[" : "", host, bracket ? "]" : "",
                     impl_->port);
}

void HttpServer::publish(std::string_view event, std::uint64_t id, std::string_view data) {
  impl_->ring.publish(event, id, data);
}

}  // namespace tenax::actors
