// Tensors that the optimizer treats by their group's rule.
#include <gtest/gtest.h>

#include <map>

#include "compute/engine.h"
#include "tests/support/thread_world.h"
#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {
namespace {

using Tensors = std::map<std::string, std::vector<float>>;

Tensors tensors_of(Engine& engine) {
  Tensors out;
  for (const StageParameter& p : engine.parameters()) {
    const auto values = engine.values().subspan(static_cast<std::size_t>(p.offset),
                                                static_cast<std::size_t>(p.size));
    out[p.spec.name].assign(values.begin(), values.end());
  }
  return out;
}

/// The weights before and after one update of a model on one rank.
std::pair<Tensors, Tensors> update_once(const std::vector<ParameterGroup>& groups) {
  std::pair<Tensors, Tensors> result;
  test::run_world(1, [&](Communicator& comm) {
    EngineOptions o;
    o.model = tiny_gpt2();
    o.shape = {2, 7};
    o.stages = {whole_model(o.model)};
    o.dp_group = o.pp_group = {0};
    o.replicas = {{0}};
    o.ranges = {{0, 1}};
    o.schedule = {{ActionKind::kForward, 0, 0}, {ActionKind::kBackward, 0, 0}};
    o.groups = groups;
    auto engine = Engine::create(o);
    ASSERT_TRUE(engine) << engine.error().message;
    (*engine)->initialise(3);
    result.first = tensors_of(**engine);
    const TestBatch batch(o.model, o.shape);
    const Microbatch microbatch{batch.tokens, batch.targets, false};
    ASSERT_TRUE((*engine)->compute_gradients(comm, {&microbatch, 1}));
    (*engine)->apply_update({1.0, 0, 10, 1e-2, 1});
    result.second = tensors_of(**engine);
  });
  return result;
}

TEST(EngineGroups, AFactorOfZeroFreezesTensorsAndLeavesTheOthersAlone) {
  const auto plain = update_once({});
  const auto frozen = update_once({{"layers.*", std::nullopt, 0}});
  for (const auto& [name, before] : frozen.first) {
    if (name.starts_with("layers.")) {
      EXPECT_EQ(frozen.second.at(name), before) << name;
      EXPECT_NE(plain.second.at(name), before) << name;
    } else {
      EXPECT_EQ(frozen.second.at(name), plain.second.at(name)) << name;
    }
  }
}

TEST(EngineGroups, WeightDecayIsThatOfTheGroup) {
  const auto plain = update_once({});
  const auto other = update_once({{"*.bias", 0.5, 1}, {"*up.weight", 0.0, 1}});
  for (const auto& [name, before] : plain.first) {
    const bool decays_more = name.ends_with(".bias");
    const bool decays_less = name.ends_with("up.weight");
    if (!decays_more && !decays_less) {
      EXPECT_EQ(other.second.at(name), plain.second.at(name)) << name;
      continue;
    }
    // w -= rate * decay * w on top of the same step: a difference of rate * (0.5 - 0) for biases,
    // which begin at 0 and so stay equal, and of rate * (0 - 0.1) for matrices; two roundings.
    for (std::size_t i = 0; i < before.size(); ++i) {
      const double difference = static_cast<double>(other.second.at(name)[i]) -
                                static_cast<double>(plain.second.at(name)[i]);
      const double expected = decays_less ? 1e-2 * 0.1 * static_cast<double>(before[i]) : 0;
      ASSERT_NEAR(difference, expected, 2e-8) << name << " element " << i;
    }
  }
}

}  // namespace
}  // namespace tenax::compute
