// What an error means for the person at the shell.
#pragma once

#include "common/result.h"

namespace tenax::tools {

/// Prints "tenax: <message>" to stderr and returns the ExitCode: wrong configuration or input, or
/// the run directory or store.
int report_error(const Error& error);

}  // namespace tenax::tools
