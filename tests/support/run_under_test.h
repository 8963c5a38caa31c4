// A run of the real `tenax` program in a folder of its own: supervisor, agents and workers as real
// processes on a small made-up corpus. Tests kill parts of it and look at what remains. Confined to
// the test's thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/child_process.h"

namespace tenax::testing {

/// A layout and the model that suits it.
struct Shape {
  std::string name;  ///< "2x2": data parallel x pipeline parallel
  int dp = 2;
  int pp = 2;
  int agents = 1;
  int layers = 2;
  int global_batch_size = 8;

  int world_size() const { return dp * pp; }
};
/// Data parallel alone, pipeline parallel alone, both, both on two agents, a world that is no power
/// of two.
const std::vector<Shape>& shapes();

enum class Role { kSupervisor, kAgent, kWorker };

struct RunProcess {
  pid_t pid = -1;
  Role role = Role::kWorker;
  int agent = -1;
  int slot = -1;
  char state = '?';  ///< of /proc/PID/stat
};

class RunUnderTest {
 public:
  static constexpr int kSteps = 40;
  static constexpr int kLongSteps = 200;

  /// Writes corpus and recipe. `overrides` ("train.steps=60") go to the first start.
  explicit RunUnderTest(Shape shape = shapes().front(), std::vector<std::string> overrides = {});
  /// Kills what is left and removes the folder. Prints output and journal after a failure.
  ~RunUnderTest();
  RunUnderTest(const RunUnderTest&) = delete;
  RunUnderTest& operator=(const RunUnderTest&) = delete;

  const std::filesystem::path& folder() const { return folder_; }
  const std::filesystem::path& directory() const { return directory_; }
  std::filesystem::path recipe() const { return folder_ / "run.toml"; }
  std::filesystem::path corpus() const { return folder_ / "corpus"; }
  /// Another place for the run's directory, before it starts.
  void set_directory(std::filesystem::path directory) { directory_ = std::move(directory); }
  /// run.json's id; empty before there is one.
  std::string id() const;

  /// `tenax train RECIPE --run-dir DIR --set ...`
  void start();
  /// `tenax train --resume --run-dir DIR ...`
  void resume(const std::vector<std::string>& more = {});
  /// Waits for the supervisor started last; fails the test and kills it if it does not end.
  Ended wait();
  /// Output of the supervisor started last.
  std::string output() const;
  bool supervisor_runs();

  /// `tenax ARGUMENTS...`, run to its end.
  CommandResult tenax(std::vector<std::string> arguments) const;
  /// The same for `tenax COMMAND DIR OPTIONS...`, one JSON value a line; fails the test if it does
  /// not end well.
  std::vector<nlohmann::json> json_lines(const std::string& command,
                                         const std::vector<std::string>& options = {}) const;
  /// `tenax hash`; fails the test if there is none.
  std::string hash() const;
  /// All lines of `tenax journal` for people.
  std::string journal() const;

  /// GET from the dashboard of the supervisor started last; nothing if it does not answer.
  std::optional<std::string> get(const std::string& path);
  /// /api/state; null if it does not answer.
  nlohmann::json state();
  /// Newest counted step; -1 if the supervisor does not answer.
  std::int64_t step();
  /// False if the supervisor ended before it counted `step`. Fails the test at the deadline.
  bool wait_for_step(std::int64_t step);

  /// The live processes of this run, by /proc; zombies are not among them.
  std::vector<RunProcess> processes() const;
  std::vector<RunProcess> workers() const;
  std::vector<RunProcess> agents() const;
  pid_t supervisor() const { return supervisor_ ? supervisor_->pid() : -1; }
  /// Dead children of the run's processes that nobody has waited for.
  int zombies() const;
  /// SIGKILL to all at once.
  void kill_everything() const;
  /// Names in /dev/shm.
  std::vector<std::string> segments() const;

 private:
  void launch(std::vector<std::string> arguments);

  Shape shape_;
  std::vector<std::string> overrides_;
  std::filesystem::path folder_;
  std::filesystem::path directory_;
  int starts_ = 0;
  std::unique_ptr<ChildProcess> supervisor_;
};

/// Overrides of a run that is not over before a test has disturbed it, however late that comes.
std::vector<std::string> long_run();

/// The hash at the end of an undisturbed run of `shape` with `overrides`; made once for each.
std::string undisturbed_hash(const Shape& shape, const std::vector<std::string>& overrides = {});

}  // namespace tenax::testing
