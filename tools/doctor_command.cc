#include "tools/doctor_command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <ostream>

#include "compute/cpu/isa.h"
#include "compute/cuda_plugin.h"
#include "scheduler/exit_code.h"

namespace tenax::tools {
namespace {

using nlohmann::json;

std::string_view to_string(CheckState state) {
  switch (state) {
    case CheckState::kOk:
      return "ok";
    case CheckState::kAbsent:
      return "absent";
    case CheckState::kWarning:
      return "warning";
    case CheckState::kTrouble:
      return "trouble";
  }
  return "";
}

std::string gibibytes(std::uint64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / 0x1p30);
}

/// Names of the file systems whose locks differ from those of a disk.
std::string file_system_name(long type) {
  switch (type) {
    case 0x6969:
      return "nfs";
    case 0xFF534D42:
    case 0xFE534D42:
      return "smb";
    case 0x0BD00BD0:
      return "lustre";
    case 0x47504653:
      return "gpfs";
    case 0x00C36400:
      return "ceph";
    case 0x65735546:
      return "fuse";
    case 0x01021994:
      return "tmpfs";
    case 0x794C7630:
      return "overlay";
    default:
      return fmt::format("type {:#x}", static_cast<unsigned long>(type));
  }
}

std::filesystem::path nearest_existing(std::filesystem::path path) {
  std::error_code ignored;
  path = std::filesystem::absolute(path, ignored).lexically_normal();
  while (!std::filesystem::exists(path, ignored) && path.has_parent_path() &&
         path != path.parent_path())
    path = path.parent_path();
  return path;
}

bool lock(int file) {
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  return fcntl(file, F_SETLK, &whole) == 0;
}

/// Whether another process is refused the lock that this one has on `file`.
bool another_is_refused(int file) {
  const pid_t child = fork();
  if (child == 0) _exit(lock(file) ? 1 : (errno == EAGAIN || errno == EACCES ? 0 : 2));
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
         WEXITSTATUS(status) == 0;
}

/// A library's line from the plugin's description.
DoctorCheck library_check(const json& described, const char* name, const char* purpose) {
  const json& entry = described.at(name);
  const auto compiled = entry.at("compiled").get<long long>();
  const auto found = entry.at("found").get<long long>();
  DoctorCheck check;
  check.name = name;
  check.text = fmt::format("{}: ", purpose);
  if (found == 0) {
    check.state = CheckState::kAbsent;
    check.text += entry.at("where").get<std::string>();
    check.advice = "install it beside the driver, or name its folder in TENAX_CUDA_LIBS";
    return check;
  }
  check.text += entry.at("where").get<std::string>();
  if (compiled == 0) return check;
  check.text += fmt::format(", version {}, built for {}", found, compiled);
  if (found < compiled) {
    check.state = CheckState::kWarning;
    check.advice = "it is older than what the plugin was built for";
  }
  return check;
}

DoctorCheck device_check(const compute::CudaPlugin& plugin, int device) {
  std::array<char, 1024> text{};
  tenax_cuda_device_info info{};
  DoctorCheck check;
  check.name = fmt::format("gpu {}", device);
  if (plugin.get_device_info(device, &info, text.data(), text.size()) != TENAX_CUDA_OK) {
    check.state = CheckState::kTrouble;
    check.text = text.data();
    return check;
  }
  check.text = fmt::format("{} sm_{}{}, {} of memory, bus {}, driver for CUDA {}.{}", info.name,
                           info.major, info.minor, gibibytes(info.memory_bytes), info.bus_id,
                           info.driver_version / 1000, info.driver_version % 1000 / 10);
  if (info.major < 8) {
    check.state = CheckState::kWarning;
    check.advice = "the plugin needs an Ampere (sm_80) or newer GPU";
  }
  const bool has_health = plugin.health(device, text.data(), text.size()) == TENAX_CUDA_OK;
  check.text += has_health ? fmt::format("; {}", text.data())
                           : fmt::format("; no health figures: {}", text.data());
  if (has_health) {
    const json health = json::parse(text.data(), nullptr, false);
    if (!health.is_discarded() && health.value("ecc_uncorrected", 0) > 0) {
      check.state = CheckState::kWarning;
      check.advice =
          "uncorrectable memory errors since the driver was loaded: nvidia-smi -q -d ECC";
    }
  }
  return check;
}

DoctorCheck peer_check(const compute::CudaPlugin& plugin, int count) {
  std::array<char, 512> text{};
  DoctorCheck check;
  check.name = "gpu to gpu";
  int pairs = 0;
  int direct = 0;
  for (int from = 0; from < count; ++from)
    for (int to = 0; to < count; ++to) {
      if (from == to) continue;
      std::int32_t can = 0;
      static_cast<void>(plugin.peer_access(from, to, &can, text.data(), text.size()));
      ++pairs;
      direct += can;
    }
  check.text = fmt::format("{} of {} pairs read each other's memory directly", direct, pairs);
  return check;
}

}  // namespace

DoctorCheck check_locks(const std::filesystem::path& folder) {
  DoctorCheck check;
  check.name = "locks";
  const std::filesystem::path existing = nearest_existing(folder);
  struct statfs fs {};
  if (statfs(existing.c_str(), &fs) != 0) {
    check.state = CheckState::kTrouble;
    check.text = fmt::format("{}: {}", existing.string(), std::strerror(errno));
    return check;
  }
  std::string path = (existing / ".tenax-doctor-XXXXXX").string();
  const int file = mkstemp(path.data());
  if (file < 0) {
    check.state = CheckState::kTrouble;
    check.text = fmt::format("{} cannot be written: {}", existing.string(), std::strerror(errno));
    check.advice = "choose another --run-dir";
    return check;
  }
  const bool mine = lock(file);
  const bool exclusive = mine && another_is_refused(file);
  static_cast<void>(unlink(path.c_str()));
  close(file);
  check.text = fmt::format(
      "{} ({}), {} free: ", existing.string(), file_system_name(fs.f_type),
      gibibytes(static_cast<std::uint64_t>(fs.f_bavail) * static_cast<std::uint64_t>(fs.f_bsize)));
  if (exclusive) {
    check.text += "a second process is refused the lock of the first";
  } else {
    check.state = CheckState::kTrouble;
    check.text += mine ? "two processes get the same lock" : "files cannot be locked";
    check.advice = "two supervisors could open one run there; put runs on another file system";
  }
  return check;
}

DoctorCheck check_shared_memory(const std::filesystem::path& folder) {
  DoctorCheck check;
  check.name = "shared memory";
  struct statvfs fs {};
  if (statvfs(folder.c_str(), &fs) != 0) {
    check.state = CheckState::kTrouble;
    check.text = fmt::format("{}: {}", folder.string(), std::strerror(errno));
    check.advice = "mount a tmpfs there: snapshots pass through it";
    return check;
  }
  const std::uint64_t block = fs.f_frsize;
  const std::uint64_t free = fs.f_bavail * block;
  check.text = fmt::format("{}: {} of {} free", folder.string(), gibibytes(free),
                           gibibytes(fs.f_blocks * block));
  // Two slots of parameters, m and v for a model of some ten million parameters.
  constexpr std::uint64_t kSmall = std::uint64_t{256} << 20;
  if (free < kSmall) {
    check.state = CheckState::kWarning;
    check.advice = "each worker needs 24 bytes a parameter there (docker: --shm-size)";
  }
  return check;
}

std::vector<DoctorCheck> check_gpus(const std::vector<std::string>& plugin_candidates) {
  std::vector<DoctorCheck> checks;
  const auto plugin = compute::CudaPlugin::load(plugin_candidates);
  if (!plugin) {
    checks.push_back({"gpu engine", CheckState::kAbsent, plugin.error().message,
                      "runs train on the CPU; for GPUs build with CUDA 13's nvcc"});
    return checks;
  }
  checks.push_back({"gpu engine", CheckState::kWarning,
                    fmt::format("{}: compiled, never run on a GPU", (*plugin)->path),
                    "tools/gpu_check on a machine with a GPU would be its first run"});
  const auto count = compute::cuda_device_count(**plugin);
  if (!count) {
    checks.push_back({"gpus", CheckState::kAbsent, count.error().message, "runs train on the CPU"});
  } else {
    for (int device = 0; device < *count; ++device)
      checks.push_back(device_check(**plugin, device));
    if (*count > 1) checks.push_back(peer_check(**plugin, *count));
  }
  std::array<char, 8192> text{};
  static_cast<void>((*plugin)->describe(text.data(), text.size()));
  const json described = json::parse(text.data(), nullptr, false);
  if (described.is_discarded() || !described.contains("cublasLt")) return checks;
  checks.push_back(library_check(described, "cublasLt", "matrix products"));
  checks.push_back(library_check(described, "cudnn", "attention in BF16"));
  checks.push_back(library_check(described, "nccl", "reductions over several GPUs"));
  checks.push_back(library_check(described, "nvrtc", "needed by cuDNN"));
  checks.push_back(library_check(described, "nvml", "health of GPUs"));
  return checks;
}

int run_doctor(const DoctorArguments& arguments, std::ostream& out) {
  std::vector<DoctorCheck> checks;
  const long pages = sysconf(_SC_PHYS_PAGES);
  const auto memory =
      static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  checks.push_back(
      {"processor", CheckState::kOk,
       fmt::format("{} cores, {} kernels, {} of memory", sysconf(_SC_NPROCESSORS_ONLN),
                   compute::cpu::to_string(compute::cpu::best_isa()), gibibytes(memory)),
       ""});
  checks.push_back(check_shared_memory("/dev/shm"));
  checks.push_back(check_locks(arguments.run_dir));
  for (DoctorCheck& check : check_gpus(compute::cuda_plugin_candidates()))
    checks.push_back(std::move(check));
  bool trouble = false;
  json list = json::array();
  for (const DoctorCheck& check : checks) {
    trouble = trouble || check.state == CheckState::kTrouble;
    if (arguments.json) {
      list.push_back({{"name", check.name},
                      {"state", to_string(check.state)},
                      {"text", check.text},
                      {"advice", check.advice}});
      continue;
    }
    out << fmt::format("{:8} {:14} {}\n", to_string(check.state), check.name, check.text);
    if (!check.advice.empty()) out << fmt::format("{:23} -> {}\n", "", check.advice);
  }
  if (arguments.json) out << json{{"checks", list}, {"trouble", trouble}}.dump() << "\n";
  return trouble ? scheduler::kExitConfig : scheduler::kExitDone;
}

}  // namespace tenax::tools
