// The supervisor process's actor: journals what happens, lets the run controller decide, and
// carries decisions out. Every decision is durable before it acts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/http_server.h"
#include "actors/run_directory.h"
#include "actors/run_view.h"
#include "checkpoint/store.h"
#include "common/clock.h"
#include "configs/run_config.h"
#include "scheduler/run_controller.h"

namespace tenax::actors {

struct SupervisorOptions {
  RunDirectory directory{""};
  RunIdentity identity;
  configs::RunConfig config;
  std::string config_text;                  ///< canonical; what workers get
  std::string config_path;                  ///< as the user named it
  std::vector<std::string> config_changes;  ///< against the last start
  Hash128 data_digest;
  double flops_per_token = 0;  ///< compute::flops_per_token of the model
  double unigram_loss = 0;
  double uniform_loss = 0;
};

/// How the run ended.
struct RunOutcome {
  int exit_code = 1;
  std::string reason;
  scheduler::RunState state;
};

/// The pieces of a live supervisor that its caller may look at and prod.
class SupervisorHandle {
 public:
  virtual ~SupervisorHandle() = default;
  virtual const RunView& view() const = 0;
  virtual RunView& view() = 0;
  virtual std::string dashboard_url() const = 0;
  /// The layout that the run began this session with, when nothing is missing.
  virtual Degrees degrees() const = 0;
  virtual void request_stop(scheduler::StopKind kind, const std::string& by) = 0;
  /// Kill everything now and end with kExitAbandoned.
  virtual void abandon() = 0;
  /// The outcome, once all processes are gone.
  virtual std::optional<RunOutcome> wait(Duration timeout) = 0;
};

/// Opens the store (its LOCK is the lease), takes over what an earlier supervisor left, and starts.
/// kInUse, naming the holder, while another supervisor lives; errors of the store and of the
/// dashboard's port otherwise.
Result<std::unique_ptr<SupervisorHandle>> start_supervisor(SupervisorOptions options,
                                                           const Clock& clock);

/// The controller's options that a configuration asks for.
scheduler::ControllerOptions controller_options(const configs::RunConfig& config);

}  // namespace tenax::actors
