// One network address of this process as Gloo sees it: an epoll thread and the sockets registered
// with it. Made once a process and shared by the communicators of all generations. Immutable, any
// thread.
#pragma once

#include <memory>
#include <string>

#include "common/result.h"

namespace gloo::transport {
class Device;
}

namespace tenax::compute {

class GlooDevice {
 public:
  /// `data_interface_address` is a numeric IPv4 or IPv6 address of this host; sockets bind to
  /// nothing else. The bytes sent over it are plaintext: it must be loopback or a trusted network.
  ///
  /// main() must have called signal(SIGPIPE, SIG_IGN) before: Gloo writes to sockets of dead peers,
  /// and the signal's default action would end this healthy process. kInvalidArgument if it has
  /// not, or if the address cannot be bound.
  static Result<std::shared_ptr<GlooDevice>> open(const std::string& data_interface_address);

  ~GlooDevice();
  GlooDevice(const GlooDevice&) = delete;
  GlooDevice& operator=(const GlooDevice&) = delete;

  const std::shared_ptr<gloo::transport::Device>& transport() const { return device_; }

  /// While one exists, Gloo's epoll thread turns without pause. Closing or connecting a socket
  /// waits for one turn, which takes up to 10 ms when nothing happens; hold this around many of
  /// them.
  class Hurry {
   public:
    explicit Hurry(const std::shared_ptr<GlooDevice>& device);
    ~Hurry();
    Hurry(const Hurry&) = delete;
    Hurry& operator=(const Hurry&) = delete;

   private:
    std::shared_ptr<GlooDevice> device_;
  };

 private:
  class Ticker;

  explicit GlooDevice(std::shared_ptr<gloo::transport::Device> device);

  std::shared_ptr<gloo::transport::Device> device_;
  std::unique_ptr<Ticker> ticker_;
};

}  // namespace tenax::compute
