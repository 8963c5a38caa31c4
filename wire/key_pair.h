// The keys of a run's control sockets: CURVE25519, as ZeroMQ's CURVE mechanism uses them
// (rfc.zeromq.org/spec/26). Whoever has the pair is a member of the run. Value type.
#pragma once

#include <string>

#include "common/result.h"

namespace tenax::wire {

struct KeyPair {
  std::string public_key;  ///< 40 characters of Z85 (rfc.zeromq.org/spec/32)
  std::string secret_key;  ///< likewise
};

/// A fresh pair from the system's random numbers. kUnsupported where ZeroMQ was built without
/// CURVE.
Result<KeyPair> make_key_pair();

/// Both keys are 40 characters of Z85 and belong together.
bool is_valid(const KeyPair& keys);

}  // namespace tenax::wire
