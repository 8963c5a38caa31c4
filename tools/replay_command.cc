#include "tools/replay_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "actors/process.h"
#include "actors/run_directory.h"
#include "actors/step_replay.h"
#include "checkpoint/store_reader.h"
#include "configs/run_config.h"
#include "scheduler/exit_code.h"
#include "scheduler/run_json.h"
#include "tools/command_errors.h"
#include "tools/run_checkpoints.h"

namespace tenax::tools {

namespace {

/// Fills in what the user left open.
Result<actors::ReplayOptions> replay_options(const ReplayArguments& arguments) {
  actors::ReplayOptions options;
  options.directory = actors::RunDirectory(arguments.run_dir);
  options.checkpoint_id = arguments.checkpoint_id;
  options.to = arguments.to;
  options.id = arguments.id;
  if (options.checkpoint_id) return options;
  TENAX_TRY([[maybe_unused]] const auto identity, options.directory.identity());
  TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(arguments.run_dir.string()));
  if (options.to < 0) {
    TENAX_TRY(const auto saved, store->state());
    if (!saved) return make_error(ErrorCode::kNotFound, "the run has no journal yet");
    TENAX_TRY(const scheduler::RunState state, scheduler::run_state_from_json(*saved));
    options.to = state.counted_step;
  }
  if (arguments.from == 0) options.checkpoint_id = 0;
  if (arguments.from > 0) {
    TENAX_TRY(const checkpoint::Manifest manifest, find_checkpoint(*store, arguments.from));
    options.checkpoint_id = manifest.checkpoint_id;
  }
  return options;
}

int for_the_supervisor(const ReplayArguments& arguments) {
  if (!actors::die_with_parent(static_cast<pid_t>(arguments.parent_pid)))
    return scheduler::kExitAbandoned;
  const auto options = replay_options(arguments);
  auto result = options ? actors::replay_steps(*options)
                        : Result<scheduler::ReplayEnded>(tl::unexpected(options.error()));
  scheduler::ReplayEnded ended;
  if (result) {
    ended = *result;
  } else {
    ended.id = arguments.id;
    ended.error = result.error().message;
    ended.tokens_damaged =
        result.error().code == ErrorCode::kDataLoss && ended.error.starts_with("token file");
  }
  const Status written = actors::write_file(arguments.out, scheduler::to_json(ended), 0644);
  return written ? scheduler::kExitDone : report_error(written.error());
}

}  // namespace

int run_replay(const ReplayArguments& arguments) {
  if (!arguments.out.empty()) return for_the_supervisor(arguments);
  auto options = replay_options(arguments);
  if (!options) return report_error(options.error());
  if (!arguments.json) {
    options->on_step = [](const StepReport& r) {
      fmt::print("step {}  loss {:.9g}  gradient norm {:.9g}  as journalled\n", r.step, r.loss,
                 r.grad_norm);
      std::fflush(stdout);
    };
  }
  const auto result = actors::replay_steps(*options);
  if (!result) return report_error(result.error());
  const bool same = result->difference_step == 0;
  if (arguments.json) {
    fmt::print("{}\n", nlohmann::json{{"same", same},
                                      {"compared", result->compared},
                                      {"difference_step", result->difference_step},
                                      {"replica", result->replica},
                                      {"spread", result->spread},
                                      {"detail", result->detail}}
                           .dump());
  } else if (same) {
    fmt::print("{} steps are the same, {}\n", result->compared,
               result->spread == 0
                   ? std::string("bit for bit")
                   : fmt::format("{:.2g} apart at most (one process does not round like the run's "
                                 "tensor-parallel ranks)",
                                 result->spread));
  } else {
    fmt::print("step {} was computed wrongly, by the run or here: {}\n", result->difference_step,
               result->detail);
  }
  return same ? 0 : 1;
}

}  // namespace tenax::tools
