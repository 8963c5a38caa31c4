#include "tools/stale_segments.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <system_error>

namespace tenax::tools {

namespace {

constexpr const char* kFolder = "/dev/shm";
constexpr const char* kPrefix = "tenax-";

/// Names of slot segments that some process has mapped.
std::set<std::string> mapped_segments() {
  std::set<std::string> names;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ec)) {
    const std::string pid = entry.path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream maps(entry.path() / "maps");
    for (std::string line; std::getline(maps, line);) {
      const auto at = line.find(std::string(kFolder) + "/" + kPrefix);
      if (at == std::string::npos) continue;
      const std::string path = line.substr(at);
      names.insert(path.substr(path.rfind('/') + 1));
    }
  }
  return names;
}

}  // namespace

int sweep_stale_segments(const std::string& keep_run_id) {
  const std::set<std::string> mapped = mapped_segments();
  int removed = 0;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder, ec)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(kPrefix, 0) != 0 || mapped.contains(name)) continue;
    if (!keep_run_id.empty() && name.rfind(kPrefix + keep_run_id + "-", 0) == 0) continue;
    struct stat info {};
    if (::stat(entry.path().c_str(), &info) != 0 || info.st_uid != geteuid()) continue;
    if (::unlink(entry.path().c_str()) == 0) ++removed;
  }
  return removed;
}

}  // namespace tenax::tools
