#include "actors/step_replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "actors/engine_payload.h"
#include "actors/engine_setup.h"
#include "actors/host_gpus.h"
#include "actors/journal_reader.h"
#include "actors/step_data.h"
#include "checkpoint/reader.h"
#include "checkpoint/store_reader.h"
#include "checkpoint/tensor_hash.h"
#include "compute/solo_communicator.h"
#include "configs/run_config.h"
#include "data/token_file.h"
#include "scheduler/layout.h"
#include "scheduler/run_controller.h"
#include "scheduler/run_json.h"

namespace tenax::actors {

namespace {

/// Relative, of losses and gradient norms: rounding stays below, a flipped bit that matters is
/// above.
constexpr double kLeastTolerance = 1e-3;
constexpr double kSpreadFactor = 100;

using Reports = std::map<std::int64_t, StepReport>;

bool same_bits(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b) || (a != a && b != b);
}

/// The first report of every step on the way to the state's current branch.
Result<Reports> journalled_reports(const checkpoint::StoreReader& store,
                                   const scheduler::RunState& state) {
  Reports reports;
  const auto take = [&](const StepReport& r) {
    if (scheduler::on_ancestry(state, r.branch, r.step)) reports.try_emplace(r.step, r);
  };
  TENAX_RETURN_IF_ERROR(
      for_each_entry(store, [&](const scheduler::JournalEntry& entry, const std::string&) {
        if (const auto* e = std::get_if<scheduler::StepReported>(&entry.event)) take(e->report);
        if (const auto* e = std::get_if<scheduler::RankStopped>(&entry.event)) {
          for (const StepReport& r : e->state.reports) take(r);
        }
      }));
  return reports;
}

class Replay {
 public:
  static Result<std::unique_ptr<Replay>> open(const RunDirectory& directory) {
    std::unique_ptr<Replay> replay(new Replay);
    TENAX_TRY([[maybe_unused]] const RunIdentity identity, directory.identity());
    TENAX_TRY(replay->config_, configs::load_run_config(directory.config(), {}));
    TENAX_TRY(replay->store_, checkpoint::StoreReader::open_read_only(directory.path().string()));
    TENAX_TRY(const auto saved, replay->store_->state());
    if (!saved) return make_error(ErrorCode::kNotFound, "the run has no journal yet");
    TENAX_TRY(replay->state_, scheduler::run_state_from_json(*saved));
    replay->exact_ = replay->state_.degrees.tp == 1;
    TENAX_TRY(replay->reports_, journalled_reports(*replay->store_, replay->state_));
    const auto corpora = directory.corpora(replay->config_.data.num_corpora());
    // Other tokens than were trained would look like a wrong computation.
    data::TokenFile::OpenOptions verify;
    verify.verify = data::TokenFile::Verify::kContent;
    for (const data::TokenizePaths& corpus : corpora) {
      TENAX_TRY([[maybe_unused]] const auto tokens, data::TokenFile::open(corpus.train, verify));
    }
    TENAX_TRY(replay->data_, StepData::open(replay->config_, corpora));
    replay->data_->set_skip_windows(replay->state_.skip_windows);
    std::shared_ptr<compute::CudaDevice> gpu;
    if (replay->config_.train.device == configs::ComputeDevice::kCuda) {
      TENAX_TRY(const HostGpus host, find_gpus());
      TENAX_TRY(gpu, open_gpu(host, 0));
    }
    TENAX_RETURN_IF_ERROR(check_arithmetic(directory, replay->config_, gpu.get()));
    auto options = engine_options(replay->config_, replay->data_->vocabulary_size(), {}, 0);
    options.settings.cuda = std::move(gpu);
    TENAX_TRY(replay->engine_, compute::Engine::create(std::move(options)));
    return replay;
  }

  /// The step whose weights the engine then holds.
  Result<std::int64_t> load(const ReplayOptions& options) {
    std::uint64_t id = 0;
    if (options.checkpoint_id) {
      id = *options.checkpoint_id;
    } else if (const auto* c = scheduler::newest_checkpoint(state_, options.to - 1)) {
      id = c->id;
    }
    if (id == 0) {
      engine_->initialise(static_cast<std::uint64_t>(config_.run.seed));
      return 0;
    }
    TENAX_TRY(const checkpoint::Manifest manifest, store_->manifest(id));
    const std::int64_t step = manifest.step;
    const checkpoint::CheckpointReader reader(*store_, manifest);
    std::vector<checkpoint::BoxRequest> requests;
    TENAX_TRY(const compute::Engine::HostState state, engine_->host_state());
    const EnginePayload payload = payload_of(*engine_);
    for (const checkpoint::TensorShard& shard : payload.table)
      requests.push_back({shard.kind, shard.name, shard.box, shard_values(state.parts, shard)});
    TENAX_RETURN_IF_ERROR(reader.read_boxes(requests, 1));
    TENAX_RETURN_IF_ERROR(engine_->store(state));
    return step;
  }

  /// The next step; `replayed` gets its numbers. The difference, if there is one.
  Result<std::optional<scheduler::ReplayEnded>> step(std::int64_t step, StepReport& replayed) {
    const auto known = reports_.find(step);
    if (known == reports_.end()) {
      return make_error(ErrorCode::kNotFound,
                        fmt::format("step {} is not in the journal of the current branch", step));
    }
    const StepReport& before = known->second;
    const int count = data_->num_microbatches(step);
    TENAX_RETURN_IF_ERROR(use_batch_of(*engine_, config_, {}, count));
    TENAX_RETURN_IF_ERROR(engine_->compute_gradients(comm_, data_->microbatches(step, 0, count)));
    compute::VerdictPart part = engine_->verdict_part();
    part.step = step;
    TENAX_TRY(const compute::Verdict verdict, engine_->exchange_verdict(comm_, part));
    replayed = before;
    replayed.loss = verdict.loss;
    replayed.grad_norm = verdict.grad_norm;
    replayed.replica_losses = replica_losses(part, before.replica_losses.size());
    if (auto found = difference(before, replayed)) return found;
    if (before.update == UpdateKind::kApplied) {
      engine_->apply_update(
          {before.grad_norm, before.clip_norm, before.tokens, before.learning_rate, step});
    }
    TENAX_RETURN_IF_ERROR(engine_->share_weights(comm_));
    return exact_ ? compare_weights(step) : std::optional<scheduler::ReplayEnded>();
  }

  double spread() const { return spread_; }

 private:
  Replay() = default;

  /// As the run's layout cuts the microbatches into replicas.
  std::vector<double> replica_losses(const compute::VerdictPart& part, std::size_t replicas) const {
    std::vector<double> losses;
    for (std::size_t r = 0; r < replicas; ++r) {
      const auto share = scheduler::even_share(static_cast<std::int64_t>(part.loss_sums.size()),
                                               static_cast<int>(replicas), static_cast<int>(r));
      double sum = 0;
      std::int64_t targets = 0;
      for (auto i = static_cast<std::size_t>(share.begin); i < static_cast<std::size_t>(share.end);
           ++i) {
        sum += part.loss_sums[i];
        targets += part.target_counts[i];
      }
      losses.push_back(sum / static_cast<double>(targets));
    }
    return losses;
  }

  /// Bit for bit; where the run's ranks round otherwise than one process, within a multiple of what
  /// the steps before showed.
  bool same(double before, double now) {
    if (same_bits(before, now)) return true;
    if (exact_) return false;
    const double apart = std::abs(before - now) / std::max(std::abs(before), std::abs(now));
    if (!(apart <= std::max(kLeastTolerance, kSpreadFactor * spread_))) return false;
    spread_ = std::max(spread_, apart);
    return true;
  }

  std::optional<scheduler::ReplayEnded> difference(const StepReport& before,
                                                   const StepReport& now) {
    scheduler::ReplayEnded found;
    found.difference_step = before.step;
    std::vector<std::size_t> odd;
    for (std::size_t r = 0; r < before.replica_losses.size(); ++r) {
      if (!same(before.replica_losses[r], now.replica_losses[r])) odd.push_back(r);
    }
    if (odd.size() == 1) {
      found.replica = static_cast<std::int32_t>(odd.front());
      found.detail = fmt::format(
          "replica {} reported the loss {:.9g}, another process finds {:.9g}; the other replicas "
          "were right",
          odd.front(), before.replica_losses[odd.front()], now.replica_losses[odd.front()]);
      return found;
    }
    if (!same(before.loss, now.loss)) {
      found.detail = fmt::format("the journalled loss is {:.9g}, another process finds {:.9g}",
                                 before.loss, now.loss);
      return found;
    }
    if (!same(before.grad_norm, now.grad_norm)) {
      found.detail = fmt::format(
          "the losses are right, but the journalled gradient norm is {:.9g} and another process "
          "finds {:.9g}",
          before.grad_norm, now.grad_norm);
      return found;
    }
    return std::nullopt;
  }

  /// With the checkpoint of this step, if there is one.
  Result<std::optional<scheduler::ReplayEnded>> compare_weights(std::int64_t step) {
    for (const scheduler::CheckpointInfo& c : state_.checkpoints) {
      if (!c.committed || c.quarantined || c.step != step ||
          !scheduler::on_ancestry(state_, c.branch, c.step))
        continue;
      auto manifest = store_->manifest(c.id);
      if (!manifest) continue;  // deleted meanwhile
      const checkpoint::CheckpointReader reader(*store_, *std::move(manifest));
      const auto stored = checkpoint::hash_tensors(reader, 1);
      if (!stored) continue;  // damage is the verifier's matter
      for (const checkpoint::TensorShard& shard : payload_of(*engine_).table) {
        const auto it = std::find_if(stored->begin(), stored->end(), [&](const auto& t) {
          return t.kind == shard.kind && t.name == shard.name && t.shape == shard.box.extent;
        });
        if (it == stored->end()) continue;
        TENAX_TRY(const Hash128 hash, engine_->hash_of(shard_values(engine_->state(), shard)));
        if (it->hash == hash) continue;
        scheduler::ReplayEnded found;
        found.difference_step = step;
        found.detail = fmt::format(
            "losses and gradient norms are right, but {} {} in the checkpoint of step {} is not "
            "what "
            "another process finds",
            shard.kind, shard.name, step);
        return std::optional(found);
      }
    }
    return std::optional<scheduler::ReplayEnded>();
  }

  configs::RunConfig config_;
  std::unique_ptr<checkpoint::StoreReader> store_;
  scheduler::RunState state_;
  Reports reports_;
  bool exact_ = true;  ///< one process rounds like the run's ranks
  double spread_ = 0;  ///< largest relative difference that was let pass
  std::unique_ptr<StepData> data_;
  std::unique_ptr<compute::Engine> engine_;
  compute::SoloCommunicator comm_;
};

}  // namespace

Result<scheduler::ReplayEnded> replay_steps(const ReplayOptions& options) {
  const auto opened = Replay::open(options.directory);
  if (!opened) return opened.error();
  const auto& replay = *opened;
  TENAX_TRY(const std::int64_t from, replay->load(options));
  if (options.to <= from) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("step {} is not after step {}, where the replay would begin",
                                  options.to, from));
  }
  for (std::int64_t step = from + 1; step <= options.to; ++step) {
    StepReport replayed;
    TENAX_TRY(auto found, replay->step(step, replayed));
    if (found) {
      found->id = options.id;
      found->compared = step - 1 - from;
      return *std::move(found);
    }
    if (options.on_step) options.on_step(replayed);
  }
  scheduler::ReplayEnded same;
  same.id = options.id;
  same.compared = options.to - from;
  same.spread = replay->spread();
  return same;
}

}  // namespace tenax::actors
