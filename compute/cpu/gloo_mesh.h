// Forming: every rank publishes the addresses of its listening sockets, one for each peer, and
// connects to those of all others. The result is a full mesh of n (n - 1) / 2 TCP connections.
#pragma once

#include <memory>
#include <stop_token>
#include <string>

#include "common/clock.h"
#include "common/result.h"
#include "compute/communicator.h"
#include "compute/cpu/gloo_device.h"

namespace gloo::transport {
class Context;
}

namespace tenax::compute {

struct MeshOptions {
  int rank = 0;
  int world_size = 1;
  Duration timeout{};      ///< for all of forming
  std::string key_prefix;  ///< the generation; equal on all ranks, never used twice
};

/// Blocks until connected to all peers. kTimeout names the first rank that did not come; kAborted
/// as soon as `stop` is requested; kUnavailable if a peer closed its socket again; kInvalidArgument
/// if a peer published rubbish.
Result<std::shared_ptr<gloo::transport::Context>> form_mesh(
    const std::shared_ptr<GlooDevice>& device, const MeshOptions& options, Rendezvous& rendezvous,
    const std::stop_token& stop);

/// Closes every connection of `mesh` at once; peers see a reset. Any thread.
void close_mesh(gloo::transport::Context& mesh);

}  // namespace tenax::compute
