#include "tools/command_errors.h"

#include <fmt/format.h>

#include <cstdio>

#include "scheduler/exit_code.h"

namespace tenax::tools {

int report_error(const Error& error) {
  fmt::print(stderr, "tenax: {}\n", error.message);
  switch (error.code) {
    case ErrorCode::kNotFound:
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kAlreadyExists:
    case ErrorCode::kUnsupported:
      return scheduler::kExitConfig;
    case ErrorCode::kInternal:
      return scheduler::kExitInternal;
    default:
      return scheduler::kExitStore;
  }
}

}  // namespace tenax::tools
