// Frames of the bulk sockets as C++ values. The contract is wire/bulk.capnp; this file mirrors it
// so that nothing outside this room sees Cap'n Proto. Value types; the bytes of a decoded piece are
// a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>

#include "common/hash.h"
#include "common/result.h"

namespace tenax::wire {

/// Pieces of a payload have this size but for the last.
inline constexpr std::size_t kPieceBytes = 1 << 20;
/// How many may be on their way.
inline constexpr std::uint32_t kPieceWindow = 8;

struct SlotId {
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::uint64_t branch = 0;
  std::int64_t step = 0;
  bool operator==(const SlotId&) const = default;
};

struct BulkOffer {
  std::uint64_t transfer = 0;
  SlotId id;
  std::uint64_t generation = 0;
  std::uint64_t incarnation = 0;
  std::uint64_t payload_bytes = 0;
};
struct BulkCredit {
  std::uint64_t transfer = 0;
  std::uint32_t pieces = 0;
};
struct BulkPiece {
  std::uint64_t transfer = 0;
  std::uint64_t offset = 0;
  std::string bytes;
};
struct BulkSeal {
  std::uint64_t transfer = 0;
  Hash128 hash;
};
struct BulkStored {
  std::uint64_t transfer = 0;
  std::string error;  ///< empty: done
};
struct BulkFetch {
  std::uint64_t request = 0;
  SlotId id;
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;
};
struct BulkFetched {
  std::uint64_t request = 0;
  std::string error;  ///< empty: here are the bytes
  std::string bytes;
  std::uint64_t payload_bytes = 0;  ///< of the whole copy
};

using BulkBody =
    std::variant<BulkOffer, BulkCredit, BulkPiece, BulkSeal, BulkStored, BulkFetch, BulkFetched>;

struct BulkMessage {
  std::string run_id;
  BulkBody body;
};

std::string encode(const BulkMessage& message);
/// kDataLoss for anything that is not a well-formed Bulk; kUnsupported for a member this version
/// does not know.
Result<BulkMessage> decode_bulk(std::span<const std::byte> frame);

}  // namespace tenax::wire
