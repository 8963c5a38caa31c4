#include "actors/slot_writer.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "actors/shard_codec.h"
#include "checkpoint/shard_writer.h"
#include "checkpoint/slot.h"
#include "common/clock.h"

namespace tenax::actors {

namespace {

Result<wire::ShardWritten> write(const WriteSlot& job, const SlotWriterOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const std::string prefix = checkpoint::slot_prefix(
      options.run_id, fmt::format("a{}", options.agent), static_cast<int>(job.worker_slot));
  TENAX_TRY(const checkpoint::SlotReader slot,
            checkpoint::find_sealed_slot(prefix, job.sealed.branch, job.sealed.step));
  TENAX_TRY(const auto table, checkpoint::decode_table(job.sealed.table));
  checkpoint::ShardWriteRequest request;
  request.staging_dir = (options.run_dir / "staging").string();
  request.checkpoint_id = checkpoint_id(job.generation, job.sealed.step);
  request.writer = fmt::format("r{}", job.sealed.rank);
  for (const std::uint32_t i : job.sealed.writes) {
    if (i < table.size()) request.shards.push_back(table[i]);
  }
  request.payload = slot.payload();
  request.options.num_threads = options.num_threads;
  request.options.compression = options.compression;
  request.options.env = options.env;
  auto written_files = checkpoint::write_shard(request);
  if (!written_files && written_files.error().code == ErrorCode::kIo && slot.still_sealed()) {
    // What the disk refused is gone; the slot still has every byte (C4).
    spdlog::warn("{}; it is written again from the slot", written_files.error().message);
    written_files = checkpoint::write_shard(request);
  }
  TENAX_TRY(const checkpoint::ShardFiles files, std::move(written_files));
  const Hash128 digest = hash128(slot.payload().first(
      std::min<std::size_t>(job.sealed.replicated_bytes, slot.payload().size())));
  if (!slot.still_sealed()) {
    return make_error(ErrorCode::kUnavailable, "the slot was reused while it was being written");
  }
  wire::ShardWritten written;
  written.rank = job.sealed.rank;
  written.branch = job.sealed.branch;
  written.step = job.sealed.step;
  written.checkpoint_id = request.checkpoint_id;
  for (const auto& file : files.files) written.bytes += file.bytes;
  written.shard = encode_shard_files(files);
  written.digest = digest.hex();
  written.seconds = to_seconds(std::chrono::steady_clock::now() - begin);
  return written;
}

}  // namespace

void slot_writer(caf::blocking_actor* self, SlotWriterOptions options, caf::actor parent) {
  bool running = true;
  self->receive_while(running)(
      [&](const WriteSlot& job) {
        SlotWritten done;
        done.generation = job.generation;
        done.worker_slot = job.worker_slot;
        done.worker_incarnation = job.worker_incarnation;
        auto written = write(job, options);
        if (written) {
          done.answer = *std::move(written);
        } else {
          done.answer = wire::ShardFailed{job.sealed.rank, job.sealed.branch, job.sealed.step,
                                          checkpoint_id(job.generation, job.sealed.step),
                                          written.error().message};
        }
        self->send(parent, std::move(done));
      },
      [&](caf::exit_msg&) { running = false; });
}

}  // namespace tenax::actors
