#include "checkpoint/holder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "checkpoint/files.h"

namespace tenax::checkpoint {

namespace {

Status write_synced(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return from_errno("create", path, errno);
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       ::fsync(fd) == 0;
  const int error = errno;
  ::close(fd);
  if (!written) return from_errno("write", path, error);
  return {};
}

}  // namespace

std::string describe(const HolderInfo& holder) {
  return fmt::format("pid {} on {}, term {}, since {}", holder.pid, holder.host, holder.term,
                     format_time(holder.started));
}

Status write_holder(const std::string& run_path, const HolderInfo& holder) {
  const std::string path = run_path + "/HOLDER";
  const nlohmann::json json = {{"host", holder.host},
                               {"pid", holder.pid},
                               {"term", holder.term},
                               {"started_ns", holder.started.time_since_epoch().count()}};
  TENAX_RETURN_IF_ERROR(write_synced(path + ".new", json.dump() + "\n"));
  if (::rename((path + ".new").c_str(), path.c_str()) != 0)
    return from_errno("rename", path, errno);
  return sync_directory(run_path);
}

Result<HolderInfo> read_holder(const std::string& run_path) {
  const std::string path = run_path + "/HOLDER";
  std::ifstream file(path);
  if (!file) return make_error(ErrorCode::kNotFound, fmt::format("{}: no holder", path));
  std::stringstream text;
  text << file.rdbuf();
  try {
    const nlohmann::json json = nlohmann::json::parse(text.str());
    return HolderInfo{json.at("host"), json.at("pid"), json.at("term"),
                      Time(Duration(json.at("started_ns").get<std::int64_t>()))};
  } catch (const nlohmann::json::exception& e) {
    return make_error(ErrorCode::kDataLoss, fmt::format("{}: {}", path, e.what()));
  }
}

}  // namespace tenax::checkpoint
