#include "tests/training/trained_run.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <sstream>

namespace tenax::testing {

TrainingFolder::TrainingFolder() {
  static int count = 0;
  path_ = std::filesystem::temp_directory_path() /
          ("tenax-training-" + std::to_string(getpid()) + "-" + std::to_string(count++));
  const std::filesystem::path source = TENAX_SOURCE_DIR;
  std::filesystem::create_directories(path_ / "configs");
  std::filesystem::copy(source / "docs", path_ / "docs");
  std::filesystem::copy(source / "README.md", path_);
  std::filesystem::copy(source / "configs" / "tiny.toml", path_ / "configs");
}

TrainingFolder::~TrainingFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

CommandResult TrainingFolder::tenax(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), TENAX_PROGRAM);
  return run_command(arguments, path_, std::chrono::seconds(120));
}

void TrainingFolder::train(const std::string& name,
                           const std::vector<std::string>& settings) const {
  std::vector<std::string> arguments{"train", "configs/tiny.toml", "--run-dir", name};
  for (const std::string& s : settings) arguments.insert(arguments.end(), {"--set", s});
  const CommandResult result = tenax(arguments);
  ASSERT_EQ(result.ended, Ended({0, 0})) << result.output;
}

std::vector<nlohmann::json> TrainingFolder::json_lines(std::vector<std::string> arguments) const {
  const CommandResult result = tenax(std::move(arguments));
  EXPECT_EQ(result.ended, Ended({0, 0})) << result.output;
  std::vector<nlohmann::json> out;
  std::istringstream lines(result.output);
  for (std::string line; std::getline(lines, line);) {
    out.push_back(nlohmann::json::parse(line, nullptr, false));
    EXPECT_FALSE(out.back().is_discarded()) << line;
  }
  return out;
}

std::vector<nlohmann::json> TrainingFolder::metrics(const std::string& name) const {
  return json_lines({"metrics", name, "--json"});
}

std::string TrainingFolder::hash(const std::string& name) const {
  const auto lines = json_lines({"hash", name, "--json"});
  return lines.empty() ? "" : lines[0].value("hash", "");
}

}  // namespace tenax::testing
