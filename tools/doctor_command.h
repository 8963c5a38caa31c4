// `tenax doctor`: what this machine has of what a run may need, what is missing and what to do
// about it. Changes nothing but for a file that it makes in the run directory's file system and
// removes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

namespace tenax::tools {

enum class CheckState : std::uint8_t {
  kOk,
  kAbsent,   ///< optional; runs do without
  kWarning,  ///< works, but look at it
  kTrouble,  ///< a run will not work
};

/// One thing looked at.
struct DoctorCheck {
  std::string name;
  CheckState state = CheckState::kOk;
  std::string text;    ///< what was found
  std::string advice;  ///< what to do; empty where there is nothing
};

/// Whether locks of processes exclude each other in the file system of `folder` (a missing folder:
/// of its nearest parent that exists). Makes a child process for a moment.
DoctorCheck check_locks(const std::filesystem::path& folder);
/// Free space of the shared memory that slots of snapshots are made in.
DoctorCheck check_shared_memory(const std::filesystem::path& folder);
/// The plugin, the driver, each GPU with its health, the libraries, access between GPUs.
std::vector<DoctorCheck> check_gpus(const std::vector<std::string>& plugin_candidates);

struct DoctorArguments {
  std::filesystem::path run_dir = "runs";
  bool json = false;
};

/// Returns an ExitCode (scheduler/exit_code.h): 0 unless something is in trouble, which is
/// kExitConfig.
int run_doctor(const DoctorArguments& arguments, std::ostream& out);

}  // namespace tenax::tools
