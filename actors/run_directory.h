// A run's directory: where everything of it lies, and the small files that processes find each
// other by.
//
//   run.json         who the run is: id, name, secret, keys, arithmetic (mode 0600); whoever can
//                    read it is a member of the run
//   config.toml      the canonical configuration, as last started
//   supervisor.json  the current supervisor's addresses, pid and term, replaced at each start (mode
//                    0600)
//   bulk/            where each agent takes copies of slots
//   data/            token files, data.json (digests, baselines)
//   records/ chunks/ staging/ ...  the store (checkpoint/store.h)
//   logs/            what agents and workers wrote
//   samples/         losses of the newest samples (actors/sample_log.h)
//   spikes/          of those behind a rollback: kept
//   gpu_plans/       algorithms that workers' GPUs chose (actors/gpu_plans.h)
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "compute/flops.h"
#include "data/tokenize.h"
#include "wire/key_pair.h"

namespace tenax::actors {

struct RunIdentity {
  std::string id;  ///< names shared memory and logs
  std::string name;
  std::string secret;  ///< 128 random bits; every control message carries it (W2)
  wire::KeyPair keys;  ///< of every control socket (W1)
  /// What decides the run's bits besides its configuration (compute::arithmetic); empty: a run made
  /// before that was recorded, or weights that were imported.
  std::string arithmetic;
  compute::PeakFlops peak;  ///< of the machine, or of its GPUs, that the run began on
  /// Of GPU memory, what the rank that needs most was planned to hold; 0: not planned.
  std::uint64_t planned_device_bytes = 0;
};

struct SupervisorAddress {
  std::string endpoint;       ///< of the control socket
  std::string dashboard_url;  ///< empty: none
  std::string control_token;  ///< for POST /api/stop
  std::int64_t pid = 0;
  std::uint64_t term = 0;
  std::string host;
};

class RunDirectory {
 public:
  explicit RunDirectory(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.toml"; }
  /// Of each corpus of a blend, in its order; a run without a blend has corpus 0.
  std::filesystem::path train_tokens(std::size_t corpus = 0) const {
    return path_ / "data" / token_file("train", corpus);
  }
  std::filesystem::path heldout_tokens(std::size_t corpus = 0) const {
    return path_ / "data" / token_file("heldout", corpus);
  }
  /// The token files of `num_corpora` corpora.
  std::vector<data::TokenizePaths> corpora(std::size_t num_corpora) const {
    std::vector<data::TokenizePaths> paths;
    for (std::size_t c = 0; c < num_corpora; ++c)
      paths.push_back({train_tokens(c), heldout_tokens(c)});
    return paths;
  }
  std::filesystem::path data_info() const { return path_ / "data" / "data.json"; }
  std::filesystem::path tokenizer() const { return path_ / "data" / "tokenizer.json"; }
  std::filesystem::path traces() const { return path_ / "trace"; }
  std::filesystem::path trace(int rank) const {
    return traces() / ("rank-" + std::to_string(rank) + ".trace");
  }
  std::filesystem::path logs() const { return path_ / "logs"; }
  std::filesystem::path samples() const { return path_ / "samples"; }
  std::filesystem::path gpu_plans() const { return path_ / "gpu_plans"; }
  std::filesystem::path spikes() const { return path_ / "spikes"; }

  bool exists() const;
  /// Makes the folders and run.json if they do not exist.
  Result<RunIdentity> create(const std::string& name) const;
  /// kNotFound with a hint when this is no run directory.
  Result<RunIdentity> identity() const;

  /// Replaces what run.json says.
  Status write_identity(const RunIdentity& identity) const;
  /// How the last session ended, for the next start; none while one runs, and after a crash.
  Status write_outcome(int exit_code, const std::string& reason) const;
  std::optional<int> read_outcome() const;
  void forget_outcome() const;

  Status write_address(const SupervisorAddress& address) const;
  Result<SupervisorAddress> read_address() const;

  /// Where an agent's BuddyStore listens (bulk/agent-N.json, mode 0600).
  Status write_bulk_endpoint(std::uint32_t agent, const std::string& endpoint) const;
  Result<std::string> read_bulk_endpoint(std::uint32_t agent) const;

 private:
  static std::string token_file(std::string name, std::size_t corpus) {
    return name + (corpus == 0 ? "" : "-" + std::to_string(corpus)) + ".tok";
  }

  std::filesystem::path path_;
};

/// 128 random bits as hexadecimal digits.
std::string random_token();

/// Writes a file atomically and durably: a temporary file beside it, fsync, rename.
Status write_file(const std::filesystem::path& path, const std::string& text, unsigned mode);
Result<std::string> read_file(const std::filesystem::path& path);

}  // namespace tenax::actors
