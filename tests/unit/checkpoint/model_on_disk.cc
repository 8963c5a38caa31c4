#include "tests/unit/checkpoint/model_on_disk.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "checkpoint/box.h"

namespace tenax::checkpoint {

TempDir::TempDir() {
  std::string name = std::filesystem::temp_directory_path() / "tenax-checkpoint-XXXXXX";
  path_ = ::mkdtemp(name.data());
}

TempDir::~TempDir() { std::filesystem::remove_all(path_); }

Model random_model(std::uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  Model model;
  const std::vector<std::pair<std::string, std::vector<std::int64_t>>> tensors = {
      {"wte.weight", {67, 48}},
      {"h.0.attn.weight", {3, 16, 48}},
      {"h.0.ln.bias", {48}},
      {"h.1.mlp.weight", {48, 131}},
      {"scale", {}},
  };
  for (const char* kind : {kParameter, kAdamM, kAdamV}) {
    for (const auto& [name, shape] : tensors) {
      LogicalTensor t{kind, name, shape, {}};
      t.values.resize(static_cast<std::size_t>(volume(whole(shape))));
      for (float& v : t.values) v = normal(rng);
      if (t.values.size() > 2) {
        t.values[0] = -0.0f;
        t.values[1] = std::numeric_limits<float>::quiet_NaN();
        t.values[2] = std::numeric_limits<float>::denorm_min();
      }
      model.push_back(std::move(t));
    }
  }
  return model;
}

std::vector<float> pick(const LogicalTensor& tensor, const Box& box) {
  std::vector<float> out;
  std::vector<std::int64_t> at(box.offset.size(), 0);
  for (std::int64_t i = 0; i < volume(box); ++i) {
    std::int64_t rest = i;
    for (std::size_t d = at.size(); d-- > 0;) {
      at[d] = box.offset[d] + rest % box.extent[d];
      rest /= box.extent[d];
    }
    std::int64_t flat = 0;
    for (std::size_t d = 0; d < at.size(); ++d) flat = flat * tensor.shape[d] + at[d];
    out.push_back(tensor.values[static_cast<std::size_t>(flat)]);
  }
  return out;
}

Box random_box(const std::vector<std::int64_t>& shape, std::mt19937_64& rng) {
  Box box;
  for (const std::int64_t n : shape) {
    const std::int64_t begin = std::uniform_int_distribution<std::int64_t>(0, n - 1)(rng);
    box.offset.push_back(begin);
    box.extent.push_back(std::uniform_int_distribution<std::int64_t>(1, n - begin)(rng));
  }
  return box;
}

namespace {

/// Halves boxes at random places until there are about `count`.
std::vector<Box> random_partition(const std::vector<std::int64_t>& shape, int count,
                                  std::mt19937_64& rng) {
  std::vector<Box> boxes = {whole(shape)};
  for (int i = 1; i < count && !shape.empty(); ++i) {
    Box& box = boxes[rng() % boxes.size()];
    const std::size_t d = rng() % shape.size();
    if (box.extent[d] < 2) continue;
    const std::int64_t cut = std::uniform_int_distribution<std::int64_t>(1, box.extent[d] - 1)(rng);
    Box upper = box;
    upper.offset[d] += cut;
    upper.extent[d] -= cut;
    box.extent[d] = cut;
    boxes.push_back(upper);
  }
  return boxes;
}

}  // namespace

std::vector<WriterPart> random_layout(const Model& model, int num_writers, std::mt19937_64& rng) {
  std::vector<WriterPart> parts(static_cast<std::size_t>(num_writers));
  std::vector<std::vector<std::vector<float>>> contents(parts.size());
  for (std::size_t w = 0; w < parts.size(); ++w) parts[w].writer = fmt::format("host0.w{}", w);
  for (const LogicalTensor& t : model) {
    for (const Box& box : random_partition(t.shape, 1 + static_cast<int>(rng() % 5), rng)) {
      const std::size_t w = rng() % parts.size();
      parts[w].table.push_back({t.name, t.kind, DType::kFloat32, t.shape, box, 0, 0});
      contents[w].push_back(pick(t, box));
    }
  }
  for (std::size_t w = 0; w < parts.size(); ++w) {
    parts[w].payload.resize(assign_offsets(parts[w].table));
    for (std::size_t i = 0; i < parts[w].table.size(); ++i) {
      std::memcpy(parts[w].payload.data() + parts[w].table[i].offset, contents[w][i].data(),
                  parts[w].table[i].bytes);
    }
  }
  return parts;
}

ShardWriteOptions small_files() {
  ShardWriteOptions options;
  options.chunk_bytes = 4096;
  options.file_bytes = 16384;
  options.num_threads = 1;
  return options;
}

Result<Prepared> prepare(const std::string& staging_dir, std::uint64_t id, const Model& model,
                         const SaveOptions& options) {
  std::mt19937_64 rng(options.seed);
  Prepared prepared;
  prepared.manifest.checkpoint_id = id;
  prepared.manifest.run_id = "test";
  prepared.manifest.branch = options.branch;
  prepared.manifest.step = options.step;
  for (const WriterPart& part : random_layout(model, options.num_writers, rng)) {
    TENAX_TRY(const ShardFiles files,
              write_shard({staging_dir, id, part.writer, part.table, part.payload, options.write}));
    TENAX_RETURN_IF_ERROR(add_to_manifest(files, prepared.manifest));
    prepared.files.insert(prepared.files.end(), files.files.begin(), files.files.end());
  }
  return prepared;
}

Result<Manifest> save(Store& store, std::uint64_t id, const Model& model,
                      const SaveOptions& options) {
  const auto written = prepare(store.staging_dir(), id, model, options);
  if (!written) {
    TENAX_TRY(const int discarded, discard_staged(store.staging_dir(), id));
    static_cast<void>(discarded);
    return written.error();
  }
  const Prepared& prepared = *written;
  std::vector<JournalRecord> records;
  if (options.journal_seq != 0) {
    records.push_back({options.journal_seq, fmt::format("committed {}", id)});
  }
  TENAX_RETURN_IF_ERROR(store.commit(prepared.manifest, prepared.files, records));
  return prepared.manifest;
}

Status compare(const ChunkSource& source, const Manifest& manifest, const Model& model) {
  const CheckpointReader reader(source, manifest);
  if (reader.tensors().size() != model.size()) {
    return make_error(ErrorCode::kInternal, fmt::format("{} tensors, expected {}",
                                                        reader.tensors().size(), model.size()));
  }
  for (const LogicalTensor& t : model) {
    std::vector<float> values(t.values.size());
    TENAX_RETURN_IF_ERROR(reader.read_box(t.kind, t.name, whole(t.shape), values));
    // Bits, not values: NaN and -0 must survive too.
    if (std::memcmp(values.data(), t.values.data(), values.size() * sizeof(float)) != 0) {
      return make_error(ErrorCode::kInternal,
                        fmt::format("{} {} differs from what was saved", t.kind, t.name));
    }
  }
  return {};
}

StoreOptions store_options() {
  StoreOptions options;
  options.holder = {"testhost", ::getpid(), 1, Time(Duration(1'700'000'000'000'000'000))};
  return options;
}

}  // namespace tenax::checkpoint
