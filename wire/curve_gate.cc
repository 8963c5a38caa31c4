#include "wire/curve_gate.h"

#include <vector>

#include "common/check.h"

namespace tenax::wire {

namespace {
constexpr std::size_t kKeyBytes = 32;
constexpr char kZapEndpoint[] = "inproc://zeromq.zap.01";
// A request has these frames: version, request id, domain, address, routing id, mechanism,
// credentials.
constexpr std::size_t kRequestFrames = 7;
}  // namespace

CurveGate::CurveGate(zmq::context_t& context, const std::string& public_key)
    : admitted_(kKeyBytes, '\0'), socket_(context, ZMQ_REP) {
  auto* bytes = reinterpret_cast<std::uint8_t*>(admitted_.data());
  TENAX_CHECK(zmq_z85_decode(bytes, public_key.c_str()) != nullptr);
  socket_.set(zmq::sockopt::linger, 0);
  socket_.bind(kZapEndpoint);
}

void CurveGate::answer() {
  std::vector<std::string> request;
  zmq::message_t part;
  do {
    if (!socket_.recv(part, zmq::recv_flags::dontwait)) return;
    request.push_back(part.to_string());
  } while (part.more());
  const bool admitted = request.size() == kRequestFrames && request[0] == "1.0" &&
                        request[5] == "CURVE" && request[6] == admitted_;
  const std::string id = request.size() > 1 ? request[1] : std::string();
  const std::string reply[] = {
      "1.0", id, admitted ? "200" : "400", admitted ? "OK" : "not a key of this run", "", ""};
  for (std::size_t i = 0; i < std::size(reply); ++i) {
    const auto flags = i + 1 < std::size(reply) ? zmq::send_flags::sndmore : zmq::send_flags::none;
    static_cast<void>(socket_.send(zmq::buffer(reply[i]), flags));
  }
}

}  // namespace tenax::wire
