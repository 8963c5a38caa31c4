#include "tools/supervisor_client.h"

#include <fmt/format.h>
#include <httplib.h>

#include <nlohmann/json.hpp>

#include "actors/process.h"

namespace tenax::tools {

namespace {

Result<actors::SupervisorAddress> live_address(const actors::RunDirectory& directory) {
  const auto address = directory.read_address();
  if (!address || !actors::is_alive(static_cast<pid_t>(address->pid), "train")) {
    return make_error(ErrorCode::kUnavailable,
                      fmt::format("no supervisor of {} is running", directory.path().string()));
  }
  if (address->dashboard_url.empty()) {
    return make_error(
        ErrorCode::kUnavailable,
        fmt::format("the supervisor (pid {}) has no dashboard (dashboard.enabled = false)",
                    address->pid));
  }
  return *address;
}

httplib::Client client_of(const actors::SupervisorAddress& address) {
  std::string base = address.dashboard_url;
  while (!base.empty() && base.back() == '/') base.pop_back();
  httplib::Client client(base);
  client.set_connection_timeout(2);
  client.set_read_timeout(5);
  return client;
}

Error unanswered(const actors::SupervisorAddress& address) {
  return make_error(ErrorCode::kUnavailable,
                    fmt::format("the supervisor (pid {}) does not answer at {}", address.pid,
                                address.dashboard_url));
}

}  // namespace

bool supervisor_lives(const actors::RunDirectory& directory) {
  const auto address = directory.read_address();
  return address && actors::is_alive(static_cast<pid_t>(address->pid), "train");
}

Result<std::string> fetch_state(const actors::RunDirectory& directory) {
  TENAX_TRY(const actors::SupervisorAddress address, live_address(directory));
  const auto answer = client_of(address).Get("/api/state");
  if (!answer || answer->status != 200) return unanswered(address);
  return answer->body;
}

namespace {

Status post(const actors::RunDirectory& directory, const std::string& path,
            const std::string& body) {
  TENAX_TRY(const actors::SupervisorAddress address, live_address(directory));
  const httplib::Headers headers = {{"X-Tenax-Token", address.control_token}};
  const auto answer = client_of(address).Post(path, headers, body, "application/json");
  if (!answer) return unanswered(address);
  if (answer->status / 100 != 2) {
    const auto json = nlohmann::json::parse(answer->body, nullptr, false);
    const std::string why = json.is_object() ? json.value("error", answer->body) : answer->body;
    return make_error(answer->status == 409 ? ErrorCode::kInvalidArgument : ErrorCode::kUnavailable,
                      fmt::format("the supervisor refused: {}", why));
  }
  return {};
}

}  // namespace

Status post_stop(const actors::RunDirectory& directory, const std::string& kind) {
  return post(directory, "/api/stop", nlohmann::json{{"kind", kind}}.dump());
}

Status post_control(const actors::RunDirectory& directory, const std::string& action,
                    const nlohmann::json& body) {
  return post(directory, "/api/control/" + action, body.dump());
}

}  // namespace tenax::tools
