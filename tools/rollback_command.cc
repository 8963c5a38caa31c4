#include "tools/rollback_command.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>
#include <vector>

#include "actors/run_directory.h"
#include "actors/supervisor.h"
#include "checkpoint/holder.h"
#include "checkpoint/store.h"
#include "checkpoint/store_reader.h"
#include "common/clock.h"
#include "configs/run_config.h"
#include "scheduler/run_json.h"
#include "tools/command_errors.h"
#include "tools/run_checkpoints.h"
#include "tools/run_state_at_end.h"
#include "tools/supervisor_client.h"

namespace tenax::tools {

namespace {

using scheduler::RollbackRequested;

struct Decided {
  scheduler::JournalEntry entry;
  scheduler::RunState state;
  std::int64_t load_step = 0;  ///< of the checkpoint that would be loaded; 0: the initial weights
};

Result<RollbackRequested> request_of(const RollbackArguments& arguments) {
  RollbackRequested request;
  request.to = arguments.to;
  request.lr_factor = arguments.lr_factor;
  request.lr_steps = arguments.lr_steps;
  request.by = "tenax rollback";
  if (arguments.skip.empty()) return request;
  const std::string& text = arguments.skip;
  const std::size_t colon = text.find(':');
  const char* end = text.data() + text.size();
  const auto number = [](const char* begin, const char* stop, std::int64_t& value) {
    const auto [at, error] = std::from_chars(begin, stop, value);
    return error == std::errc() && at == stop;
  };
  if (colon == std::string::npos || !number(text.data(), text.data() + colon, request.skip_first) ||
      !number(text.data() + colon + 1, end, request.skip_last) ||
      request.skip_last < request.skip_first) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("--skip takes FIRST:LAST, two steps in order, not \"{}\"", text));
  }
  return request;
}

/// What the controller decides on the request as of the journal's end; kInvalidArgument with its
/// reason if it refuses.
Result<Decided> decide(const checkpoint::StoreView& store, const configs::RunConfig& config,
                       const RollbackRequested& request, std::uint64_t term, Time now) {
  const scheduler::RunController controller(actors::controller_options(config));
  TENAX_TRY(RunStateAtEnd at_end, read_run_state(store, controller));
  Decided out;
  out.state = std::move(at_end.state);
  out.entry.event = request;
  out.entry.commands = controller.decide(out.state, out.entry.event, now);
  out.entry.seq = at_end.last_seq + 1;
  out.entry.time = now;
  out.entry.term = term;
  out.entry.generation = out.state.generation;
  if (!scheduler::begins_a_generation(out.entry.commands)) {
    return make_error(ErrorCode::kInvalidArgument, scheduler::describe(out.entry));
  }
  const scheduler::CheckpointInfo* source = scheduler::newest_checkpoint(out.state, request.to);
  out.load_step = source != nullptr ? source->step : 0;
  return out;
}

void print(const Decided& decided, const RollbackArguments& arguments, const char* done) {
  const std::string text = scheduler::describe(decided.entry);
  if (arguments.json) {
    nlohmann::json windows = nlohmann::json::array();
    for (const SkipWindow& w : decided.state.skip_windows) windows.push_back({w.begin, w.end});
    fmt::print("{}\n", nlohmann::json{{"branch", decided.state.branch},
                                      {"to", arguments.to},
                                      {"load_step", decided.load_step},
                                      {"replay_steps", arguments.to - decided.load_step},
                                      {"skip_windows", std::move(windows)},
                                      {"dry_run", arguments.dry_run},
                                      {"text", text}}
                           .dump());
    return;
  }
  fmt::print("{}\n", text);
  fmt::print("the weights come from {}; {} steps are replayed\n",
             decided.load_step > 0 ? fmt::format("the checkpoint of step {}", decided.load_step)
                                   : std::string("the start"),
             arguments.to - decided.load_step);
  fmt::print("{}\n", done);
}

Status roll_back(const RollbackArguments& arguments) {
  const actors::RunDirectory directory(arguments.run_dir);
  TENAX_TRY([[maybe_unused]] const auto identity, directory.identity());
  TENAX_TRY(const configs::RunConfig config, configs::load_run_config(directory.config(), {}));
  TENAX_TRY(const RollbackRequested request, request_of(arguments));
  const std::string path = arguments.run_dir.string();
  const Time now = SystemClock().now();
  {
    TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(path));
    TENAX_TRY(const Decided preview, decide(*store, config, request, 0, now));
    if (arguments.dry_run) {
      print(preview, arguments, "nothing was changed (--dry-run)");
      return {};
    }
    if (supervisor_lives(directory)) {
      TENAX_RETURN_IF_ERROR(
          post_control(directory, "rollback", nlohmann::json::parse(scheduler::to_json(request))));
      print(preview, arguments, "the supervisor was asked; `tenax journal` shows what it decided");
      return {};
    }
  }
  const auto before = checkpoint::read_holder(path);
  checkpoint::StoreOptions options;
  options.holder = this_process(before ? before->term + 1 : 1, now);
  TENAX_TRY(const auto store, checkpoint::Store::open(path, options));
  TENAX_TRY(const Decided decided, decide(*store, config, request, options.holder.term, now));
  const checkpoint::JournalRecord record{decided.entry.seq, scheduler::to_json(decided.entry)};
  TENAX_RETURN_IF_ERROR(
      store->append_journal(std::span(&record, 1), scheduler::to_json(decided.state)));
  print(decided, arguments,
        fmt::format("to go on  tenax train --resume --run-dir {}", path).c_str());
  return {};
}

}  // namespace

int run_rollback(const RollbackArguments& arguments) {
  const Status status = roll_back(arguments);
  return status ? 0 : report_error(status.error());
}

}  // namespace tenax::tools
