#include "actors/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/read_all.h"

using nlohmann::json;

namespace tenax::actors {

namespace {

Error file_error(const std::filesystem::path& path, const char* doing) {
  const int e = errno;
  const ErrorCode code = e == ENOSPC || e == EDQUOT                ? ErrorCode::kNoSpace
                         : e == EACCES || e == EPERM || e == EROFS ? ErrorCode::kPermission
                         : e == ENOENT                             ? ErrorCode::kNotFound
                                                                   : ErrorCode::kIo;
  return make_error(code, fmt::format("{} {}: {}", doing, path.string(), std::strerror(e)));
}

Result<std::string> random_hex(std::size_t bytes) {
  std::string raw(bytes, '\0');
  if (getrandom(raw.data(), raw.size(), 0) != static_cast<ssize_t>(bytes)) {
    return make_error(ErrorCode::kIo, "no random numbers from the system");
  }
  std::string hex;
  for (const unsigned char c : raw) hex += fmt::format("{:02x}", c);
  return hex;
}

template <class F>
auto parse_file(const std::filesystem::path& path, F f) -> Result<decltype(f(json()))> {
  TENAX_TRY(const std::string text, read_file(path));
  try {
    return f(json::parse(text));
  } catch (const json::exception& e) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("{} is damaged: {}", path.string(), e.what()));
  }
}

}  // namespace

std::string random_token() {
  unsigned char raw[16] = {};
  static_cast<void>(getrandom(raw, sizeof raw, 0));
  std::string hex;
  for (const unsigned char c : raw) hex += fmt::format("{:02x}", c);
  return hex;
}

Status write_file(const std::filesystem::path& path, const std::string& text, unsigned mode) {
  std::filesystem::path temporary = path;
  temporary += fmt::format(".{}.tmp", getpid());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (fd < 0) return file_error(temporary, "create");
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const Error error = file_error(temporary, "write");
      ::close(fd);
      ::unlink(temporary.c_str());
      return error;
    }
    done += static_cast<std::size_t>(n);
  }
  if (::fsync(fd) != 0) {
    const Error error = file_error(temporary, "sync");
    ::close(fd);
    ::unlink(temporary.c_str());
    return error;
  }
  ::close(fd);
  if (::rename(temporary.c_str(), path.c_str()) != 0) return file_error(path, "rename to");
  return {};
}

Result<std::string> read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return file_error(path, "read");
  std::string text = read_all(in);
  if (in.bad()) return file_error(path, "read");
  return text;
}

bool RunDirectory::exists() const { return std::filesystem::exists(path_ / "run.json"); }

Result<RunIdentity> RunDirectory::create(const std::string& name) const {
  std::error_code ec;
  std::filesystem::create_directories(path_ / "data", ec);
  if (!ec) std::filesystem::create_directories(path_ / "logs", ec);
  if (ec) {
    errno = ec.value();
    return file_error(path_, "create the run directory");
  }
  if (exists()) return identity();
  RunIdentity identity;
  identity.name = name;
  TENAX_TRY(const std::string id, random_hex(6));
  identity.id = id;
  TENAX_TRY(identity.secret, random_hex(16));
  TENAX_TRY(identity.keys, wire::make_key_pair());
  TENAX_RETURN_IF_ERROR(write_identity(identity));
  return identity;
}

Status RunDirectory::write_identity(const RunIdentity& identity) const {
  const json j = {{"id", identity.id},
                  {"name", identity.name},
                  {"secret", identity.secret},
                  {"public_key", identity.keys.public_key},
                  {"secret_key", identity.keys.secret_key},
                  {"arithmetic", identity.arithmetic},
                  {"worker_peak_flops", identity.peak.worker},
                  {"most_peak_flops", identity.peak.most},
                  {"planned_device_bytes", identity.planned_device_bytes}};
  return write_file(path_ / "run.json", j.dump(2) + "\n", 0600);
}

Result<RunIdentity> RunDirectory::identity() const {
  if (!exists()) {
    return make_error(
        ErrorCode::kNotFound,
        fmt::format("{} is not a run directory (it has no run.json)", path_.string()));
  }
  TENAX_TRY(RunIdentity identity, parse_file(path_ / "run.json", [](const json& j) {
              return RunIdentity{
                  j.at("id"),
                  j.at("name"),
                  j.at("secret"),
                  {j.at("public_key"), j.at("secret_key")},
                  j.value("arithmetic", std::string()),
                  {j.value("worker_peak_flops", 0.0), j.value("most_peak_flops", 0.0)},
                  j.value("planned_device_bytes", std::uint64_t{0})};
            }));
  if (!wire::is_valid(identity.keys)) {
    return make_error(ErrorCode::kDataLoss, fmt::format("{} is damaged: public_key and secret_key "
                                                        "are no pair",
                                                        (path_ / "run.json").string()));
  }
  return identity;
}

Status RunDirectory::write_outcome(int exit_code, const std::string& reason) const {
  return write_file(path_ / "outcome.json",
                    json{{"exit_code", exit_code}, {"reason", reason}}.dump() + "\n", 0644);
}

std::optional<int> RunDirectory::read_outcome() const {
  const auto code = parse_file(path_ / "outcome.json",
                               [](const json& j) { return j.at("exit_code").get<int>(); });
  return code ? std::optional<int>(*code) : std::nullopt;
}

void RunDirectory::forget_outcome() const {
  std::error_code ec;
  std::filesystem::remove(path_ / "outcome.json", ec);
}

Status RunDirectory::write_address(const SupervisorAddress& a) const {
  const json j = {{"endpoint", a.endpoint},
                  {"dashboard_url", a.dashboard_url},
                  {"control_token", a.control_token},
                  {"pid", a.pid},
                  {"term", a.term},
                  {"host", a.host}};
  return write_file(path_ / "supervisor.json", j.dump(2) + "\n", 0600);
}

Status RunDirectory::write_bulk_endpoint(std::uint32_t agent, const std::string& endpoint) const {
  std::error_code ec;
  std::filesystem::create_directories(path_ / "bulk", ec);
  if (ec) {
    errno = ec.value();
    return file_error(path_ / "bulk", "create");
  }
  return write_file(path_ / "bulk" / fmt::format("agent-{}.json", agent),
                    json{{"endpoint", endpoint}}.dump() + "\n", 0600);
}

Result<std::string> RunDirectory::read_bulk_endpoint(std::uint32_t agent) const {
  return parse_file(path_ / "bulk" / fmt::format("agent-{}.json", agent),
                    [](const json& j) { return j.at("endpoint").get<std::string>(); });
}

Result<SupervisorAddress> RunDirectory::read_address() const {
  return parse_file(path_ / "supervisor.json", [](const json& j) {
    return SupervisorAddress{j.at("endpoint"), j.at("dashboard_url"), j.at("control_token"),
                             j.at("pid"),      j.at("term"),          j.at("host")};
  });
}

}  // namespace tenax::actors
