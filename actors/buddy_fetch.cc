#include "actors/buddy_fetch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <variant>

#include "common/annotations.h"
#include "wire/peer_sockets.h"

namespace tenax::actors {

namespace {

/// Answers as they come in, until they are taken.
class Inbox {
 public:
  explicit Inbox(std::string secret) : secret_(std::move(secret)) {}

  void put(std::span<const std::byte> frame) {
    auto message = wire::decode_bulk(frame);
    if (!message || message->run_id != secret_) return;
    auto* fetched = std::get_if<wire::BulkFetched>(&message->body);
    if (fetched == nullptr) return;
    {
      MutexLock lock(mutex_);
      answers_.push_back(std::move(*fetched));
    }
    changed_.notify_all();
  }

  Result<wire::BulkFetched> take(Duration timeout) {
    MutexLock lock(mutex_);
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (answers_.empty()) {
      if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout && answers_.empty()) {
        return make_error(ErrorCode::kTimeout,
                          fmt::format("no answer for {:.1f} s", to_seconds(timeout)));
      }
    }
    wire::BulkFetched answer = std::move(answers_.front());
    answers_.pop_front();
    return answer;
  }

 private:
  const std::string secret_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<wire::BulkFetched> answers_ TENAX_GUARDED_BY(mutex_);
};

struct Range {
  std::uint64_t offset = 0;
  std::span<std::byte> into;
};

/// The payload in pieces, none of which crosses from one part to the next.
std::vector<Range> ranges_of(std::span<const std::span<std::byte>> parts) {
  std::vector<Range> ranges;
  std::uint64_t offset = 0;
  for (const std::span<std::byte> part : parts) {
    for (std::size_t at = 0; at < part.size(); at += wire::kPieceBytes) {
      ranges.push_back(
          {offset + at, part.subspan(at, std::min(wire::kPieceBytes, part.size() - at))});
    }
    offset += part.size();
  }
  return ranges;
}

}  // namespace

Status fetch_copy(const FetchCopyOptions& options, std::span<const std::span<std::byte>> parts) {
  const std::vector<Range> ranges = ranges_of(parts);
  std::uint64_t total = 0;
  for (const std::span<std::byte> part : parts) total += part.size();
  Inbox inbox(options.identity.secret);
  wire::PeerSockets sockets(
      options.identity.keys,
      [&](int, const std::string&, std::span<const std::byte> frame) { inbox.put(frame); });
  TENAX_TRY(const auto socket, sockets.connect_dealer(options.endpoint, options.name));
  std::size_t asked = 0;
  const auto ask = [&] {
    const Range& r = ranges[asked];
    sockets.send(
        socket, "",
        wire::encode(wire::BulkMessage{
            options.identity.secret, wire::BulkFetch{asked, options.id, r.offset,
                                                     static_cast<std::uint32_t>(r.into.size())}}));
    ++asked;
  };
  while (asked < ranges.size() && asked < wire::kPieceWindow) ask();
  for (std::size_t done = 0; done < ranges.size(); ++done) {
    TENAX_TRY(const wire::BulkFetched got, inbox.take(options.timeout));
    if (!got.error.empty()) return make_error(ErrorCode::kNotFound, got.error);
    if (got.payload_bytes != total) {
      return make_error(ErrorCode::kNotFound, fmt::format("the copy has {} bytes, expected {}",
                                                          got.payload_bytes, total));
    }
    if (got.request >= asked || got.bytes.size() != ranges[got.request].into.size()) {
      return make_error(ErrorCode::kDataLoss, "the buddy gave another range than it was asked for");
    }
    std::memcpy(ranges[got.request].into.data(), got.bytes.data(), got.bytes.size());
    if (asked < ranges.size()) ask();
  }
  return {};
}

}  // namespace tenax::actors
