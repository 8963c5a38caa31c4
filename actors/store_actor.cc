#include "actors/store_actor.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <utility>

#include "actors/gpu_plans.h"
#include "actors/sample_log.h"
#include "checkpoint/reader.h"
#include "checkpoint/tensor_hash.h"

namespace tenax::actors {

namespace {

constexpr int kJournalTries = 5;

/// A failed write may be repeated. A full disk is given a moment: retention may be freeing space.
Status append_with_patience(checkpoint::Store& store, const AppendJournal& m) {
  Status status;
  for (int i = 0; i < kJournalTries; ++i) {
    status = store.append_journal(
        m.records, m.state ? std::optional<std::string_view>(*m.state) : std::nullopt,
        m.synced ? checkpoint::Durability::kSynced : checkpoint::Durability::kWritten);
    if (status || status.error().code == ErrorCode::kInvalidArgument) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  return status;
}

}  // namespace

void store_writer(caf::blocking_actor* self, std::shared_ptr<checkpoint::Store> store,
                  caf::actor supervisor) {
  bool running = true;
  self->receive_while(running)(
      [&](const AppendJournal& m) {
        const Status status = append_with_patience(*store, m);
        self->send(supervisor, Journalled{m.records.empty() ? 0 : m.records.back().seq,
                                          status ? std::string() : status.error().message});
      },
      [&](const CommitFiles& m) {
        CommitDone done{m.manifest->checkpoint_id, checkpoint::total_bytes(*m.manifest), {}, 0};
        checkpoint::Manifest manifest = *m.manifest;
        if (!m.gpu_plans.empty())
          manifest.arithmetic += "\n" + gpu_plans_of(m.gpu_plans, manifest.arithmetic);
        if (const Status s = store->commit(manifest, m.files, {}); !s)
          done.error = s.error().message;
        if (const auto space = store->space()) done.free_bytes = space->free_bytes;
        self->send(supervisor, std::move(done));
      },
      [&](const RemoveCheckpoint& m) {
        if (const Status s = store->remove(m.checkpoint_id, {}); !s) {
          spdlog::warn("remove checkpoint {}: {}", m.checkpoint_id, s.error().message);
        }
      },
      [&](const DropFiles& m) {
        for (const std::string& path : m.paths) ::unlink(path.c_str());
      },
      [&](const KeepSampleLosses& m) {
        if (const Status s = keep_samples(m.rings, m.branch, m.first_step, m.last_step, m.out); !s)
          spdlog::warn("losses of samples are not kept: {}", s.error().message);
      },
      [&](caf::exit_msg&) { running = false; });
}

void store_verifier(caf::blocking_actor* self, std::shared_ptr<checkpoint::Store> store,
                    caf::actor supervisor) {
  bool running = true;
  self->receive_while(running)(
      [&](const VerifyFull& m) {
        VerifyDone done{m.checkpoint_id, {}};
        const auto report = store->verify(m.checkpoint_id, checkpoint::VerifyDepth::kFull);
        if (!report) {
          done.error = report.error().message;
        } else if (!report->ok()) {
          done.error = report->problems.front();
        }
        self->send(supervisor, std::move(done));
      },
      [&](caf::exit_msg&) { running = false; });
}

}  // namespace tenax::actors
