// Decides who may talk to the ROUTERs of one ZeroMQ context: only peers that prove to have the
// run's own key pair. Speaks ZAP (rfc.zeromq.org/spec/27) with libzmq. Confined to the thread that
// polls its socket; must exist before the first socket is bound.
#pragma once

#include <string>
#include <zmq.hpp>

namespace tenax::wire {

class CurveGate {
 public:
  /// `public_key` in Z85: the only one let in.
  CurveGate(zmq::context_t& context, const std::string& public_key);

  /// To be polled for input; then call answer().
  zmq::socket_t& socket() { return socket_; }
  /// Answers one question of libzmq, if there is one.
  void answer();

 private:
  std::string admitted_;  ///< 32 bytes
  zmq::socket_t socket_;
};

}  // namespace tenax::wire
