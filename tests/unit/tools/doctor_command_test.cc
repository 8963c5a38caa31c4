#include "tools/doctor_command.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

namespace tenax::tools {
namespace {

TEST(Doctor, FindsThatLocksExcludeOtherProcessesAndLeavesNothing) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "doctor_locks";
  std::filesystem::create_directories(folder);
  const DoctorCheck check = check_locks(folder / "runs" / "not" / "there");
  EXPECT_EQ(check.state, CheckState::kOk) << check.text;
  EXPECT_NE(check.text.find(folder.string()), std::string::npos) << check.text;
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(Doctor, AFolderThatCannotBeWrittenIsTrouble) {
  const DoctorCheck check = check_locks("/proc/self");
  EXPECT_EQ(check.state, CheckState::kTrouble);
  EXPECT_FALSE(check.text.empty());
}

TEST(Doctor, MissingSharedMemoryIsTroubleWithAdvice) {
  const DoctorCheck check = check_shared_memory("/nowhere/at/all");
  EXPECT_EQ(check.state, CheckState::kTrouble);
  EXPECT_NE(check.text.find("/nowhere/at/all"), std::string::npos);
  EXPECT_FALSE(check.advice.empty());
}

TEST(Doctor, WithoutAPluginRunsTrainOnTheCpu) {
  const auto checks = check_gpus({"/nowhere/libtenax_cuda.so"});
  ASSERT_EQ(checks.size(), 1u);
  EXPECT_EQ(checks[0].state, CheckState::kAbsent);
  EXPECT_NE(checks[0].text.find("/nowhere/libtenax_cuda.so"), std::string::npos);
}

TEST(Doctor, PrintsTheSameAsTextAndJson) {
  std::ostringstream text;
  std::ostringstream as_json;
  DoctorArguments arguments;
  arguments.run_dir = testing::TempDir();
  const int code = run_doctor(arguments, text);
  arguments.json = true;
  EXPECT_EQ(run_doctor(arguments, as_json), code);
  const auto json = nlohmann::json::parse(as_json.str());
  EXPECT_EQ(json.at("trouble").get<bool>(), code != 0);
  for (const auto& check : json.at("checks"))
    EXPECT_NE(text.str().find(check.at("name").get<std::string>()), std::string::npos);
  EXPECT_GE(json.at("checks").size(), 4u);
}

}  // namespace
}  // namespace tenax::tools
