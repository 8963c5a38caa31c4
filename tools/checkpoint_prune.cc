#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "actors/run_directory.h"
#include "actors/supervisor.h"
#include "checkpoint/holder.h"
#include "checkpoint/pin.h"
#include "checkpoint/store.h"
#include "checkpoint/store_reader.h"
#include "common/clock.h"
#include "configs/run_config.h"
#include "scheduler/run_controller.h"
#include "scheduler/run_json.h"
#include "tools/checkpoint_commands.h"
#include "tools/command_errors.h"
#include "tools/run_checkpoints.h"
#include "tools/run_state_at_end.h"

namespace tenax::tools {

namespace {

struct Pruned {
  scheduler::JournalEntry entry;
  std::string state;
  std::vector<scheduler::DeleteCheckpoint> deletions;
  std::vector<std::int64_t> steps;  ///< of the deletions
};

/// What the run controller decides on a PruneRequested, as of the journal's end.
Result<Pruned> decide(const checkpoint::StoreView& store, const configs::RunConfig& config,
                      const PruneArguments& arguments, std::uint64_t term, Time now) {
  scheduler::ControllerOptions options = actors::controller_options(config);
  const scheduler::RunController controller(options);
  TENAX_TRY(RunStateAtEnd at_end, read_run_state(store, controller));
  scheduler::RunState& state = at_end.state;

  scheduler::PruneRequested request;
  request.keep_last =
      arguments.keep_last >= 0 ? std::max(1, arguments.keep_last) : options.keep_last;
  request.by = "tenax checkpoint prune";
  const std::vector<scheduler::CheckpointInfo> before = state.checkpoints;
  for (const scheduler::CheckpointInfo& c : before) {
    TENAX_TRY(const bool pinned, checkpoint::is_pinned(arguments.run_dir.string(), c.id));
    if (pinned) request.in_use.push_back(c.id);
  }
  Pruned out;
  out.entry.event = request;
  out.entry.commands = controller.decide(state, out.entry.event, now);
  out.entry.seq = at_end.last_seq + 1;
  out.entry.time = now;
  out.entry.term = term;
  out.entry.generation = state.generation;
  out.state = scheduler::to_json(state);
  for (const scheduler::Command& c : out.entry.commands) {
    const auto* deletion = std::get_if<scheduler::DeleteCheckpoint>(&c);
    if (deletion == nullptr) continue;
    out.deletions.push_back(*deletion);
    const auto at = std::find_if(before.begin(), before.end(),
                                 [&](const auto& b) { return b.id == deletion->checkpoint_id; });
    out.steps.push_back(at != before.end() ? at->step : -1);
  }
  return out;
}

void print(const Pruned& pruned, const PruneArguments& arguments) {
  for (std::size_t i = 0; i < pruned.deletions.size(); ++i) {
    if (arguments.json) {
      fmt::print("{}\n", nlohmann::json{{"id", pruned.deletions[i].checkpoint_id},
                                        {"step", pruned.steps[i]},
                                        {"reason", pruned.deletions[i].reason},
                                        {"deleted", !arguments.dry_run}}
                             .dump());
    } else {
      fmt::print("{} checkpoint {}: {}\n", arguments.dry_run ? "would delete" : "deleted",
                 pruned.deletions[i].checkpoint_id, pruned.deletions[i].reason);
    }
  }
  if (pruned.deletions.empty() && !arguments.json) fmt::print("there is nothing to delete\n");
}

Result<Pruned> prune(const PruneArguments& arguments) {
  const actors::RunDirectory directory(arguments.run_dir);
  TENAX_TRY([[maybe_unused]] const auto identity, directory.identity());
  TENAX_TRY(const configs::RunConfig config, configs::load_run_config(directory.config(), {}));
  const std::string path = arguments.run_dir.string();
  const Time now = SystemClock().now();
  if (arguments.dry_run) {
    TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(path));
    return decide(*store, config, arguments, 0, now);
  }
  const auto before = checkpoint::read_holder(path);
  checkpoint::StoreOptions options;
  options.holder = this_process(before ? before->term + 1 : 1, now);
  TENAX_TRY(const auto store, checkpoint::Store::open(path, options));
  TENAX_TRY(Pruned pruned, decide(*store, config, arguments, options.holder.term, now));
  if (pruned.deletions.empty()) return pruned;
  // The state forgets them first: what a crash leaves behind the next supervisor deletes as an
  // interrupted deletion, and nothing is ever missed.
  const checkpoint::JournalRecord record{pruned.entry.seq, scheduler::to_json(pruned.entry)};
  TENAX_RETURN_IF_ERROR(store->append_journal(std::span(&record, 1), pruned.state));
  for (const scheduler::DeleteCheckpoint& d : pruned.deletions) {
    const Status removed = store->remove(d.checkpoint_id, {});
    if (!removed && removed.error().code != ErrorCode::kNotFound) return removed.error();
  }
  return pruned;
}

}  // namespace

int run_checkpoint_prune(const PruneArguments& arguments) {
  const auto pruned = prune(arguments);
  if (!pruned) return report_error(pruned.error());
  print(*pruned, arguments);
  return 0;
}

}  // namespace tenax::tools
