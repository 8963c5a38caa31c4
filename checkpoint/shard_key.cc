#include "checkpoint/shard_key.h"

#include <fmt/format.h>

namespace tenax::checkpoint {

namespace {

template <class T>
void append_big_endian(std::string& out, T value) {
  for (int shift = 8 * (static_cast<int>(sizeof(T)) - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(value >> shift));
  }
}

template <class T>
T read_big_endian(std::string_view bytes) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value << 8 | static_cast<unsigned char>(bytes[i]));
  }
  return value;
}

}  // namespace

std::string encode_key(const ShardKey& key) {
  std::string out;
  out.reserve(8 + key.writer.size() + key.kind.size() + key.name.size() + 3 + 8);
  append_big_endian(out, key.checkpoint_id);
  for (const std::string* text : {&key.writer, &key.kind, &key.name}) {
    out += *text;
    out.push_back('\0');
  }
  append_big_endian(out, key.part);
  append_big_endian(out, key.chunk);
  return out;
}

Result<ShardKey> decode_key(std::string_view bytes) {
  const auto malformed = [&] {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("shard key of {} bytes is malformed", bytes.size()));
  };
  ShardKey key;
  if (bytes.size() < 8) return malformed();
  key.checkpoint_id = read_big_endian<std::uint64_t>(bytes);
  bytes.remove_prefix(8);
  for (std::string* text : {&key.writer, &key.kind, &key.name}) {
    const std::size_t end = bytes.find('\0');
    if (end == std::string_view::npos) return malformed();
    *text = bytes.substr(0, end);
    bytes.remove_prefix(end + 1);
  }
  if (bytes.size() != 8) return malformed();
  key.part = read_big_endian<std::uint32_t>(bytes);
  key.chunk = read_big_endian<std::uint32_t>(bytes.substr(4));
  return key;
}

std::string encode_id(std::uint64_t id) {
  std::string out;
  append_big_endian(out, id);
  return out;
}

Result<std::uint64_t> decode_id(std::string_view bytes) {
  if (bytes.size() < 8) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("id: expected 8 bytes, got {}", bytes.size()));
  }
  return read_big_endian<std::uint64_t>(bytes);
}

std::string describe(const ShardKey& key) {
  return fmt::format("checkpoint {}, writer {}, {} {}, part {}, chunk {}", key.checkpoint_id,
                     key.writer, key.kind, key.name, key.part, key.chunk);
}

}  // namespace tenax::checkpoint
