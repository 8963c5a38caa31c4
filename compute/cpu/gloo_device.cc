#include "compute/cpu/gloo_device.h"

#include <fmt/format.h>
#include <gloo/transport/tcp/device.h>
#include <netdb.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
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

namespace {

/// Gloo crashes when it cannot look up an address and leaks when it cannot bind it, so this is
/// found out before.
Status check_bindable(const std::string& address) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), nullptr, &hints, &found) != 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("open Gloo device: '{}' is no numeric IP address", address));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  const int descriptor = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
  const bool bound = descriptor >= 0 && bind(descriptor, found->ai_addr, found->ai_addrlen) == 0;
  const int cause = errno;
  if (descriptor >= 0) close(descriptor);
  if (bound) return {};
  return make_error(ErrorCode::kInvalidArgument, fmt::format("open Gloo device: cannot bind {}: {}",
                                                             address, std::strerror(cause)));
}

}  // namespace

Result<std::shared_ptr<GlooDevice>> GlooDevice::open(const std::string& data_interface_address) {
  struct sigaction action {};
  if (sigaction(SIGPIPE, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
    return make_error(ErrorCode::kInvalidArgument,
                      "open Gloo device: SIGPIPE has its default action; main() must ignore it");
  }
  TENAX_RETURN_IF_ERROR(check_bindable(data_interface_address));
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
