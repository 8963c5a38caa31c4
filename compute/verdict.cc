#include "compute/verdict.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "common/check.h"

namespace tenax::compute {

namespace {
// A block is all doubles; integers travel as their bits.
enum Field : std::size_t { kStep, kPlanHigh, kPlanLow, kCommand, kSlotFree, kDiffers, kNumFields };

double from_int(std::int64_t v) { return std::bit_cast<double>(v); }
std::int64_t to_int(double v) { return std::bit_cast<std::int64_t>(v); }
}  // namespace

VerdictExchange::VerdictExchange(int world_size, int rank, VerdictShape shape)
    : ranks_(static_cast<std::size_t>(world_size)), rank_(rank), shape_(std::move(shape)) {
  std::iota(ranks_.begin(), ranks_.end(), 0);
  block_ = kNumFields + 2 * shape_.max_microbatches + shape_.max_tensors;
  mine_.resize(block_);
  all_.resize(block_ * ranks_.size());
  replica_losses_.reserve(shape_.losses.size());
}

Result<Verdict> VerdictExchange::run(Communicator& comm, std::uint64_t tag,
                                     const VerdictPart& mine) {
  TENAX_CHECK(mine.loss_sums.size() <= shape_.max_microbatches &&
              mine.square_sums.size() <= shape_.max_tensors);
  std::fill(mine_.begin(), mine_.end(), 0.0);
  mine_[kStep] = from_int(mine.step);
  mine_[kPlanHigh] = from_int(static_cast<std::int64_t>(mine.plan_digest.high));
  mine_[kPlanLow] = from_int(static_cast<std::int64_t>(mine.plan_digest.low));
  mine_[kCommand] = from_int(mine.newest_command);
  mine_[kSlotFree] = from_int(mine.slot_free ? 1 : 0);
  mine_[kDiffers] = from_int(mine.differs ? 1 : 0);
  double* losses = mine_.data() + kNumFields;
  double* counts = losses + shape_.max_microbatches;
  for (std::size_t i = 0; i < mine.loss_sums.size(); ++i) {
    losses[i] = mine.loss_sums[i];
    counts[i] = from_int(mine.target_counts[i]);
  }
  std::copy(mine.square_sums.begin(), mine.square_sums.end(), counts + shape_.max_microbatches);

  TENAX_RETURN_IF_ERROR(all_gather(comm, {ranks_, rank_}, tag, std::as_bytes(std::span(mine_)),
                                   std::as_writable_bytes(std::span(all_))));

  Verdict verdict;
  verdict.step = mine.step;
  verdict.command = std::numeric_limits<std::int64_t>::max();
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    const double* block = all_.data() + r * block_;
    if (to_int(block[kStep]) != mine.step || to_int(block[kPlanHigh]) != to_int(mine_[kPlanHigh]) ||
        to_int(block[kPlanLow]) != to_int(mine_[kPlanLow])) {
      return make_error(
          ErrorCode::kInternal,
          fmt::format(
              "verdict: rank {} is at step {} of another plan or step than rank {} at step {}", r,
              to_int(block[kStep]), rank_, mine.step));
    }
    verdict.command = std::min(verdict.command, to_int(block[kCommand]));
    verdict.slots_free = verdict.slots_free && to_int(block[kSlotFree]) != 0;
    if (to_int(block[kDiffers]) != 0 && verdict.num_differing++ == 0)
      verdict.differing_rank = static_cast<int>(r);
  }
  replica_losses_.clear();
  double loss = 0;
  for (const VerdictShape::LossSource& source : shape_.losses) {
    const double* sums = all_.data() + source.rank * block_ + kNumFields;
    double replica_loss = 0;
    std::int64_t replica_targets = 0;
    for (std::size_t i = 0; i < source.num_microbatches; ++i) {
      loss += sums[i];
      replica_loss += sums[i];
      replica_targets += to_int(sums[shape_.max_microbatches + i]);
    }
    verdict.targets += replica_targets;
    if (shape_.losses.size() > 1)
      replica_losses_.push_back(replica_loss / static_cast<double>(replica_targets));
  }
  double squares = 0;
  for (const VerdictShape::NormSource& source : shape_.norms) {
    const double* sums =
        all_.data() + source.rank * block_ + kNumFields + 2 * shape_.max_microbatches;
    for (std::size_t tensor : source.tensors) squares += sums[tensor];
  }
  verdict.replica_losses = replica_losses_;
  const double n = static_cast<double>(verdict.targets);
  verdict.loss = loss / n;
  verdict.grad_norm = std::sqrt(squares) / n;
  verdict.finite = std::isfinite(verdict.loss) && std::isfinite(verdict.grad_norm);
  return verdict;
}

}  // namespace tenax::compute
