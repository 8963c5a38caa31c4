#include "tools/status_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "actors/journal_reader.h"
#include "actors/run_directory.h"
#include "checkpoint/store_reader.h"
#include "scheduler/layout_templates.h"
#include "scheduler/run_controller.h"
#include "scheduler/run_json.h"
#include "scheduler/run_metrics.h"
#include "tools/command_errors.h"
#include "tools/supervisor_client.h"
#include "tools/terminal_text.h"

using nlohmann::json;

namespace tenax::tools {

namespace {

using actors::RunDirectory;
using actors::SupervisorAddress;

constexpr std::size_t kColumn = 12;  // of the values behind their labels

std::string counted(std::int64_t n, std::string_view what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

/// Of the supervisor that runs; none if none does.
std::optional<SupervisorAddress> live_address(const RunDirectory& directory) {
  if (!supervisor_lives(directory)) return std::nullopt;
  const auto address = directory.read_address();
  return address ? std::optional(*address) : std::nullopt;
}

/// Where it can be reached; null for none. The token is not part of it.
json address_json(const std::optional<SupervisorAddress>& address) {
  if (!address) return nullptr;
  const std::string& page = address->dashboard_url;
  return {{"control", address->endpoint},
          {"dashboard", page.empty() ? json(nullptr) : json(page)},
          {"host", address->host},
          {"pid", address->pid},
          {"term", address->term}};
}

void print_address(const SupervisorAddress& address) {
  say(kColumn, "dashboard",
      address.dashboard_url.empty() ? "none (dashboard.enabled = false)" : address.dashboard_url);
  say(kColumn, "control",
      fmt::format("{}  (supervisor pid {} on {}, term {})", address.endpoint, address.pid,
                  address.host, address.term));
}

json layout_json(const Degrees& d) { return {{"dp", d.dp}, {"tp", d.tp}, {"pp", d.pp}}; }

std::string layout_words(const Degrees& now, const Degrees& target) {
  std::string text = scheduler::layout_text(now);
  if (target != now)
    text += fmt::format(", {} when nothing is missing", scheduler::layout_text(target));
  return text;
}

Degrees degrees_of(const json& j) {
  return {j.at("dp").get<int>(), j.at("tp").get<int>(), j.at("pp").get<int>()};
}

/// What the store says of a run.
struct SavedRun {
  scheduler::RunState state;
  std::int64_t step = 0;                ///< with those counted since the last decision
  std::int64_t newest_checkpoint = -1;  ///< step
};

Result<SavedRun> read_saved(const InspectArguments& arguments) {
  TENAX_TRY(const auto store, checkpoint::StoreReader::open_read_only(arguments.run_dir.string()));
  TENAX_TRY(const auto saved, store->state());
  if (!saved) return make_error(ErrorCode::kNotFound, "the run has no journal yet");
  SavedRun run;
  TENAX_TRY(run.state, scheduler::run_state_from_json(*saved));
  // Steps counted since the last decision are in the journal only.
  scheduler::RunMetrics metrics;
  TENAX_RETURN_IF_ERROR(actors::for_each_entry(
      *store, [&](const scheduler::JournalEntry& e, const std::string&) { metrics.add(e); }));
  run.step = run.state.counted_step;
  if (metrics.newest() != nullptr && metrics.newest()->branch == run.state.branch)
    run.step = std::max(run.step, metrics.newest()->step);
  if (const auto* newest = scheduler::newest_checkpoint(run.state, run.state.total_steps))
    run.newest_checkpoint = newest->step;
  return run;
}

/// The state as its last decision left it: of a run without a supervisor, or whose supervisor has
/// no dashboard or does not answer.
int print_saved_state(const InspectArguments& arguments,
                      const std::optional<SupervisorAddress>& address) {
  const auto run = read_saved(arguments);
  if (!run) return report_error(run.error());
  const scheduler::RunState& state = run->state;
  const bool finished = state.phase == scheduler::Phase::kFinished;
  if (arguments.json) {
    const json j = {{"phase", address    ? "running"
                              : finished ? "finished"
                                         : "interrupted"},
                    {"step", run->step},
                    {"total_steps", state.total_steps},
                    {"newest_checkpoint", run->newest_checkpoint},
                    {"restarts", state.restarts},
                    {"rollbacks", state.rollbacks},
                    {"layout", layout_json(state.degrees)},
                    {"target", layout_json(state.target)},
                    {"supervisor", address_json(address)},
                    {"exit_code", state.exit_code},
                    {"reason", state.finish_reason}};
    fmt::print("{}\n", j.dump());
    return 0;
  }
  const std::string head = address    ? "as saved with the last decision"
                           : finished ? state.finish_reason
                                      : "no supervisor is running; the run was interrupted";
  fmt::print(
      "{}\n",
      wrapped(fmt::format("{}: step {} of {}, {}, {}, {}", head, run->step, state.total_steps,
                          counted(state.restarts, "restart"), counted(state.rollbacks, "rollback"),
                          run->newest_checkpoint < 0 ? std::string("no checkpoint")
                                                     : fmt::format("newest checkpoint of step {}",
                                                                   run->newest_checkpoint)),
              terminal_width(stdout), kColumn));
  if (state.degrees.dp > 0) say(kColumn, "layout", layout_words(state.degrees, state.target));
  if (address) print_address(*address);
  for (const scheduler::Seat& seat : state.seats) {
    if (seat.device_trouble.empty()) continue;
    say(kColumn, "  GPU",
        fmt::format("of agent {} slot {}: {}", seat.agent, seat.slot, seat.device_trouble));
  }
  for (std::size_t id = 0; id < state.agents.size(); ++id) {
    const scheduler::AgentState& agent = state.agents[id];
    if (!agent.excluded_until) continue;
    fmt::print("  agent {}  {}  excluded until {}\n", id, agent.host,
               format_time(*agent.excluded_until));
  }
  return 0;
}

/// A number of the state, in which what is not finite is a text.
std::string loss_words(const json& loss) {
  return loss.is_number() ? fmt::format("{:.4f}", loss.get<double>()) : loss.get<std::string>();
}

void print_worker(const json& w, const std::string& name, const std::string& place) {
  const bool known = w.contains("straggler_score") && !w.at("straggler_score").is_null();
  fmt::print("  {:<8}  agent {} slot {}  pid {:>7}  {:<19}  {}{}\n", name, w.at("agent").get<int>(),
             w.at("slot").get<int>(), w.at("pid").get<std::int64_t>(), place,
             w.at("state").get<std::string>(),
             known ? fmt::format("  pace x{:.2f}{}", w.at("straggler_score").get<double>(),
                                 w.at("straggles").get<bool>() ? ", straggles" : "")
                   : std::string());
  if (const json trouble = w.value("device_trouble", json()); trouble.is_string())
    say(kColumn, "  GPU", trouble.get<std::string>());
}

void print_live_state(const json& j) {
  const json& p = j.at("progress");
  fmt::print(
      "{}\n",
      wrapped(
          fmt::format("{}: step {} of {}, loss {}, {:.0f} tokens/s, goodput {:.2f}, {}, {}",
                      j.at("run").at("phase").get<std::string>(), p.at("step").get<std::int64_t>(),
                      p.at("total_steps").get<std::int64_t>(), loss_words(p.at("loss")),
                      p.at("tokens_per_second").get<double>(), p.at("goodput").get<double>(),
                      counted(p.at("restarts").get<int>(), "restart"),
                      counted(p.at("rollbacks").get<int>(), "rollback")),
          terminal_width(stdout), kColumn));
  const std::size_t spares = j.at("spares").size();
  const Degrees degrees = degrees_of(j.at("layout"));
  say(kColumn, "layout",
      layout_words(degrees, degrees_of(j.at("target"))) +
          (spares > 0 ? ", " + counted(static_cast<int>(spares), "spare") : ""));
}

void print_parts(const json& j) {
  const bool has_tensor = degrees_of(j.at("layout")).tp > 1;
  for (const json& r : j.at("ranks")) {
    std::string place =
        fmt::format("stage {} replica {}", r.at("stage").get<int>(), r.at("dp_rank").get<int>());
    if (has_tensor) place += fmt::format(" part {}", r.at("tp_rank").get<int>());
    print_worker(r, fmt::format("rank {}", r.at("rank").get<int>()), place);
  }
  for (const json& r : j.at("spares")) print_worker(r, "spare", "");
  for (const json& a : j.at("agents")) {
    const int spare = a.at("spares").get<int>();
    fmt::print(
        "  {:<8}  {}  {}{}{}  {}{}\n", fmt::format("agent {}", a.at("agent").get<int>()),
        a.at("host").get<std::string>(), a.at("state").get<std::string>(),
        a.at("excluded_until").is_null() ? ""
                                         : " until " + a.at("excluded_until").get<std::string>(),
        a.at("joined").get<bool>() ? ", joined" : "", counted(a.at("ranks").get<int>(), "rank"),
        spare > 0 ? ", " + counted(spare, "spare") : "");
  }
  for (const json& c : j.at("checkpoints")) {
    fmt::print("  checkpoint of step {}  {}\n", c.at("step").get<std::int64_t>(),
               c.at("state").get<std::string>());
  }
}

}  // namespace

int run_status(const InspectArguments& arguments) {
  const RunDirectory directory(arguments.run_dir);
  if (const auto identity = directory.identity(); !identity) return report_error(identity.error());
  const auto address = live_address(directory);
  const auto state = fetch_state(directory);
  if (!state) return print_saved_state(arguments, address);
  json j = json::parse(*state, nullptr, false);
  if (j.is_discarded()) {
    return report_error(make_error(ErrorCode::kDataLoss, "the supervisor's answer is not JSON"));
  }
  if (arguments.json) {
    j["supervisor"] = address_json(address);
    fmt::print("{}\n", j.dump());
    return 0;
  }
  print_live_state(j);
  if (address) print_address(*address);
  print_parts(j);
  return 0;
}

}  // namespace tenax::tools
