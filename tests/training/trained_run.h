// A folder with a copy of this repository's documents and configs/tiny.toml, and runs in it. The
// copy keeps the text the same for runs that are compared. Confined to the test's thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/child_process.h"

namespace tenax::testing {

class TrainingFolder {
 public:
  TrainingFolder();
  ~TrainingFolder();
  TrainingFolder(const TrainingFolder&) = delete;
  TrainingFolder& operator=(const TrainingFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// `tenax ARGUMENTS...` in the folder.
  CommandResult tenax(std::vector<std::string> arguments) const;
  /// `tenax train configs/tiny.toml --run-dir NAME --set ...`; fails the test unless it ends well.
  void train(const std::string& name, const std::vector<std::string>& settings) const;
  /// One JSON value a line of what a command prints; fails the test unless it ends well.
  std::vector<nlohmann::json> json_lines(std::vector<std::string> arguments) const;
  /// `tenax metrics NAME --json`, ascending by step.
  std::vector<nlohmann::json> metrics(const std::string& name) const;
  std::string hash(const std::string& name) const;

 private:
  std::filesystem::path path_;
};

}  // namespace tenax::testing
