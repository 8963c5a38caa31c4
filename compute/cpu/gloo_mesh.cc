#include "compute/cpu/gloo_mesh.h"

#include <fmt/format.h>
#include <gloo/transport/address.h>
#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/pair.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace tenax::compute {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

/// Gloo's connect() blocks without a way to interrupt it. This thread closes the sockets under it
/// when forming has lasted too long or is no longer wanted; connect() then returns.
class FormingGuard {
 public:
  FormingGuard(gloo::transport::Context& mesh, SteadyTime deadline, const std::stop_token& stop)
      : wake_(stop, [this] { set(stopped_); }),
        thread_([this, &mesh, deadline] { run(mesh, deadline); }) {}

  ~FormingGuard() {
    set(finished_);
    thread_.join();
  }

  bool closed() {
    const std::lock_guard lock(mutex_);
    return closed_;
  }

 private:
  void set(bool& flag) {
    const std::lock_guard lock(mutex_);
    flag = true;
    changed_.notify_all();
  }

  void run(gloo::transport::Context& mesh, SteadyTime deadline) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait_until(lock, deadline, [this] { return finished_ || stopped_; });
      if (finished_) return;
      closed_ = true;
    }
    close_mesh(mesh);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool finished_ = false;
  bool stopped_ = false;
  bool closed_ = false;
  std::stop_callback<std::function<void()>> wake_;
  std::thread thread_;
};

std::string to_hex(const std::vector<char>& bytes) {
  std::string text;
  for (const char byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

/// Empty unless `text` is an even number of hexadecimal digits.
std::vector<char> from_hex(std::string_view text) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  std::vector<char> bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    const int high = digit(text[i]);
    const int low = digit(text[i + 1]);
    if (high < 0 || low < 0) return {};
    bytes.push_back(static_cast<char>(high * 16 + low));
  }
  return bytes;
}

std::string key_of(const MeshOptions& options, int rank) {
  return fmt::format("{}/{}", options.key_prefix, rank);
}

Error aborted() { return make_error(ErrorCode::kAborted, "no longer wanted"); }

/// Waits for what `peer` published, in slices so that `stop` is seen soon whatever the rendezvous
/// does.
Result<std::string> wait_for_addresses(const MeshOptions& options, int peer, SteadyTime deadline,
                                       Rendezvous& rendezvous, const std::stop_token& stop) {
  constexpr Duration kSlice = std::chrono::milliseconds(20);
  for (;;) {
    if (stop.stop_requested()) return aborted();
    const Duration remaining = deadline - std::chrono::steady_clock::now();
    if (remaining <= Duration::zero()) {
      return make_error(ErrorCode::kTimeout,
                        fmt::format("rank {} did not publish its addresses within {:.3f} s", peer,
                                    to_seconds(options.timeout)));
    }
    auto value = rendezvous.wait(key_of(options, peer), std::min(remaining, kSlice));
    if (value || value.error().code != ErrorCode::kTimeout) return value;
  }
}

/// What a rank publishes: one listening address for each rank in order, its own place empty,
/// separated by commas.
std::string listen(gloo::transport::Context& mesh, const MeshOptions& options) {
  std::string published;
  for (int peer = 0; peer < options.world_size; ++peer) {
    if (peer > 0) published += ',';
    if (peer != options.rank) published += to_hex(mesh.createPair(peer)->address().bytes());
  }
  return published;
}

/// The address at which the publisher listens for `rank`, or empty.
std::vector<char> address_for(std::string_view published, int rank) {
  for (int i = 0; i < rank; ++i) {
    const std::size_t comma = published.find(',');
    if (comma == std::string_view::npos) return {};
    published.remove_prefix(comma + 1);
  }
  return from_hex(published.substr(0, published.find(',')));
}

Status connect_all(gloo::transport::Context& mesh, const MeshOptions& options, SteadyTime deadline,
                   Rendezvous& rendezvous, const std::stop_token& stop) {
  const std::size_t address_bytes =
      mesh.getPair(options.rank == 0 ? 1 : 0)->address().bytes().size();
  FormingGuard guard(mesh, deadline, stop);
  // All ranks in ascending order: one side of each connection waits for the other side's turn, and
  // with an order common to all ranks these waits form no cycle.
  for (int peer = 0; peer < options.world_size; ++peer) {
    if (peer == options.rank) continue;
    TENAX_TRY(const std::string published,
              wait_for_addresses(options, peer, deadline, rendezvous, stop));
    const std::vector<char> address = address_for(published, options.rank);
    if (address.size() != address_bytes) {
      return make_error(ErrorCode::kInvalidArgument,
                        fmt::format("rank {} published an address of {} bytes, expected {}", peer,
                                    address.size(), address_bytes));
    }
    std::string failure;
    try {
      mesh.getPair(peer)->connect(address);
    } catch (const std::exception& e) {
      failure = e.what();
    }
    if (stop.stop_requested()) return aborted();
    if (guard.closed()) {
      return make_error(ErrorCode::kTimeout,
                        fmt::format("rank {} did not accept a connection within {:.3f} s", peer,
                                    to_seconds(options.timeout)));
    }
    if (!failure.empty()) {
      return make_error(ErrorCode::kUnavailable,
                        fmt::format("connecting to rank {}: {}", peer, failure));
    }
  }
  return {};
}

}  // namespace

void close_mesh(gloo::transport::Context& mesh) {
  for (int peer = 0; peer < mesh.size; ++peer) {
    auto& pair = mesh.getPair(peer);
    if (pair == nullptr) continue;
    try {
      pair->close();
    } catch (const std::exception&) {
      // It failed because it is closed already.
    }
  }
}

Result<std::shared_ptr<gloo::transport::Context>> form_mesh(
    const std::shared_ptr<GlooDevice>& device, const MeshOptions& options, Rendezvous& rendezvous,
    const std::stop_token& stop) {
  const SteadyTime deadline = std::chrono::steady_clock::now() + options.timeout;
  try {
    auto mesh = device->transport()->createContext(options.rank, options.world_size);
    // Gloo's own limit; FormingGuard keeps the real one.
    mesh->setTimeout(std::chrono::ceil<std::chrono::milliseconds>(options.timeout) +
                     std::chrono::seconds(1));
    if (options.world_size == 1) return mesh;
    TENAX_RETURN_IF_ERROR(
        rendezvous.publish(key_of(options, options.rank), listen(*mesh, options)));
    TENAX_RETURN_IF_ERROR(connect_all(*mesh, options, deadline, rendezvous, stop));
    return mesh;
  } catch (const std::exception& e) {
    return make_error(ErrorCode::kUnavailable, e.what());
  }
}

}  // namespace tenax::compute
