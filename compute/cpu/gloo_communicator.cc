#include "compute/cpu/gloo_communicator.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "common/hash.h"
#include "compute/cpu/gloo_mesh.h"

namespace tenax::compute {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

class GlooTransfer final : public Transfer {
 public:
  static void* operator new(std::size_t bytes, std::shared_ptr<BlockPool> pool) {
    return BlockPool::take(std::move(pool), bytes);
  }
  static void operator delete(void* block) { BlockPool::give(block); }
  static void operator delete(void* block, std::shared_ptr<BlockPool>) { BlockPool::give(block); }

  GlooTransfer(std::shared_ptr<GlooLink> link, FlightRecorder* recorder, Direction direction,
               int peer, std::uint64_t tag, std::byte* data, std::size_t bytes, Duration timeout,
               SteadyTime latest)
      : link_(std::move(link)),
        recorder_(recorder),
        operation_{.direction = direction, .peer = peer, .buffer = nullptr},
        tag_(tag),
        bytes_(bytes),
        timeout_(timeout),
        latest_(latest) {
    if (recorder_ != nullptr) {
      record_ = recorder_->post(direction == Direction::kSend ? "send" : "recv", peer, bytes, tag);
    }
    if (auto posted = link_->post(operation_, tag, data, bytes); !posted) finish(std::move(posted));
  }

  ~GlooTransfer() override {
    if (!result_) finish(make_error(ErrorCode::kAborted, "given up"));
    link_->release(operation_);
  }

  Status wait() override {
    if (!result_) {
      // In this order: latest_ may be the end of time.
      if (recorder_ != nullptr) recorder_->wait(record_);
      const auto begin = std::chrono::steady_clock::now();
      const bool limited = latest_ < begin + timeout_;
      Status status = link_->wait(operation_, limited ? latest_ - begin : timeout_);
      if (recorder_ != nullptr) recorder_->add_blocked(std::chrono::steady_clock::now() - begin);
      finish(std::move(status));
    }
    return *result_;
  }

 private:
  void finish(Status status) {
    if (recorder_ != nullptr) {
      recorder_->finish(record_, status ? FlightState::kDone : FlightState::kFailed);
    }
    if (status) {
      result_.emplace();
      return;
    }
    const bool sends = operation_.direction == Direction::kSend;
    result_ = status.error().within(fmt::format("rank {}: {} of {} bytes {} rank {}, tag {:#x}",
                                                link_->rank(), sends ? "send" : "recv", bytes_,
                                                sends ? "to" : "from", operation_.peer, tag_));
  }

  const std::shared_ptr<GlooLink> link_;
  FlightRecorder* const recorder_;
  GlooOperation operation_;
  const std::uint64_t tag_;
  const std::size_t bytes_;
  const Duration timeout_;
  const SteadyTime latest_;
  std::uint64_t record_ = 0;
  std::optional<Status> result_;
};

constexpr std::uint64_t kGreetingTag = ~std::uint64_t{0};

struct Greeting {
  std::uint64_t generation;  ///< hash of the key prefix
  std::int32_t rank;
  std::int32_t world_size;
  bool operator==(const Greeting&) const = default;
};

}  // namespace

GlooCommunicator::GlooCommunicator(std::shared_ptr<GlooLink> link, const GlooOptions& options,
                                   std::stop_token stop)
    : link_(std::move(link)),
      operation_timeout_(options.operation_timeout),
      recorder_(options.recorder) {
  abort_on_stop_.emplace(std::move(stop), [this] { link_->abort("the generation was ended"); });
}

GlooCommunicator::~GlooCommunicator() {
  abort_on_stop_.reset();
  link_->close();
}

Result<std::unique_ptr<Communicator>> GlooCommunicator::create(
    std::shared_ptr<GlooDevice> device, const GlooOptions& options,
    std::shared_ptr<Rendezvous> rendezvous, std::stop_token stop) {
  const auto doing = [&options] {
    return fmt::format("rank {}: form {} of {} ranks", options.rank, options.key_prefix,
                       options.world_size);
  };
  if (options.world_size < 1 || options.rank < 0 || options.rank >= options.world_size ||
      options.form_timeout <= Duration::zero() || options.operation_timeout <= Duration::zero()) {
    return make_error(ErrorCode::kInvalidArgument, "rank, world size or timeout out of range")
        .within(doing());
  }
  const auto start = std::chrono::steady_clock::now();
  const GlooDevice::Hurry hurry(device);
  auto mesh = form_mesh(device,
                        {.rank = options.rank,
                         .world_size = options.world_size,
                         .timeout = options.form_timeout,
                         .key_prefix = options.key_prefix},
                        *rendezvous, stop);
  if (!mesh) return mesh.error().within(doing());
  std::unique_ptr<GlooCommunicator> communicator(new GlooCommunicator(
      std::make_shared<GlooLink>(std::move(device), *std::move(mesh)), options, std::move(stop)));
  if (auto greeted = communicator->greet(options.key_prefix, start + options.form_timeout);
      !greeted) {
    return std::move(greeted).error().within(doing());
  }
  return communicator;
}

Status GlooCommunicator::greet(const std::string& generation_name, SteadyTime deadline) {
  const std::uint64_t generation = hash64(generation_name);
  Greeting mine{generation, rank(), world_size()};
  std::vector<Greeting> theirs(world_size());
  std::vector<std::unique_ptr<Transfer>> transfers;
  // Receives first, so that the first failure names a peer that is silent rather than one that does
  // not take ours.
  for (const Direction direction : {Direction::kRecv, Direction::kSend}) {
    for (int peer = 0; peer < world_size(); ++peer) {
      if (peer == rank()) continue;
      Greeting& greeting = direction == Direction::kRecv ? theirs[peer] : mine;
      transfers.push_back(start(direction, peer, kGreetingTag,
                                reinterpret_cast<std::byte*>(&greeting), sizeof(greeting),
                                deadline));
    }
  }
  for (auto& transfer : transfers) TENAX_RETURN_IF_ERROR(transfer->wait());
  for (int peer = 0; peer < world_size(); ++peer) {
    if (peer == rank() || theirs[peer] == Greeting{generation, peer, world_size()}) continue;
    return make_error(
        ErrorCode::kUnavailable,
        fmt::format("expected rank {} of {} of generation {:x}, got rank {} of {} of {:x}", peer,
                    world_size(), generation, theirs[peer].rank, theirs[peer].world_size,
                    theirs[peer].generation));
  }
  return {};
}

std::unique_ptr<Transfer> GlooCommunicator::start(Direction direction, int peer, std::uint64_t tag,
                                                  std::byte* data, std::size_t bytes,
                                                  SteadyTime latest) {
  return std::unique_ptr<Transfer>(new (transfer_memory_) GlooTransfer(
      link_, recorder_, direction, peer, tag, data, bytes, operation_timeout_, latest));
}

std::unique_ptr<Transfer> GlooCommunicator::send(int peer, std::uint64_t tag,
                                                 std::span<const std::byte> bytes) {
  // Gloo's buffers serve both directions; a send only reads.
  return start(Direction::kSend, peer, tag, const_cast<std::byte*>(bytes.data()), bytes.size(),
               SteadyTime::max());
}

std::unique_ptr<Transfer> GlooCommunicator::recv(int peer, std::uint64_t tag,
                                                 std::span<std::byte> bytes) {
  return start(Direction::kRecv, peer, tag, bytes.data(), bytes.size(), SteadyTime::max());
}

void GlooCommunicator::abort(std::string reason) { link_->abort(std::move(reason)); }

}  // namespace tenax::compute
