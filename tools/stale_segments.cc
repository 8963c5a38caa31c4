#include "tools/stale_segments.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "checkpoint/run_presence.h"
#include "checkpoint/slot.h"

namespace tenax::tools {

namespace {

constexpr const char* kPrefix = "tenax-";

}  // namespace

int sweep_stale_segments(const std::string& keep_run_id) {
  int removed = 0;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint::kSegmentDirectory, ec)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(kPrefix, 0) != 0) continue;
    if (!keep_run_id.empty() && name.rfind(kPrefix + keep_run_id + "-", 0) == 0) continue;
    struct stat info {};
    if (::stat(entry.path().c_str(), &info) != 0 || info.st_uid != geteuid()) continue;
    if (checkpoint::is_run_present(name)) continue;
    if (checkpoint::unlink_unheld(name)) ++removed;
  }
  return removed;
}

}  // namespace tenax::tools
