// Engines of every layout against one process: the same bits, or a derived bound
// (docs/numerics.md).
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "tests/support/grid_model.h"

namespace tenax::test {
namespace {

TEST(LayoutGrid, AShardedOptimizerGivesTheBitsOfOneProcess) {
  for (const bool tied : {true, false}) {
    WorldOptions o = world_options();
    o.config.model.tied_output = tied;
    const TrainedWorld alone = train_world(o);
    for (int pp = 1; pp <= 2; ++pp) {
      for (int dp = 1; dp <= 4; ++dp) {
        SCOPED_TRACE(testing::Message() << "dp " << dp << " pp " << pp << " tied " << tied);
        o.config.layout.data_parallel = dp;
        o.config.layout.pipeline_parallel = pp;
        o.config.layout.zero = 1;
        expect_same_bits(train_world(o), alone);
      }
    }
  }
}

TEST(LayoutGrid, AReplicaThatStoppedBeforeItHadTheOthersWeightsGetsThem) {
  WorldOptions o = world_options();
  o.config.layout.data_parallel = 3;
  o.config.layout.zero = 1;
  const TrainedWorld undisturbed = train_world(o);
  o.after_update = [](compute::Engine& engine) {
    std::vector<bool> mine(engine.values().size());
    for (const compute::MomentPiece& piece : engine.moments()) {
      const compute::StageParameter& p = engine.parameters()[piece.parameter];
      for (std::int64_t i = piece.begin; i < piece.end; ++i)
        mine[static_cast<std::size_t>(p.offset + i)] = true;
    }
    for (const compute::StageParameter& p : engine.parameters())
      for (std::int64_t i = p.offset; i < p.offset + p.size; ++i)
        if (!mine[static_cast<std::size_t>(i)])
          engine.values()[static_cast<std::size_t>(i)] = std::numeric_limits<float>::quiet_NaN();
  };
  expect_same_bits(train_world(o), undisturbed);
}

TEST(LayoutGrid, InterleavedStagesGiveTheBitsOfOneProcess) {
  for (const bool tied : {true, false}) {
    WorldOptions o = world_options();
    o.config.model.tied_output = tied;
    o.config.model.num_layers = 6;
    const TrainedWorld alone = train_world(o);
    o.config.layout.pipeline_parallel = 2;
    for (const int chunks : {2, 3}) {
      for (const int dp : {1, 4}) {  // 12 microbatches, and 3: no multiple of the stages
        SCOPED_TRACE(testing::Message() << "chunks " << chunks << " dp " << dp);
        o.config.layout.virtual_stages = chunks;
        o.config.layout.data_parallel = dp;
        o.config.layout.zero = dp > 1 ? 1 : 0;
        expect_same_bits(train_world(o), alone);
      }
    }
  }
}

/// What docs/numerics.md says of each degree: "bits" or "bound".
std::map<std::string, std::string> documented_degrees() {
  std::ifstream in(std::string(TENAX_SOURCE_DIR) + "/docs/numerics.md");
  std::map<std::string, std::string> degrees;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("#")) inside = line == "### Layouts";
    if (!inside || !line.starts_with("| `")) continue;
    const auto name_end = line.find('`', 3);
    const auto word = line.find("| ", name_end) + 2;
    degrees[line.substr(3, name_end - 3)] = line.substr(word, line.find(' ', word) - word);
  }
  return degrees;
}

/// One layout, by the names of the table; 1 (or 0 of zero and recompute) is one process.
using Layout = std::map<std::string, int>;

std::string to_string(const Layout& layout) {
  std::string text;
  for (const auto& [name, degree] : layout)
    text += (text.empty() ? "" : ", ") + name + " " + std::to_string(degree);
  return text;
}

WorldOptions options_of(const Layout& layout) {
  WorldOptions o = world_options();
  o.steps = 1;
  o.config.model.num_layers = 8;
  o.config.model.width = 16;
  o.config.layout.data_parallel = layout.at("data_parallel");
  o.config.layout.tensor_parallel = layout.at("tensor_parallel");
  o.config.layout.pipeline_parallel = layout.at("pipeline_parallel");
  o.config.layout.virtual_stages = layout.at("virtual_stages");
  o.config.layout.zero = layout.at("zero");
  o.config.train.recompute = static_cast<compute::Recompute>(layout.at("recompute"));
  return o;
}

std::vector<Layout> all_layouts() {
  std::vector<Layout> all;
  for (const int tp : {1, 2})
    for (const int pp : {1, 2, 3, 4})
      for (const int chunks : {1, 2})
        for (const int dp : {1, 2, 3, 4})
          for (const int zero : {0, 1})
            for (const int recompute : {0, 1, 2}) {
              if (chunks > 1 && pp == 1) continue;
              all.push_back({{"data_parallel", dp},
                             {"tensor_parallel", tp},
                             {"pipeline_parallel", pp},
                             {"virtual_stages", chunks},
                             {"zero", zero},
                             {"recompute", recompute}});
            }
  return all;
}

TEST(LayoutGrid, EveryLayoutIsWhatTheTableSays) {
  const std::map<std::string, std::string> table = documented_degrees();
  const std::vector<Layout> layouts = all_layouts();
  for (const auto& [name, degree] : layouts.front())
    ASSERT_TRUE(table.contains(name)) << name << " is not in docs/numerics.md";
  const Layout one_process = layouts.front();
  const TrainedWorld alone = train_world(options_of(one_process));
  // By the degrees that round differently.
  std::map<Layout, TrainedWorld> references;
  const char* full = std::getenv("TENAX_TEST_FULL");
  const std::size_t stride = full != nullptr && std::string(full) == "1" ? 1 : 7;
  for (std::size_t i = 0; i < layouts.size(); i += stride) {
    const Layout& layout = layouts[i];
    SCOPED_TRACE(to_string(layout));
    Layout alike = one_process;
    for (const auto& [name, says] : table) {
      ASSERT_TRUE(says == "bits" || says == "bound") << name << ": " << says;
      if (says == "bound") alike[name] = layout.at(name);
    }
    if (!references.contains(alike))
      references[alike] = alike == one_process ? alone : train_world(options_of(alike));
    const WorldOptions options = options_of(layout);
    const TrainedWorld trained = train_world(options);
    expect_same_bits(trained, references.at(alike));
    if (alike != one_process)
      expect_within_bound(alone, trained, rounding_bound(options.config, options.vocabulary_size));
  }
}

TEST(LayoutGrid, DropoutDocumentsAndBf16GiveTheBitsOfOneProcess) {
  WorldOptions o = world_options();
  o.config.train.dropout = {0.2, 0.3, 0.25};
  o.config.train.precision = compute::Precision::kBf16;
  o.document_length = 5;
  const TrainedWorld alone = train_world(o);
  WorldOptions plain = world_options();
  EXPECT_NE(train_world(plain).losses, alone.losses);
  for (const auto recompute :
       {compute::Recompute::kNone, compute::Recompute::kSelective, compute::Recompute::kFull}) {
    o.config.train.recompute = recompute;
    o.config.layout.data_parallel = 3;
    o.config.layout.pipeline_parallel = 2;
    o.config.layout.zero = 1;
    expect_same_bits(train_world(o), alone);
  }
}

}  // namespace
}  // namespace tenax::test
