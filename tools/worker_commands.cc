#include "tools/worker_commands.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "actors/agent.h"
#include "actors/run_directory.h"
#include "scheduler/exit_code.h"
#include "tools/supervisor_client.h"

namespace tenax::tools {

namespace {

using actors::RunDirectory;

int fail(const Error& error) {
  fmt::print(stderr, "tenax: {}\n", error.message);
  return error.code == ErrorCode::kInvalidArgument || error.code == ErrorCode::kNotFound
             ? scheduler::kExitConfig
             : scheduler::kExitStore;
}

int control(const std::filesystem::path& run_dir, const std::string& action,
            const nlohmann::json& body, const std::string& answer) {
  const RunDirectory directory(run_dir);
  if (const auto identity = directory.identity(); !identity) return fail(identity.error());
  if (const Status done = post_control(directory, action, body); !done) return fail(done.error());
  fmt::print("{}\n", answer);
  return scheduler::kExitDone;
}

}  // namespace

int run_drain(const DrainArguments& a) {
  return control(a.run_dir, "drain", {{"agent", a.agent}},
                 fmt::format("agent {} leaves after the step being trained; tenax status {} says "
                             "when it is gone",
                             a.agent, a.run_dir.string()));
}

int run_scale(const ScaleArguments& a) {
  nlohmann::json body = nlohmann::json::object();
  if (a.workers > 0) body["workers"] = a.workers;
  if (a.dp > 0) body["dp"] = a.dp;
  if (a.pp > 0) body["pp"] = a.pp;
  if (body.empty()) {
    fmt::print(stderr, "tenax: say how many: --workers N, or --dp N, --pp N\n");
    return scheduler::kExitUsage;
  }
  return control(a.run_dir, "scale", body,
                 fmt::format("the layout changes at a step boundary; tenax journal {} says how",
                             a.run_dir.string()));
}

int run_join(const JoinArguments& a) {
  const bool by_address = a.run.starts_with("tcp://");
  if (by_address == a.run_dir.empty()) {
    fmt::print(stderr,
               "tenax: --join takes the run's directory alone, or tcp://HOST:PORT and --run-dir "
               "with the run's directory as this host sees it (its keys, text and checkpoints are "
               "there)\n");
    return scheduler::kExitUsage;
  }
  const RunDirectory directory(
      std::filesystem::absolute(by_address ? a.run_dir : std::filesystem::path(a.run))
          .lexically_normal());
  if (const auto identity = directory.identity(); !identity) return fail(identity.error());
  actors::AgentOptions agent;
  agent.run_dir = directory.path();
  agent.join = true;
  if (by_address) agent.endpoint = a.run;
  agent.workers = a.workers;
  return actors::run_agent(agent);
}

}  // namespace tenax::tools
