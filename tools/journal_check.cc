#include "tools/journal_check.h"

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "actors/journal_reader.h"
#include "actors/run_directory.h"
#include "actors/supervisor.h"
#include "checkpoint/store_reader.h"
#include "configs/run_config.h"
#include "scheduler/run_controller.h"
#include "scheduler/run_json.h"
#include "tools/command_errors.h"

namespace tenax::tools {

namespace {

constexpr std::size_t kShownDifferences = 5;

struct Checked {
  std::int64_t entries = 0;
  std::int64_t decisions = 0;  ///< entries with a command that is more than a note
  std::int64_t differences = 0;
  std::vector<std::string> shown;
};

bool decides(const scheduler::JournalEntry& entry) {
  for (const scheduler::Command& c : entry.commands) {
    if (!std::holds_alternative<scheduler::Note>(c)) return true;
  }
  return false;
}

void check(const scheduler::RunController& controller, const scheduler::JournalEntry& journalled,
           scheduler::RunState& state, Checked& checked) {
  scheduler::JournalEntry again = journalled;
  again.commands = controller.decide(state, journalled.event, journalled.time);
  ++checked.entries;
  checked.decisions += decides(journalled) ? 1 : 0;
  if (scheduler::to_json(again) == scheduler::to_json(journalled)) return;
  ++checked.differences;
  if (checked.shown.size() >= kShownDifferences) return;
  checked.shown.push_back(fmt::format("entry {} ({}): journalled \"{}\", decided again \"{}\"",
                                      journalled.seq, scheduler::name_of(journalled.event),
                                      scheduler::describe(journalled), scheduler::describe(again)));
}

Result<Checked> check_journal(const std::filesystem::path& run_dir) {
  const actors::RunDirectory directory(run_dir);
  TENAX_TRY([[maybe_unused]] const auto identity, directory.identity());
  TENAX_TRY(const configs::RunConfig config, configs::load_run_config(directory.config(), {}));
  TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(run_dir.string()));
  const scheduler::RunController controller(actors::controller_options(config));
  scheduler::RunState state;
  Checked checked;
  TENAX_RETURN_IF_ERROR(
      actors::for_each_entry(*store, [&](const scheduler::JournalEntry& entry, const std::string&) {
        check(controller, entry, state, checked);
      }));
  return checked;
}

}  // namespace

int run_journal_check(const std::filesystem::path& run_dir, bool json) {
  const auto checked = check_journal(run_dir);
  if (!checked) return report_error(checked.error());
  if (json) {
    fmt::print("{}\n", nlohmann::json{{"entries", checked->entries},
                                      {"decisions", checked->decisions},
                                      {"differences", checked->differences},
                                      {"shown", checked->shown}}
                           .dump());
  } else {
    for (const std::string& line : checked->shown) fmt::print("{}\n", line);
    fmt::print("{} entries with {} decisions, decided again: {} differ\n", checked->entries,
               checked->decisions, checked->differences);
  }
  return checked->differences == 0 ? 0 : 1;
}

}  // namespace tenax::tools
