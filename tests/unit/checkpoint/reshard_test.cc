// A checkpoint written in one layout (dp, tp, pp, ep, with or without ZeRO) is read in another:
// each rank gets exactly its boxes and reads only the chunks that hold them.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "checkpoint/box.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

struct RandomLayout {
  int dp = 1, tp = 1, pp = 1, ep = 1;
  bool zero = false;  ///< optimizer state is divided among the data-parallel ranks

  int world() const { return dp * tp * pp; }  // expert parallelism lies within data parallelism
  std::string text() const {
    return fmt::format("dp {} tp {} pp {} ep {} zero {}", dp, tp, pp, ep, zero);
  }
};

RandomLayout random_degrees(std::mt19937_64& rng) {
  RandomLayout l;
  l.dp = 1 + static_cast<int>(rng() % 4);
  l.tp = 1 + static_cast<int>(rng() % 4);
  l.pp = 1 + static_cast<int>(rng() % 3);
  l.ep = l.dp % 2 == 0 && rng() % 2 == 0 ? 2 : 1;
  l.zero = rng() % 2 == 0;
  return l;
}

/// Part `i` of `n` of the box along `d`; parts may be empty and differ by one.
Box split(Box box, std::size_t d, int n, int i) {
  const std::int64_t extent = box.extent[d];
  const std::int64_t begin = extent * i / n;
  box.offset[d] += begin;
  box.extent[d] = extent * (i + 1) / n - begin;
  return box;
}

struct Held {
  const LogicalTensor* tensor;
  Box box;
  bool writes;  ///< of the replicas of these elements this rank writes them
};

Model transformer(std::uint64_t seed) {
  std::mt19937_64 rng(seed);
  Model model;
  const auto add = [&](const char* kind, const std::string& name, std::vector<std::int64_t> shape) {
    LogicalTensor t{kind, name, std::move(shape), {}};
    t.values.resize(static_cast<std::size_t>(volume(whole(t.shape))));
    for (float& v : t.values) v = static_cast<float>(rng() % 100000);
    model.push_back(std::move(t));
  };
  for (const char* kind : {kParameter, kAdamM, kAdamV}) {
    add(kind, "stage0.embedding", {61, 40});
    for (int layer = 0; layer < 3; ++layer) {
      add(kind, fmt::format("stage{}.up", layer), {40, 96});    // split by columns
      add(kind, fmt::format("stage{}.down", layer), {96, 40});  // split by rows
      add(kind, fmt::format("stage{}.norm", layer), {40});      // held by every tp rank
      add(kind, fmt::format("stage{}.experts", layer), {4, 24, 20});
    }
  }
  return model;
}

/// What rank (d, t, p) holds: as a trainer of that layout would divide the model.
std::vector<Held> held_by(const Model& model, const RandomLayout& l, int d, int t, int p) {
  std::vector<Held> held;
  for (const LogicalTensor& tensor : model) {
    const int layer = tensor.name[5] - '0';
    if (layer * l.pp / 3 != p) continue;
    Box box = whole(tensor.shape);
    bool writes = d == 0;
    if (tensor.name.ends_with("up")) box = split(box, 1, l.tp, t);
    if (tensor.name.ends_with("down") || tensor.name.ends_with("embedding")) {
      box = split(box, 0, l.tp, t);
    }
    if (tensor.name.ends_with("norm")) writes = writes && t == 0;
    if (tensor.name.ends_with("experts")) {
      box = split(split(box, 0, l.ep, d % l.ep), 2, l.tp, t);
      writes = d < l.ep;
    }
    const bool divided = l.zero && tensor.kind != kParameter && !tensor.name.ends_with("experts");
    if (divided) {
      box = split(box, 0, l.dp, d);
      writes = !tensor.name.ends_with("norm") || t == 0;
    }
    if (volume(box) > 0) held.push_back({&tensor, box, writes});
  }
  return held;
}

template <class F>
void for_ranks(const RandomLayout& l, F&& f) {
  for (int p = 0; p < l.pp; ++p) {
    for (int t = 0; t < l.tp; ++t) {
      for (int d = 0; d < l.dp; ++d) f(d, t, p);
    }
  }
}

Result<Manifest> save_in(Store& store, std::uint64_t id, const Model& model,
                         const RandomLayout& l) {
  Manifest manifest;
  manifest.checkpoint_id = id;
  std::vector<ShardFile> files;
  Status status;
  for_ranks(l, [&](int d, int t, int p) {
    std::vector<TensorShard> table;
    std::vector<std::vector<float>> contents;
    for (const Held& h : held_by(model, l, d, t, p)) {
      if (!h.writes) continue;
      table.push_back(
          {h.tensor->name, h.tensor->kind, DType::kFloat32, h.tensor->shape, h.box, 0, 0});
      contents.push_back(pick(*h.tensor, h.box));
    }
    std::vector<std::byte> payload(assign_offsets(table));
    for (std::size_t i = 0; i < table.size(); ++i) {
      std::memcpy(payload.data() + table[i].offset, contents[i].data(), table[i].bytes);
    }
    const auto written = write_shard({store.staging_dir(), id, fmt::format("r{}.{}.{}", d, t, p),
                                      table, payload, small_files()});
    if (!written) {
      status = written.error();
      return;
    }
    if (const Status s = add_to_manifest(*written, manifest); !s) status = s;
    files.insert(files.end(), written->files.begin(), written->files.end());
  });
  TENAX_RETURN_IF_ERROR(status);
  TENAX_RETURN_IF_ERROR(store.commit(manifest, files, {}));
  return manifest;
}

/// Bytes of the chunks that hold elements of the box, one element looked at after the other.
std::uint64_t bytes_needed(const Manifest& m, const LogicalTensor& tensor, const Box& box) {
  std::set<std::tuple<const StoredShard*, std::int64_t>> chunks;
  std::vector<std::int64_t> at(box.offset.size());
  for (std::int64_t i = 0; i < volume(box); ++i) {
    std::int64_t rest = i;
    for (std::size_t d = at.size(); d-- > 0;) {
      at[d] = box.offset[d] + rest % box.extent[d];
      rest /= box.extent[d];
    }
    for (const StoredShard& s : m.shards) {
      if (s.shard.kind != tensor.kind || s.shard.name != tensor.name) continue;
      std::int64_t flat = 0;
      bool inside = true;
      for (std::size_t d = 0; d < at.size(); ++d) {
        const std::int64_t x = at[d] - s.shard.box.offset[d];
        inside = inside && x >= 0 && x < s.shard.box.extent[d];
        flat = flat * s.shard.box.extent[d] + x;
      }
      if (!inside) continue;
      chunks.insert({&s, 4 * flat / static_cast<std::int64_t>(m.chunk_bytes)});
      break;
    }
  }
  std::uint64_t bytes = 0;
  for (const auto& [shard, index] : chunks) {
    bytes += shard->chunks[static_cast<std::size_t>(index)].bytes;
  }
  return bytes;
}

TEST(Reshard, AnyLayoutReadsAnyCheckpointAndOnlyTheChunksItNeeds) {
  const TempDir dir;
  const auto store = Store::open(dir / "run", store_options());
  ASSERT_OK(store);
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    std::mt19937_64 rng(seed);
    const Model model = transformer(seed);
    const RandomLayout from = random_degrees(rng);
    const RandomLayout to = random_degrees(rng);
    SCOPED_TRACE(fmt::format("seed {}: {} -> {}", seed, from.text(), to.text()));
    const auto manifest = save_in(**store, seed, model, from);
    ASSERT_OK(manifest);
    for_ranks(to, [&](int d, int t, int p) {
      const auto wanted = held_by(model, to, d, t, p);
      std::vector<std::vector<float>> out;
      std::vector<BoxRequest> requests;
      std::uint64_t needed = 0;
      for (const Held& h : wanted) out.emplace_back(static_cast<std::size_t>(volume(h.box)));
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        const LogicalTensor& tensor = *wanted[i].tensor;
        requests.push_back({tensor.kind, tensor.name, wanted[i].box, out[i]});
        needed += bytes_needed(*manifest, tensor, wanted[i].box);
      }
      const CheckpointReader reader(**store, *manifest);
      ASSERT_OK(reader.read_boxes(requests, 2));
      EXPECT_EQ(reader.bytes_read(), needed);
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        EXPECT_EQ(out[i], pick(*wanted[i].tensor, wanted[i].box)) << requests[i].name;
      }
    });
    ASSERT_OK((*store)->remove(seed, {}));
  }
}

}  // namespace
}  // namespace tenax::checkpoint
