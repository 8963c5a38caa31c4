// Training in a world of threads, from a run's configuration to the tensors of its checkpoint: what
// the ranks of any layout hold in the end, put together as a checkpoint would be.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "actors/engine_payload.h"
#include "compute/communicator.h"
#include "compute/engine.h"
#include "configs/run_config.h"

namespace tenax::test {

struct TrainedWorld {
  std::vector<double> losses;  ///< of each step
  std::vector<double> norms;
  double eval_loss = 0;  ///< after the last step
  /// Logical tensors by kind and name, from the shards that ranks write.
  std::map<std::pair<std::string, std::string>, std::vector<float>> tensors;
};

struct WorldOptions {
  configs::RunConfig config;
  std::int64_t vocabulary_size = 257;
  int steps = 2;
  int document_length = 0;  ///< tokens of each document of a sample; 0: a sample is one
  /// Called for each rank, in its thread. Without it every layer is a bucket of gradients.
  std::function<void(compute::EngineOptions& options)> change_options;
  /// Called on each rank before it trains.
  std::function<void(compute::Engine& engine)> connect;
  /// Called on each rank between its update and the sharing of weights.
  std::function<void(compute::Engine& engine)> after_update;
};

/// Trains from the seed. Fails the test unless every element of every logical tensor is written by
/// exactly one rank, whatever else holds it has the same bits, and all ranks know the same loss and
/// norm.
TrainedWorld train_world(const WorldOptions& options);

/// Fails the test, naming the tensors, unless both have the same losses, norms and bits.
void expect_same_bits(const TrainedWorld& a, const TrainedWorld& b);
/// The same of the tensors alone.
void expect_same_tensors(const TrainedWorld& a, const TrainedWorld& b);

/// Fails the test unless losses, norms and first moments agree within c * eps * sqrt(K) (docs/
/// numerics.md), relative to a number itself, or to a tensor's norm, at least a thousandth of that
/// of all (some gradients, such as that of a key's bias, are zero but for rounding). After one
/// step the first moment is a tenth of the clipped gradient.
void expect_within_bound(const TrainedWorld& a, const TrainedWorld& b, double bound);

}  // namespace tenax::test
