#include "compute/collectives.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "common/check.h"
#include "compute/flight_recorder.h"

namespace tenax::compute {
namespace {

/// Below this a broadcast's time is that of its rounds, not of its bytes.
constexpr std::size_t kSmallBroadcastBytes = 64 * 1024;

int mod(int value, int n) { return (value % n + n) % n; }

/// Parts [first, first + count) modulo n of a buffer are at most two runs of bytes.
template <class Offset>
std::array<std::pair<std::size_t, std::size_t>, 2> runs(const Offset& offset, int n, int first,
                                                        int count) {
  const int end = std::min(first + count, n);
  return {std::pair(offset(first), offset(end)), std::pair(offset(0), offset(first + count - end))};
}

/// Member i has [offset(i), offset(i + 1)) of the buffer.
template <class Offset>
Status gather(Communicator& comm, const Group& group, std::uint64_t tag, const Offset& offset,
              std::span<std::byte> buffer) {
  const int n = group.size();
  CollectiveRecord record(comm.flight_recorder(), "all_gather", offset(n) - offset(0), tag);
  // With `held` parts from the own one on, the next ones are those that the member `held` further
  // holds.
  for (int held = 1; held < n;) {
    const int count = std::min(held, n - held);
    const int from = mod(group.index + held, n);
    const int to = mod(group.index - held, n);
    std::array<std::unique_ptr<Transfer>, 4> transfers;
    std::size_t num_transfers = 0;
    for (const auto& [begin, end] : runs(offset, n, from, count)) {
      if (begin == end) continue;
      transfers[num_transfers++] =
          comm.recv(group.ranks[from], tag, buffer.subspan(begin, end - begin));
    }
    for (const auto& [begin, end] : runs(offset, n, group.index, count)) {
      if (begin == end) continue;
      transfers[num_transfers++] =
          comm.send(group.ranks[to], tag, buffer.subspan(begin, end - begin));
    }
    for (std::size_t i = 0; i < num_transfers; ++i) {
      TENAX_RETURN_IF_ERROR(transfers[i]->wait());
    }
    held += count;
  }
  record.succeed();
  return {};
}

Status broadcast_tree(Communicator& comm, const Group& group, std::uint64_t tag, int root,
                      std::span<std::byte> bytes) {
  const int n = group.size();
  const int place = mod(group.index - root, n);  // root is at place 0
  int distance = 1;
  // The parent's place is this one's without its lowest bit.
  for (; distance < n; distance *= 2) {
    if ((place & distance) == 0) continue;
    TENAX_RETURN_IF_ERROR(
        comm.recv(group.ranks[mod(place - distance + root, n)], tag, bytes)->wait());
    break;
  }
  std::array<std::unique_ptr<Transfer>, 32> sends;
  std::size_t num_sends = 0;
  for (distance /= 2; distance > 0; distance /= 2) {
    if (place + distance >= n) continue;
    sends[num_sends++] = comm.send(group.ranks[mod(place + distance + root, n)], tag, bytes);
  }
  for (std::size_t i = 0; i < num_sends; ++i) TENAX_RETURN_IF_ERROR(sends[i]->wait());
  return {};
}

Status broadcast_by_parts(Communicator& comm, const Group& group, std::uint64_t tag, int root,
                          std::span<std::byte> bytes) {
  const std::vector<std::size_t> offsets = even_parts(bytes.size(), group.size(), 64);
  const auto part = [&](int i) { return bytes.subspan(offsets[i], offsets[i + 1] - offsets[i]); };
  if (group.index != root) {
    TENAX_RETURN_IF_ERROR(comm.recv(group.ranks[root], tag, part(group.index))->wait());
  } else {
    std::vector<std::unique_ptr<Transfer>> sends;
    for (int i = 0; i < group.size(); ++i) {
      if (i != root) sends.push_back(comm.send(group.ranks[i], tag, part(i)));
    }
    for (auto& send : sends) TENAX_RETURN_IF_ERROR(send->wait());
  }
  return all_gather_parts(comm, group, tag, offsets, bytes);
}

}  // namespace

Status barrier(Communicator& comm, const Group& group, std::uint64_t tag) {
  CollectiveRecord record(comm.flight_recorder(), "barrier", 0, tag);
  const int n = group.size();
  std::byte sent{1};
  std::byte received{};
  for (int distance = 1; distance < n; distance *= 2) {
    auto recv = comm.recv(group.ranks[mod(group.index - distance, n)], tag, {&received, 1});
    auto send = comm.send(group.ranks[mod(group.index + distance, n)], tag, {&sent, 1});
    TENAX_RETURN_IF_ERROR(recv->wait());
    TENAX_RETURN_IF_ERROR(send->wait());
  }
  record.succeed();
  return {};
}

Status all_gather_parts(Communicator& comm, const Group& group, std::uint64_t tag,
                        std::span<const std::size_t> offsets, std::span<std::byte> buffer) {
  const int n = group.size();
  TENAX_CHECK(static_cast<int>(offsets.size()) == n + 1 && offsets[n] <= buffer.size());
  return gather(
      comm, group, tag, [&](int i) { return offsets[i]; }, buffer);
}

Status all_gather(Communicator& comm, const Group& group, std::uint64_t tag,
                  std::span<const std::byte> mine, std::span<std::byte> out) {
  TENAX_CHECK(out.size() == group.ranks.size() * mine.size());
  std::byte* const place = out.data() + group.index * mine.size();
  if (!mine.empty() && place != mine.data()) std::memcpy(place, mine.data(), mine.size());
  const auto offset = [&](int i) { return static_cast<std::size_t>(i) * mine.size(); };
  return gather(comm, group, tag, offset, out);
}

Status broadcast(Communicator& comm, const Group& group, std::uint64_t tag, int root,
                 std::span<std::byte> bytes) {
  TENAX_CHECK(root >= 0 && root < group.size());
  CollectiveRecord record(comm.flight_recorder(), "broadcast", bytes.size(), tag);
  const bool small = group.size() <= 2 || bytes.size() <= kSmallBroadcastBytes;
  TENAX_RETURN_IF_ERROR(small ? broadcast_tree(comm, group, tag, root, bytes)
                              : broadcast_by_parts(comm, group, tag, root, bytes));
  record.succeed();
  return {};
}

void even_parts(std::size_t count, std::size_t alignment, std::span<std::size_t> offsets) {
  const std::size_t n = offsets.size() - 1;
  const std::size_t units = (count + alignment - 1) / alignment;
  for (std::size_t i = 0; i <= n; ++i) offsets[i] = std::min(count, units * i / n * alignment);
}

std::vector<std::size_t> even_parts(std::size_t count, int n, std::size_t alignment) {
  std::vector<std::size_t> offsets(static_cast<std::size_t>(n) + 1);
  even_parts(count, alignment, offsets);
  return offsets;
}

}  // namespace tenax::compute
