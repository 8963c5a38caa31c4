#include "tools/train_command.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "actors/engine_setup.h"
#include "actors/host_gpus.h"
#include "actors/run_directory.h"
#include "actors/supervisor.h"
#include "common/clock.h"
#include "compute/flops.h"
#include "compute/gpu_peak.h"
#include "compute/precision.h"
#include "configs/run_config.h"
#include "scheduler/exit_code.h"
#include "tools/generate.h"
#include "tools/layout_memory.h"
#include "tools/prepare_data.h"
#include "tools/progress_line.h"
#include "tools/stale_segments.h"
#include "tools/terminal_text.h"

namespace tenax::tools {

namespace {

using actors::RunDirectory;

int fail(const Error& error, int exit_code) {
  fmt::print(stderr, "tenax: {}\n", error.message);
  return exit_code;
}

/// What an error of the run directory, the store or the data means for the shell.
int exit_code_of(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported:
    case ErrorCode::kNotFound:
    case ErrorCode::kUnavailable:  // a GPU that was asked for
      return scheduler::kExitConfig;
    case ErrorCode::kInternal:
      return scheduler::kExitInternal;
    default:
      return scheduler::kExitStore;
  }
}

/// runs/NAME, or runs/NAME-2, ... : the first that does not exist; with `resume` the last that
/// does.
std::filesystem::path default_run_dir(const std::string& name, bool resume) {
  const std::filesystem::path base = "runs";
  std::filesystem::path last = base / name;
  for (int i = 1;; ++i) {
    const std::filesystem::path path = i == 1 ? base / name : base / fmt::format("{}-{}", name, i);
    if (!std::filesystem::exists(path)) return resume ? last : path;
    last = path;
  }
}

/// A run that is about to start or to go on.
struct PreparedRun {
  RunDirectory directory{""};
  actors::RunIdentity identity;
  configs::RunConfig config;
  std::vector<std::string> changes;
  PreparedData data;
  std::string memory;                      ///< the plan, in words
  std::uint64_t planned_device_bytes = 0;  ///< of the rank that needs most; 0: the CPU computes
  std::optional<actors::HostGpus> gpus;    ///< none where the CPU, or another host's GPU, computes
  bool resumed = false;
};

/// The stored configuration with the changes asked for; the error lists keys that a begun run may
/// not change.
Result<configs::RunConfig> resumed_config(const TrainArguments& arguments,
                                          const RunDirectory& directory,
                                          std::vector<std::string>& changes) {
  TENAX_TRY(const configs::RunConfig before, configs::load_run_config(directory.config(), {}));
  configs::RunConfig after;
  if (arguments.config.empty()) {
    TENAX_TRY(after, configs::load_run_config(directory.config(), arguments.overrides));
  } else {
    TENAX_TRY(after, configs::load_run_config(arguments.config, arguments.overrides));
  }
  const configs::ConfigDiff diff = configs::diff(before, after);
  if (!diff.fixed.empty()) {
    std::string text =
        fmt::format("{} is a run of another configuration; these keys cannot change on --resume:",
                    directory.path().string());
    for (const auto& c : diff.fixed)
      text += fmt::format("\n  {}: {} there, {} now", c.key, c.before, c.after);
    text += "\nChangeable keys:";
    for (const auto& k : configs::list_keys()) {
      if (k.changeable == configs::Changeable::kYes) text += " " + k.key;
    }
    return make_error(ErrorCode::kInvalidArgument, text);
  }
  for (const auto& c : diff.changeable)
    changes.push_back(fmt::format("{}: {} -> {}", c.key, c.before, c.after));
  return after;
}

/// Of this machine's workers. What other hosts have is not known here.
compute::PeakFlops peak_flops(const PreparedRun& run) {
  const compute::Precision precision = run.config.train.precision;
  compute::PeakFlops peak;
  if (run.gpus) {
    peak.worker = compute::gpu_peak_flops(run.gpus->gpus.front().name, precision);
    peak.most = static_cast<double>(run.gpus->gpus.size()) * peak.worker;
    return peak;
  }
  const double cores = std::max(1u, std::thread::hardware_concurrency());
  const double thread = compute::measure_peak_flops(compute::cpu::best_isa(), precision);
  peak.worker = static_cast<double>(run.config.layout.threads_per_worker) * thread;
  if (run.config.network.hosts.empty()) peak.most = cores * thread;
  return peak;
}

/// Lets a run go on only where it computes the same bits, or where that is waived.
Status check_arithmetic(const TrainArguments& arguments, PreparedRun& run) {
  if (run.config.train.device == configs::ComputeDevice::kCuda && !run.gpus) return {};
  const std::string here =
      run.gpus ? actors::gpu_arithmetic(run.config, *run.gpus->plugin, run.gpus->gpus.front())
               : actors::arithmetic_of(run.config, nullptr);
  if (run.identity.arithmetic == here && run.identity.peak.worker > 0) return {};
  const bool other = !run.identity.arithmetic.empty() && run.identity.arithmetic != here;
  if (other && !arguments.other_arithmetic) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("this machine computes other bits than {} began with: {} here, {} there; "
                    "--other-arithmetic goes on all the same, with other last bits from here on",
                    run.directory.path().string(), here, run.identity.arithmetic));
  }
  if (other)
    run.changes.push_back(fmt::format("arithmetic: {} -> {}", run.identity.arithmetic, here));
  run.identity.arithmetic = here;
  run.identity.peak = peak_flops(run);
  return run.directory.write_identity(run.identity);
}

Status plan_memory(PreparedRun& run) {
  GpuMemory gpus;
  if (run.gpus) {
    gpus.bytes = static_cast<std::int64_t>(run.gpus->gpus.front().memory_bytes);
    gpus.count = static_cast<int>(run.gpus->gpus.size());
  }
  TENAX_TRY(const auto stages, plan_run_memory(run.config, run.data.vocabulary_size, gpus));
  run.memory = describe_memory(stages, run.config);
  if (run.config.train.device == configs::ComputeDevice::kCuda) {
    for (const RankMemory& rank : stages)
      run.planned_device_bytes =
          std::max(run.planned_device_bytes, static_cast<std::uint64_t>(rank.total()));
  }
  return {};
}

/// For workers, which say it beside an allocation that is refused.
Status keep_plan(PreparedRun& run) {
  if (run.identity.planned_device_bytes == run.planned_device_bytes) return {};
  run.identity.planned_device_bytes = run.planned_device_bytes;
  return run.directory.write_identity(run.identity);
}

/// Whether the same command as before goes on with the run by itself: it was preempted or, where
/// the directory is named, broke off without an end. One that ended otherwise waits for --resume.
bool goes_on_by_itself(const RunDirectory& directory, const configs::RunConfig& config,
                       bool is_named) {
  if (!directory.exists()) return false;
  const std::optional<int> outcome = directory.read_outcome();
  if (outcome ? *outcome != scheduler::kExitRequeue : !is_named) return false;
  const auto before = configs::load_run_config(directory.config(), {});
  return before && configs::diff(*before, config).fixed.empty();
}

/// The GPUs of this machine, where its workers are to use them. What the GPUs of other hosts are is
/// theirs to say. None is opened: a context in this process would hold its memory for the whole
/// run.
Result<std::optional<actors::HostGpus>> local_gpus(const configs::RunConfig& config) {
  std::optional<actors::HostGpus> gpus;
  if (config.train.device != configs::ComputeDevice::kCuda || !config.network.hosts.empty())
    return gpus;
  TENAX_TRY(gpus, actors::find_gpus());
  return gpus;
}

Result<PreparedRun> prepare(const TrainArguments& arguments) {
  PreparedRun run;
  std::filesystem::path path = arguments.run_dir;
  std::optional<configs::RunConfig> config;
  if (!arguments.config.empty()) {
    TENAX_TRY(config, configs::load_run_config(arguments.config, arguments.overrides));
  }
  if (path.empty()) {
    if (!config) {
      return make_error(ErrorCode::kInvalidArgument,
                        "--resume without a configuration needs --run-dir");
    }
    path = default_run_dir(config->run.name, /*resume=*/true);
    if (!arguments.resume && !goes_on_by_itself(RunDirectory(path), *config, false))
      path = default_run_dir(config->run.name, /*resume=*/false);
  }
  run.directory = RunDirectory(std::filesystem::absolute(path).lexically_normal());
  const bool by_itself = config && goes_on_by_itself(run.directory, *config, true);
  run.resumed = (arguments.resume || by_itself) && run.directory.exists();
  if (!run.resumed && run.directory.exists()) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format(
            "{} already holds a run: add --resume to go on with it, or choose another --run-dir",
            path.string()));
  }
  if (!run.resumed && !config) {
    return make_error(ErrorCode::kNotFound,
                      fmt::format("{} holds no run to resume", path.string()));
  }
  if (run.resumed) {
    TENAX_TRY(run.config, resumed_config(arguments, run.directory, run.changes));
    TENAX_TRY(run.identity, run.directory.identity());
    TENAX_TRY(run.gpus, local_gpus(run.config));
    TENAX_RETURN_IF_ERROR(check_arithmetic(arguments, run));
    TENAX_TRY(run.data, reopen_data(run.directory));
    TENAX_RETURN_IF_ERROR(plan_memory(run));
    TENAX_RETURN_IF_ERROR(keep_plan(run));
    return run;
  }
  run.config = *config;
  TENAX_TRY(run.gpus, local_gpus(run.config));
  // run.json is written last: a directory without it is not yet a run and may be filled again.
  std::error_code ec;
  std::filesystem::create_directories(run.directory.path() / "data", ec);
  if (ec) {
    return make_error(ErrorCode::kPermission,
                      fmt::format("create {}: {}", run.directory.path().string(), ec.message()));
  }
  TENAX_TRY(run.data, prepare_data(run.config, run.directory));
  TENAX_RETURN_IF_ERROR(plan_memory(run));
  TENAX_TRY(run.identity, run.directory.create(run.config.run.name));
  TENAX_RETURN_IF_ERROR(check_arithmetic(arguments, run));
  TENAX_RETURN_IF_ERROR(keep_plan(run));
  return run;
}

constexpr std::size_t kColumn = 10;  // of the texts behind their labels

/// `degrees` are what the run has, which is not what was configured once it was scaled.
std::string layout_words(const configs::LayoutSection& layout, const Degrees& degrees) {
  return fmt::format(
      "{} worker{} on {} agent{}: data parallel {}{} x pipeline parallel {}{}{}{}",
      degrees.world_size(), degrees.world_size() == 1 ? "" : "s", layout.agents,
      layout.agents == 1 ? "" : "s", degrees.dp,
      degrees.tp > 1 ? fmt::format(" x tensor parallel {}", degrees.tp) : std::string(), degrees.pp,
      layout.virtual_stages > 1 ? fmt::format(" in {} virtual stages each", layout.virtual_stages)
                                : std::string(),
      layout.zero > 0 ? fmt::format(", ZeRO-{}", layout.zero) : std::string(),
      layout.spares > 0 ? fmt::format("; {} spare{}", layout.spares, layout.spares == 1 ? "" : "s")
                        : std::string());
}

void introduce(const PreparedRun& run, const actors::SupervisorHandle& supervisor) {
  const configs::RunConfig& c = run.config;
  const Degrees degrees = supervisor.degrees();
  const Degrees configured{static_cast<int>(c.layout.data_parallel),
                           static_cast<int>(c.layout.tensor_parallel),
                           static_cast<int>(c.layout.pipeline_parallel)};
  say(kColumn, "run",
      fmt::format("{} in {}{}", run.identity.name, run.directory.path().string(),
                  run.resumed ? " (resumed)" : ""));
  say(kColumn, "data",
      fmt::format("{} documents, {:.2f} MB: {} training and {} held-out tokens of {}",
                  run.data.num_documents, static_cast<double>(run.data.num_bytes) * 1e-6,
                  run.data.train_tokens, run.data.heldout_tokens, run.data.vocabulary_size));
  say(kColumn, "layout",
      layout_words(c.layout, degrees) +
          (degrees == configured ? "" : " (scaled; the configuration has another)"));
  // The plan is of the configured layout.
  if (degrees == configured) say(kColumn, "memory", run.memory);
  say(kColumn, "baselines",
      fmt::format("uniform {:.4f}, unigram {:.4f} nats a token", run.data.uniform_loss,
                  run.data.unigram_loss));
  if (!supervisor.dashboard_url().empty()) say(kColumn, "dashboard", supervisor.dashboard_url());
  for (const std::string& notice : run.data.notices) say(kColumn, "notice", notice);
  std::fflush(stdout);
}

void summarise(const PreparedRun& run, const actors::Progress& p,
               const actors::RunOutcome& outcome) {
  fmt::print("\n{}\n", outcome.reason);
  fmt::print("steps     {} of {} in {} (goodput {:.2f}), {} restart{}, {} rollback{}\n", p.step,
             p.total_steps, format_seconds(p.wall_seconds), p.goodput, p.restarts,
             p.restarts == 1 ? "" : "s", p.rollbacks, p.rollbacks == 1 ? "" : "s");
  if (p.step > 0) {
    fmt::print("loss      {:.4f}", p.loss);
    if (p.has_eval)
      fmt::print(", held-out {:.4f} (unigram {:.4f})", p.eval_loss, run.data.unigram_loss);
    fmt::print("\n");
  }
  fmt::print("saved     {} checkpoint{}, the newest of step {}\n", p.checkpoints,
             p.checkpoints == 1 ? "" : "s", p.newest_checkpoint);
  std::fflush(stdout);
}

void print_sample(const PreparedRun& run) {
  GenerateOptions options;
  options.tokens = run.config.generate.tokens;
  options.prompt = run.config.generate.prompt;
  options.temperature = run.config.generate.temperature;
  options.seed = static_cast<std::uint64_t>(run.config.run.seed);
  if (options.tokens <= 0) return;
  const auto text = generate_text(run.directory, run.config, options);
  if (!text) {
    fmt::print(stderr, "tenax: no sample: {}\n", text.error().message);
    return;
  }
  fmt::print("sample    (temperature {})\n", options.temperature);
  std::string line;
  for (const char c : *text + "\n") {
    if (c == '\n') {
      fmt::print("  | {}\n", line);
      line.clear();
    } else if (static_cast<unsigned char>(c) >= 0x20) {
      line += c;
    }
  }
}

/// Waits for the end while signals and progress are seen to. Signals were blocked before any thread
/// was started.
actors::RunOutcome watch(actors::SupervisorHandle& supervisor, const sigset_t& signals,
                         const Clock& clock) {
  ProgressLine line(stdout);
  int interrupts = 0;
  while (true) {
    const timespec no_wait{0, 0};
    const int signal = sigtimedwait(&signals, nullptr, &no_wait);
    if (signal == SIGINT && ++interrupts > 1) {
      line.say("second interrupt: leaving at once; the last committed checkpoint is intact");
      supervisor.abandon();
    } else if (signal == SIGINT) {
      line.say(
          "interrupted: finishing the step and saving a checkpoint (press Ctrl-C again to leave at "
          "once)");
      supervisor.request_stop(scheduler::StopKind::kGraceful, "signal 2 (Interrupt)");
    } else if (signal > 0) {
      supervisor.request_stop(scheduler::StopKind::kPreempt,
                              fmt::format("signal {} ({})", signal, strsignal(signal)));
    }
    for (const std::string& note : supervisor.view().take_notes()) line.say("  " + note);
    line.draw(supervisor.view().progress(), clock.now());
    if (auto outcome = supervisor.wait(std::chrono::milliseconds(100))) {
      for (const std::string& note : supervisor.view().take_notes()) line.say("  " + note);
      line.finish(supervisor.view().progress());
      return *std::move(outcome);
    }
  }
}

}  // namespace

int run_train(const TrainArguments& arguments) {
  auto run = prepare(arguments);
  if (!run) return fail(run.error(), exit_code_of(run.error()));
  sweep_stale_segments(run->identity.id);

  sigset_t signals;
  sigemptyset(&signals);
  for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) sigaddset(&signals, s);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  const SystemClock clock;
  actors::SupervisorOptions options;
  options.directory = run->directory;
  options.identity = run->identity;
  options.config = run->config;
  options.config_text = configs::canonical_text(run->config);
  options.config_path = arguments.config.string();
  options.config_changes = run->changes;
  options.data_digest = run->data.digest;
  options.flops_per_token =
      compute::flops_per_token(configs::model_options(run->config, run->data.vocabulary_size),
                               static_cast<int>(run->config.train.sequence_length));
  options.unigram_loss = run->data.unigram_loss;
  options.uniform_loss = run->data.uniform_loss;
  auto supervisor = actors::start_supervisor(std::move(options), clock);
  if (!supervisor) return fail(supervisor.error(), exit_code_of(supervisor.error()));

  run->directory.forget_outcome();
  introduce(*run, **supervisor);
  const actors::RunOutcome outcome = watch(**supervisor, signals, clock);
  const actors::Progress progress = (*supervisor)->view().progress();
  supervisor->reset();
  if (const Status kept = run->directory.write_outcome(outcome.exit_code, outcome.reason); !kept)
    fmt::print(stderr, "tenax: {}\n", kept.error().message);
  summarise(*run, progress, outcome);
  if (outcome.exit_code == scheduler::kExitDone) {
    print_sample(*run);
  } else {
    say(kColumn, "to go on",
        fmt::format("tenax train --resume --run-dir {}", run->directory.path().string()));
  }
  return outcome.exit_code;
}

}  // namespace tenax::tools
