// Talks to a live supervisor over the dashboard's HTTP interface on loopback.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "actors/run_directory.h"
#include "common/result.h"

namespace tenax::tools {

/// /api/state of the run's supervisor. kUnavailable when none answers.
Result<std::string> fetch_state(const actors::RunDirectory& directory);

/// Whether the run has a supervisor, so that nobody else may decide.
bool supervisor_lives(const actors::RunDirectory& directory);

/// POST /api/stop. kUnavailable when none answers.
Status post_stop(const actors::RunDirectory& directory, const std::string& kind);

/// POST /api/control/ACTION. kInvalidArgument with the reason when the run refuses.
Status post_control(const actors::RunDirectory& directory, const std::string& action,
                    const nlohmann::json& body);

}  // namespace tenax::tools
