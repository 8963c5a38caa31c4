// Result<T>: a value or an Error, and the macros that pass errors on.
// Every fallible operation of Tenax returns one; exceptions of third-party libraries become an
// Error at the edge that calls them. Value type, no thread rule.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace tenax {

/// What a caller may act on. A new code is added only if some caller would treat it differently.
enum class ErrorCode {
  kInvalidArgument,  ///< the input is wrong; trying again will not help
  kNotFound,
  kAlreadyExists,
  kInUse,        ///< somebody else holds it (a lock, a port)
  kUnavailable,  ///< not reachable now; may be later
  kTimeout,
  kAborted,   ///< ended on purpose by another thread (a communicator of an older generation)
  kDataLoss,  ///< bytes are not what was written
  kNoSpace,
  kPermission,
  kIo,
  kUnsupported,
  kDeviceLost,  ///< a GPU's context is broken, with all memory in it; only a new process helps
  kInternal,    ///< a bug of ours
};

/// Lower-case words for messages and JSON, such as "data loss".
std::string_view to_string(ErrorCode code);

/// `message` names the operation, the object and both values ("expected 4096 bytes, got 4088").
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;

  /// The same error with what was being done in front: "<doing>: <message>".
  Error within(std::string_view doing) const;
};

template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
  Result(Error error) : tl::expected<T, Error>(tl::unexpect, std::move(error)) {}
};

using Status = Result<void>;

inline Error make_error(ErrorCode code, std::string message) { return {code, std::move(message)}; }

#define TENAX_CONCAT_INNER(a, b) a##b
#define TENAX_CONCAT(a, b) TENAX_CONCAT_INNER(a, b)

/// TENAX_TRY(auto x, f()): x = the value, or return the error from the calling function.
#define TENAX_TRY(declaration, expression)                           \
  auto TENAX_CONCAT(tenax_result_, __LINE__) = (expression);         \
  if (!TENAX_CONCAT(tenax_result_, __LINE__))                        \
    return std::move(TENAX_CONCAT(tenax_result_, __LINE__)).error(); \
  declaration = *std::move(TENAX_CONCAT(tenax_result_, __LINE__))

/// TENAX_RETURN_IF_ERROR(f()): return the error of a Status from the calling function.
#define TENAX_RETURN_IF_ERROR(expression)                                                        \
  do {                                                                                           \
    if (auto tenax_status = (expression); !tenax_status) return std::move(tenax_status).error(); \
  } while (false)

}  // namespace tenax
