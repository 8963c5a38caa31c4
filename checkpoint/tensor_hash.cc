#include "checkpoint/tensor_hash.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>

#include "checkpoint/box.h"
#include "checkpoint/parallel.h"
#include "checkpoint/reader.h"

namespace tenax::checkpoint {

namespace {

// Large enough that each shard of a row-major slab gives whole chunks, small enough to be a
// constant.
constexpr std::int64_t kSlabElements = 16 << 20;

std::string_view to_string(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
  }
  return "unknown";
}

Result<TensorHash> hash_tensor(const CheckpointReader& reader, const TensorInfo& tensor) {
  Hasher128 hasher;
  std::vector<float> buffer;
  const std::int64_t total = volume(whole(tensor.shape));
  for (std::int64_t done = 0; done < total;) {
    const Box slab = slab_at(tensor.shape, done, kSlabElements);
    buffer.resize(static_cast<std::size_t>(volume(slab)));
    TENAX_RETURN_IF_ERROR(reader.read_box(tensor.kind, tensor.name, slab, buffer));
    hasher.update(std::as_bytes(std::span(buffer)));
    done += volume(slab);
  }
  return TensorHash{tensor.kind, tensor.name, tensor.dtype, tensor.shape, hasher.digest()};
}

}  // namespace

std::array<char, 16> canonical_bytes(Hash128 hash) {
  std::array<char, 16> bytes{};
  for (std::size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<char>(hash.high >> (56 - 8 * i));
    bytes[8 + i] = static_cast<char>(hash.low >> (56 - 8 * i));
  }
  return bytes;
}

Hash128 shard_hash(std::span<const Hash128> chunk_hashes) {
  Hasher128 hasher;
  for (const Hash128& h : chunk_hashes) {
    const auto bytes = canonical_bytes(h);
    hasher.update(std::string_view(bytes.data(), bytes.size()));
  }
  return hasher.digest();
}

Hash128 shard_hash(std::span<const std::byte> bytes, std::uint64_t chunk_bytes) {
  std::vector<Hash128> hashes;
  for (std::uint64_t at = 0; at < bytes.size(); at += chunk_bytes) {
    hashes.push_back(hash128(bytes.subspan(at, std::min(chunk_bytes, bytes.size() - at))));
  }
  return shard_hash(hashes);
}

Hash128 combine(std::vector<TensorHash> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorHash& a, const TensorHash& b) {
    return std::tie(a.kind, a.name) < std::tie(b.kind, b.name);
  });
  Hasher128 hasher;
  for (const TensorHash& t : tensors) {
    hasher.update(fmt::format("{}\t{}\t{}\t[{}]\t{}\n", t.kind, t.name, to_string(t.dtype),
                              fmt::join(t.shape, ","), t.hash.hex()));
  }
  return hasher.digest();
}

Result<std::vector<TensorHash>> hash_tensors(const CheckpointReader& reader, int num_threads) {
  const std::vector<TensorInfo> tensors = reader.tensors();
  std::vector<TensorHash> hashes(tensors.size());
  TENAX_RETURN_IF_ERROR(for_each_index(tensors.size(), num_threads, [&](std::size_t i) -> Status {
    TENAX_TRY(hashes[i], hash_tensor(reader, tensors[i]));
    return {};
  }));
  return hashes;
}

Result<Hash128> hash_checkpoint(const CheckpointReader& reader, int num_threads) {
  TENAX_TRY(auto tensors, hash_tensors(reader, num_threads));
  return combine(std::move(tensors));
}

}  // namespace tenax::checkpoint
