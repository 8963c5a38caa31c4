// A worker's training loop: one generation at a time, from the plan to the end or to an error.
// Holds the engine, the slots and the place in the run between generations, so that a survivor
// keeps its memory. Runs on the engine's thread; what must reach it from outside comes through the
// GenerationLink and the SlotGate.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "actors/checkpoint_restore.h"
#include "actors/engine_payload.h"
#include "actors/fault_injection.h"
#include "actors/generation_link.h"
#include "actors/gpu_claim.h"
#include "actors/gpu_group.h"
#include "actors/gpu_health.h"
#include "actors/gpu_plans.h"
#include "actors/run_directory.h"
#include "actors/sample_log.h"
#include "actors/step_data.h"
#include "actors/trace_file.h"
#include "checkpoint/slot.h"
#include "common/clock.h"
#include "compute/cpu/gloo_device.h"
#include "compute/cuda_device.h"
#include "compute/engine.h"
#include "compute/flight_recorder.h"
#include "compute/lr_schedule.h"
#include "compute/step_trace.h"
#include "configs/run_config.h"
#include "wire/message.h"

namespace tenax::actors {

struct TrainLoopOptions {
  RunDirectory directory{""};
  std::string run_id;
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::uint64_t incarnation = 0;
};

class TrainLoop {
 public:
  using Send = std::function<void(wire::Body)>;

  /// `send` hands a message to the agent; it must not block.
  TrainLoop(TrainLoopOptions options, const Clock& clock, SlotGate& gate, Send send);

  /// Runs the plan to its end. Sends rankFormed, stepDone, snapshotSealed, deviceReport on the way
  /// and rankFinished at a good end. After an error returns what ended it; state() says where the
  /// rank stands.
  struct Stopped {
    std::string reason;
    std::uint64_t bad_checkpoint = 0;
    bool device_lost = false;  ///< this process is of no further use
  };
  std::optional<Stopped> run(const wire::PlanFor& plan, GenerationLink& link);

  /// What this rank holds, with the reports of steps after `counted_step`.
  RankState state(std::int64_t counted_step) const;
  /// Its last transfers, oldest first. Any thread, also while the engine is blocked in one.
  std::vector<FlightNote> flight() const;

 private:
  Duration scaled(Duration d) const;
  Status prepare(const wire::PlanFor& plan);
  /// Opens the GPU if the configuration wants one, and holds its arithmetic to the run's.
  Status prepare_device();
  /// The engine for another rank or layout. Weights that the rank keeps (its source is its memory)
  /// move into it; a half-done step is finished before.
  Status build_engine(const Plan& plan, int rank);
  Status open_slots();
  /// Lets the GPUs of the generation reach each other where they can.
  Status connect_gpus(const Plan& plan, compute::Communicator& comm, GenerationLink& link);
  Status restore(const Plan& plan, int rank, compute::Communicator& comm, RestoreSource& source);
  Status restore_checkpoint(const Plan& plan, RestoreSource& source);
  Status train(const Plan& plan, int rank, compute::Communicator& comm, GenerationLink& link);
  Status step(const Plan& plan, compute::Communicator& comm, GenerationLink& link,
              compute::Verdict& verdict);
  Result<compute::Verdict> compute_once(compute::Communicator& comm, GenerationLink& link,
                                        std::uint64_t branch, std::int64_t step, int attempt,
                                        const Hash128& first_hash);
  Result<compute::Verdict> compute_and_judge(compute::Communicator& comm, GenerationLink& link,
                                             StepReport& report);
  void apply(const StepReport& verdict);
  /// Applies the step of which the rank only has the gradients; false if there is none.
  bool finish_half_step(const Plan& plan);
  void note_samples(std::uint64_t branch, std::int64_t step);
  Status evaluate(compute::Communicator& comm, StepReport& report);
  /// Copies the rank's state into a slot. A GPU does it beside the next step's forward and
  /// backward: the slot is sealed by finish_snapshot() then.
  Status snapshot(const Plan& plan, int rank, GenerationLink& link);
  Status finish_snapshot();
  Status seal_snapshot();
  /// Waits for a copy that will not be sealed.
  void drop_snapshot();
  /// Tells what has become worse of the GPU's health, now and then.
  void watch_gpu();
  /// Tells that the GPU is why the generation ends, with what NVML says beside it; of another error
  /// nothing. True if this process can do nothing more with the GPU.
  bool tell_failure(int rank, const Error& seen, bool aborted);
  void tell_trouble(int rank, DeviceTrouble trouble, std::string text, bool ends);
  /// Writes down which algorithms the GPU uses; kUnsupported where they are not the run's.
  Status keep_plans();
  /// Says what this rank holds after a step, for the comparison with its replicas.
  Status check_integrity(const Plan& plan, int rank, std::int64_t step);
  double rate(std::int64_t step) const;
  void keep_trace(const Plan& plan);

  const TrainLoopOptions options_;
  const Clock& clock_;
  SlotGate& gate_;
  const Send send_;

  std::string config_text_;
  configs::RunConfig config_;
  compute::LrScheduleOptions schedule_;
  std::vector<Softening> softenings_;
  scheduler::GuardOptions guard_options_;
  GuardState guard_;  ///< after the newest step applied
  FaultInjection faults_;
  std::shared_ptr<compute::GlooDevice> device_;
  std::string device_address_;
  compute::FlightRecorder recorder_;
  compute::StepTrace trace_;
  std::optional<TraceFile> trace_file_;  ///< none where it could not be opened
  std::unique_ptr<StepData> data_;
  std::optional<GpuClaim> gpu_claim_;         ///< of the process, whatever its generations
  std::shared_ptr<compute::CudaDevice> gpu_;  ///< null where the CPU computes; outlives the engine
  std::optional<GpuPlans> gpu_plans_;
  std::optional<GpuHealth> health_;
  Time health_read_{};
  GpuGroup gpus_;       ///< of this generation
  std::string staged_;  ///< why ranks' GPUs do not reach each other, as last said
  std::unique_ptr<compute::Engine> engine_;
  std::unique_ptr<SampleLog> samples_;  ///< where this rank computes losses
  Degrees degrees_;
  PipelineSchedule eval_schedule_;
  std::optional<checkpoint::SlotPair> slots_;
  std::shared_ptr<void> pinned_[2];  ///< the slots' memory, for the GPU
  /// A snapshot that is being copied into its slot.
  struct Pending {
    std::uint32_t rank = 0;
    int index = 0;
    checkpoint::SlotHeader header;
  };
  std::optional<Pending> pending_;
  Duration snapshot_wait_{};  ///< of training, since the newest report
  EnginePayload payload_;
  Hash128 plan_digest_;
  std::int64_t obeyed_ = 0;          ///< commands of this generation
  std::int64_t snapshot_step_ = -1;  ///< of the newest snapshot on this branch
  std::uint64_t snapshot_branch_ = 0;
  std::uint64_t bad_checkpoint_ = 0;

  mutable Mutex state_mutex_;
  RankState held_ TENAX_GUARDED_BY(state_mutex_);
  std::deque<StepReport> reports_ TENAX_GUARDED_BY(state_mutex_);
};

}  // namespace tenax::actors
