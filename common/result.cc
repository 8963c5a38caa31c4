#include "common/result.h"

namespace tenax {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid argument";
    case ErrorCode::kNotFound:
      return "not found";
    case ErrorCode::kAlreadyExists:
      return "already exists";
    case ErrorCode::kInUse:
      return "in use";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kTimeout:
      return "timeout";
    case ErrorCode::kAborted:
      return "aborted";
    case ErrorCode::kDataLoss:
      return "data loss";
    case ErrorCode::kNoSpace:
      return "no space";
    case ErrorCode::kPermission:
      return "permission denied";
    case ErrorCode::kIo:
      return "i/o error";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kDeviceLost:
      return "device lost";
    case ErrorCode::kInternal:
      return "internal error";
  }
  return "unknown error";
}

Error Error::within(std::string_view doing) const {
  return {code, std::string(doing) + ": " + message};
}

}  // namespace tenax
