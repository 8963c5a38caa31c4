#include "tools/detect_command.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "common/counter_rng.h"
#include "scheduler/exit_code.h"

namespace tenax::tools {
namespace {

namespace fs = std::filesystem;

/// A folder of this test, removed with it.
class DetectCommand : public testing::Test {
 protected:
  DetectCommand() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / (std::string("tenax_detect_") + info->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~DetectCommand() override { fs::remove_all(folder_); }

  /// 400 steps at a loss of 2 with noise; from step 300 on it is 1 higher.
  fs::path spiking_curve() const {
    const CounterRng rng(1, 0);
    std::ofstream file(folder_ / "curve.csv");
    file << "step,loss\n";
    for (int step = 1; step <= 400; ++step)
      file << step << ','
           << 2 + 0.02 * static_cast<double>(rng.normal(static_cast<std::uint64_t>(step))) +
                  (step >= 300 ? 1 : 0)
           << '\n';
    return folder_ / "curve.csv";
  }

  fs::path folder_;
};

TEST_F(DetectCommand, PrintsOneJsonLineAVerdict) {
  DetectArguments arguments;
  arguments.curve = spiking_curve();
  arguments.output = DetectOutput::kJsonLines;
  std::ostringstream out;
  std::ostringstream err;
  EXPECT_EQ(run_detect(arguments, out, err), 0);
  EXPECT_EQ(err.str(), "");
  std::vector<nlohmann::json> lines;
  std::istringstream in(out.str());
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 4U);
  const nlohmann::json& rollback = lines[2];
  EXPECT_EQ(rollback.size(), 8U);
  EXPECT_EQ(rollback["step"], 319);
  EXPECT_EQ(rollback["onset"], 300);
  EXPECT_EQ(rollback["verdict"], "rollback");
  EXPECT_EQ(rollback["action"], "roll_back");
  EXPECT_NEAR(rollback["loss"].get<double>(), 3, 0.1);
  EXPECT_NEAR(rollback["baseline"].get<double>(), 2, 0.02);
  EXPECT_GT(rollback["score"].get<double>(), 6);
  EXPECT_FALSE(rollback["reason"].get<std::string>().empty());
}

TEST_F(DetectCommand, TextSaysWhatARollbackWouldDo) {
  DetectArguments arguments;
  arguments.curve = spiking_curve();
  std::ostringstream out;
  std::ostringstream err;
  EXPECT_EQ(run_detect(arguments, out, err), 0);
  EXPECT_NE(out.str().find("roll back to step 200"), std::string::npos) << out.str();
  EXPECT_NE(out.str().find("400 points, steps 1 to 400"), std::string::npos) << out.str();
}

TEST_F(DetectCommand, SettingsAndRampsChangeTheVerdicts) {
  DetectArguments arguments;
  arguments.curve = spiking_curve();
  arguments.output = DetectOutput::kJsonLines;
  std::ostringstream err;
  for (const char* setting : {"min_rise=2", "enabled=false"}) {
    arguments.settings = {setting};
    std::ostringstream out;
    EXPECT_EQ(run_detect(arguments, out, err), 0);
    EXPECT_EQ(out.str().find("roll_back"), std::string::npos) << setting;
  }
  arguments.settings = {"min_rise=0.9"};
  arguments.ramps = {"295:400"};
  std::ostringstream out;
  EXPECT_EQ(run_detect(arguments, out, err), 0);
  EXPECT_EQ(out.str(), "");
  arguments.settings.clear();
  arguments.ramps.clear();
  arguments.changes = {299};
  EXPECT_EQ(run_detect(arguments, out, err), 0);
  EXPECT_EQ(out.str(), "");
  EXPECT_EQ(err.str(), "");
}

TEST_F(DetectCommand, ALogThatGoesBackIsARestartAndARepeatedStepIsNot) {
  const fs::path curve = folder_ / "restarted.csv";
  {
    std::ofstream file(curve);
    file << "step,loss\n";
    for (int step = 1; step <= 300; ++step)
      file << step << ',' << 2 + 0.01 * (step % 7) << '\n' << step << ",9\n";
    for (int step = 250; step <= 400; ++step) file << step << ',' << 2 + 0.01 * (step % 7) << '\n';
  }
  DetectArguments arguments;
  arguments.curve = curve;
  arguments.output = DetectOutput::kJsonLines;
  std::ostringstream out;
  std::ostringstream err;
  EXPECT_EQ(run_detect(arguments, out, err), 0);
  EXPECT_EQ(out.str(), "");
}

TEST_F(DetectCommand, StartsFromTheSpikeSectionOfARecipe) {
  std::ofstream(folder_ / "run.toml") << "[data]\ntext = [\"*.txt\"]\n[spikes]\npatience = 40\n";
  DetectArguments arguments;
  arguments.curve = spiking_curve();
  arguments.config = folder_ / "run.toml";
  arguments.output = DetectOutput::kJsonLines;
  std::ostringstream err;
  std::ostringstream out;
  EXPECT_EQ(run_detect(arguments, out, err), 0) << err.str();
  EXPECT_NE(out.str().find("{\"step\":339,\"onset\":300,\"verdict\":\"rollback\""),
            std::string::npos)
      << out.str();
  arguments.settings = {"patience=10"};
  std::ostringstream overridden;
  EXPECT_EQ(run_detect(arguments, overridden, err), 0) << err.str();
  EXPECT_NE(overridden.str().find("{\"step\":309,"), std::string::npos) << overridden.str();
  arguments.config = folder_ / "absent.toml";
  EXPECT_EQ(run_detect(arguments, out, err), scheduler::kExitConfig);
}

TEST_F(DetectCommand, DrawsAPlotWithAMarkerForEachVerdict) {
  DetectArguments arguments;
  arguments.curve = spiking_curve();
  arguments.plot = folder_ / "out.svg";
  std::ostringstream out;
  std::ostringstream err;
  EXPECT_EQ(run_detect(arguments, out, err), 0);
  std::ifstream file(arguments.plot);
  const std::string svg((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  EXPECT_TRUE(svg.starts_with("<svg"));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  std::size_t num_markers = 0;
  for (std::size_t at = svg.find("<circle"); at != std::string::npos;
       at = svg.find("<circle", at + 1))
    ++num_markers;
  EXPECT_EQ(num_markers, 4U);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST_F(DetectCommand, ACurveOfNothingButNaNIsPlottedAndReported) {
  const fs::path curve = folder_ / "nan.csv";
  std::ofstream(curve) << "step,loss\n1,nan\n2,nan\n3,nan\n4,nan\n";
  DetectArguments arguments;
  arguments.curve = curve;
  arguments.plot = folder_ / "out.svg";
  arguments.output = DetectOutput::kJsonLines;
  std::ostringstream out;
  std::ostringstream err;
  EXPECT_EQ(run_detect(arguments, out, err), 0);
  EXPECT_NE(out.str().find("\"verdict\":\"non_finite\",\"loss\":null"), std::string::npos)
      << out.str();
  EXPECT_TRUE(fs::exists(arguments.plot));
}

TEST_F(DetectCommand, WrongArgumentsAndInputHaveTheirExitCodes) {
  std::ostringstream out;
  DetectArguments arguments;
  arguments.curve = folder_ / "absent.csv";
  std::ostringstream absent;
  EXPECT_EQ(run_detect(arguments, out, absent), scheduler::kExitConfig);
  EXPECT_NE(absent.str().find("absent.csv"), std::string::npos);

  arguments.curve = spiking_curve();
  for (const char* setting : {"patienze=3", "patience=many", "patience=99", "patience"}) {
    std::ostringstream err;
    arguments.settings = {setting};
    EXPECT_EQ(run_detect(arguments, out, err), scheduler::kExitUsage) << setting;
    EXPECT_NE(err.str().find("patience"), std::string::npos) << err.str();
  }
  arguments.settings.clear();
  for (const char* ramp : {"5", "9:5", "a:b", "1:2:3"}) {
    std::ostringstream err;
    arguments.ramps = {ramp};
    EXPECT_EQ(run_detect(arguments, out, err), scheduler::kExitUsage) << ramp;
  }
  arguments.ramps.clear();
  arguments.plot = folder_ / "no" / "such" / "folder.svg";
  std::ostringstream err;
  EXPECT_EQ(run_detect(arguments, out, err), scheduler::kExitStore);
}

}  // namespace
}  // namespace tenax::tools
