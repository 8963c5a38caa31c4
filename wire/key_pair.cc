#include "wire/key_pair.h"

#include <fmt/format.h>
#include <zmq.h>

#include <cerrno>

namespace tenax::wire {

namespace {
constexpr std::size_t kZ85Length = 40;
}

Result<KeyPair> make_key_pair() {
  char public_key[kZ85Length + 1] = {};
  char secret_key[kZ85Length + 1] = {};
  if (zmq_curve_keypair(public_key, secret_key) != 0) {
    return make_error(ErrorCode::kUnsupported,
                      fmt::format("no CURVE keys from ZeroMQ: {}", zmq_strerror(errno)));
  }
  return KeyPair{public_key, secret_key};
}

bool is_valid(const KeyPair& keys) {
  if (keys.public_key.size() != kZ85Length || keys.secret_key.size() != kZ85Length) return false;
  char derived[kZ85Length + 1] = {};
  return zmq_curve_public(derived, keys.secret_key.c_str()) == 0 && keys.public_key == derived;
}

}  // namespace tenax::wire
