// Shared by the two encoders of this room: shards to and from Cap'n Proto, and flat messages to and
// from bytes. Internal: only .cc files of checkpoint/ include it.
#pragma once

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <fmt/format.h>
#include <kj/exception.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/manifest.capnp.h"
#include "checkpoint/tensor_shard.h"

namespace tenax::checkpoint {

inline void write_shard_fields(const TensorShard& from, schema::Shard::Builder to) {
  const auto fill = [](auto list, const std::vector<std::int64_t>& values) {
    for (unsigned i = 0; i < values.size(); ++i) list.set(i, values[i]);
  };
  to.setName(from.name);
  to.setKind(from.kind);
  to.setDtype(static_cast<schema::DType>(from.dtype));
  fill(to.initGlobalShape(static_cast<unsigned>(from.global_shape.size())), from.global_shape);
  fill(to.initBoxOffset(static_cast<unsigned>(from.box.offset.size())), from.box.offset);
  fill(to.initBoxExtent(static_cast<unsigned>(from.box.extent.size())), from.box.extent);
  to.setOffset(from.offset);
  to.setBytes(from.bytes);
}

/// kUnsupported for a dtype that this version does not know.
inline Result<TensorShard> read_shard_fields(schema::Shard::Reader from) {
  const auto numbers = [](auto list) {
    std::vector<std::int64_t> values;
    values.reserve(list.size());
    for (const std::int64_t v : list) values.push_back(v);
    return values;
  };
  TensorShard to;
  to.name = from.getName().cStr();
  to.kind = from.getKind().cStr();
  if (from.getDtype() != schema::DType::FLOAT32) {
    return make_error(ErrorCode::kUnsupported,
                      fmt::format("tensor {} '{}' has dtype number {}, unknown to this version",
                                  to.kind, to.name, static_cast<int>(from.getDtype())));
  }
  to.global_shape = numbers(from.getGlobalShape());
  to.box.offset = numbers(from.getBoxOffset());
  to.box.extent = numbers(from.getBoxExtent());
  to.offset = from.getOffset();
  to.bytes = from.getBytes();
  return to;
}

inline std::string flat_bytes(capnp::MessageBuilder& message) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  const auto bytes = words.asBytes();
  return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
}

/// Calls read(root) on a flat message; a malformed one is kDataLoss naming `what`.
template <class Root, class Read>
auto read_flat(std::string_view bytes, std::string_view what, Read read)
    -> decltype(read(std::declval<typename Root::Reader>())) {
  // Views into the store or a frame need not be aligned to a word.
  kj::Array<capnp::word> words =
      kj::heapArray<capnp::word>((bytes.size() + sizeof(capnp::word) - 1) / sizeof(capnp::word));
  std::memset(words.begin(), 0, words.size() * sizeof(capnp::word));
  std::memcpy(words.begin(), bytes.data(), bytes.size());
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 16 * words.size() + (1 << 20);
  try {
    capnp::FlatArrayMessageReader reader(words, options);
    return read(reader.getRoot<Root>());
  } catch (const kj::Exception& e) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("{} of {} bytes cannot be decoded: {}", what, bytes.size(),
                                  e.getDescription().cStr()));
  }
}

}  // namespace tenax::checkpoint
