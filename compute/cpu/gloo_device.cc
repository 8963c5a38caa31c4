#include "compute/cpu/gloo_device.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gloo/transport/tcp/device.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <exception>
#include <mutex>

namespace tenax::compute {

/// A descriptor that is always readable, registered with the epoll thread only while somebody is in
/// a hurry.
class GlooDevice::Ticker final : public gloo::transport::tcp::Handler {
 public:
  explicit Ticker(gloo::transport::tcp::Device& device)
      : device_(device), descriptor_(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  ~Ticker() override {
    if (registered_) device_.unregisterDescriptor(descriptor_, this);
    if (descriptor_ >= 0) close(descriptor_);
  }

  void begin() {
    const std::lock_guard lock(mutex_);
    if (users_++ == 0) watch(EPOLLIN);
  }

  void end() {
    const std::lock_guard lock(mutex_);
    if (--users_ == 0) watch(0);
  }

  void handleEvents(int) override {}

 private:
  void watch(int events) {
    if (descriptor_ < 0) return;
    try {
      device_.registerDescriptor(descriptor_, events, this);
      registered_ = true;
    } catch (const std::exception&) {
      // Only speed is lost.
    }
  }

  gloo::transport::tcp::Device& device_;
  const int descriptor_;
  std::mutex mutex_;
  int users_ = 0;
  bool registered_ = false;
};

GlooDevice::GlooDevice(std::shared_ptr<gloo::transport::Device> device)
    : device_(std::move(device)),
      ticker_(std::make_unique<Ticker>(static_cast<gloo::transport::tcp::Device&>(*device_))) {}

GlooDevice::~GlooDevice() = default;

Result<std::shared_ptr<GlooDevice>> GlooDevice::open(const std::string& data_interface_address) {
  struct sigaction action {};
  if (sigaction(SIGPIPE, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
    return make_error(ErrorCode::kInvalidArgument,
                      "open Gloo device: SIGPIPE has its default action; main() must ignore it");
  }
  // Gloo does not survive a failed look-up of a name, hence numeric addresses only.
  std::array<unsigned char, sizeof(in6_addr)> binary;
  if (inet_pton(AF_INET, data_interface_address.c_str(), binary.data()) != 1 &&
      inet_pton(AF_INET6, data_interface_address.c_str(), binary.data()) != 1) {
    return make_error(
        ErrorCode::kInvalidArgument,
        fmt::format("open Gloo device: '{}' is no numeric IP address", data_interface_address));
  }
  try {
    gloo::transport::tcp::attr attributes;
    attributes.hostname = data_interface_address;
    return std::shared_ptr<GlooDevice>(
        new GlooDevice(gloo::transport::tcp::CreateDevice(attributes)));
  } catch (const std::exception& e) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("open Gloo device on {}: {}", data_interface_address, e.what()));
  }
}

GlooDevice::Hurry::Hurry(const std::shared_ptr<GlooDevice>& device) : device_(device) {
  device_->ticker_->begin();
}

GlooDevice::Hurry::~Hurry() { device_->ticker_->end(); }

}  // namespace tenax::compute
