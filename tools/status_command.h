// `tenax status`: what a run is doing, in what layout, and where it can be reached.
#pragma once

#include "tools/inspect_commands.h"

namespace tenax::tools {

int run_status(const InspectArguments& arguments);

}  // namespace tenax::tools
