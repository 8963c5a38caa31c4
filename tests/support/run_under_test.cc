#include "tests/support/run_under_test.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <utility>

#include "common/counter_rng.h"
#include "common/read_all.h"

using nlohmann::json;

namespace tenax::testing {

namespace {

namespace fs = std::filesystem;

constexpr auto kRunDeadline = std::chrono::seconds(60);

/// Sentences from a small vocabulary in which each word makes a few others likely: a loss that
/// falls far below a random token's within some dozen steps.
std::string made_up_text(std::uint64_t seed, int words) {
  const CounterRng rng(seed, 0);
  std::string text;
  std::uint64_t word = 0;
  for (int i = 0; i < words; ++i) {
    const std::uint64_t r = rng.bits(static_cast<std::uint64_t>(i));
    word = (word * 5 + (r & 3)) % 61;
    const CounterRng letters(7, word);
    const std::uint64_t length = 2 + letters.bits(0) % 5;
    for (std::uint64_t k = 1; k <= length; ++k)
      text += static_cast<char>('a' + letters.bits(k) % 20);
    text += (r >> 8) % 9 == 0 ? ".\n" : " ";
  }
  return text;
}

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return read_all(in);
}

void write(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string tail(const std::string& text, std::size_t bytes) {
  return text.size() <= bytes ? text : "... " + text.substr(text.size() - bytes);
}

std::string recipe_of(const Shape& s) {
  return fmt::format(R"([run]
name = "under_test"
seed = 1
time_scale = {:.3f}
[data]
text = ["corpus/*.txt"]
[model]
width = 32
layers = {}
heads = 2
[layout]
data_parallel = {}
pipeline_parallel = {}
agents = {}
[train]
steps = {}
sequence_length = 32
global_batch_size = {}
microbatch_size = 2
eval_interval = 20
eval_samples = 4
[optimizer]
learning_rate = 1e-2
warmup_steps = 2
[checkpoint]
interval = 5
[supervision]
supervisor_grace = "20s"
[generate]
tokens = 0
)",
                     time_scale(), s.layers, s.dp, s.pp, s.agents, RunUnderTest::kSteps,
                     s.global_batch_size);
}

std::vector<std::string> command_line(const fs::path& proc) {
  std::vector<std::string> arguments;
  std::istringstream in(read(proc / "cmdline"));
  for (std::string a; std::getline(in, a, '\0');) arguments.push_back(a);
  return arguments;
}

std::string value_after(const std::vector<std::string>& arguments, const std::string& flag) {
  const auto it = std::find(arguments.begin(), arguments.end(), flag);
  return it == arguments.end() || std::next(it) == arguments.end() ? "" : *std::next(it);
}

/// State letter and parent of a process; '?' if it is gone.
std::pair<char, pid_t> state_of(const fs::path& proc) {
  const std::string stat = read(proc / "stat");
  const auto close = stat.rfind(')');
  if (close == std::string::npos) return {'?', -1};
  std::istringstream in(stat.substr(close + 1));
  char state = '?';
  pid_t parent = -1;
  in >> state >> parent;
  return {state, parent};
}

std::vector<fs::path> proc_folders() {
  std::vector<fs::path> folders;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator("/proc", ec)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") == std::string::npos) folders.push_back(entry.path());
  }
  return folders;
}

}  // namespace

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{"2x2", 2, 2, 1, 2, 8},
                                         {"4x1", 4, 1, 1, 2, 8},
                                         {"1x4", 1, 4, 1, 4, 8},
                                         {"3x1", 3, 1, 1, 2, 12},
                                         {"2x2 on two agents", 2, 2, 2, 2, 8}};
  return all;
}

RunUnderTest::RunUnderTest(Shape shape, std::vector<std::string> overrides)
    : shape_(std::move(shape)), overrides_(std::move(overrides)) {
  std::string name = (fs::temp_directory_path() / "tenax_run_XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << name;
  folder_ = name;
  directory_ = folder_ / "run";
  fs::create_directories(corpus());
  for (int i = 0; i < 3; ++i) {
    write(corpus() / fmt::format("{}.txt", i), made_up_text(static_cast<std::uint64_t>(i), 2500));
  }
  write(recipe(), recipe_of(shape_));
}

RunUnderTest::~RunUnderTest() {
  if (::testing::Test::HasFailure()) {
    std::cerr << "--- " << shape_.name << " in " << directory_ << "\n";
    if (supervisor_) std::cerr << tail(supervisor_->output(), 4000) << "\n";
    if (fs::exists(directory_ / "records")) std::cerr << tail(journal(), 6000) << "\n";
  }
  supervisor_.reset();
  eventually(std::chrono::seconds(10), [this] {
    kill_everything();
    return processes().empty();
  });
  for (const std::string& segment : segments()) fs::remove(fs::path("/dev/shm") / segment);
  std::error_code ec;
  if (::getenv("TENAX_KEEP_RUNS") == nullptr) fs::remove_all(folder_, ec);
}

std::string RunUnderTest::id() const {
  const json j = json::parse(read(directory_ / "run.json"), nullptr, false);
  return j.is_object() ? j.value("id", "") : "";
}

void RunUnderTest::launch(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), TENAX_PROGRAM);
  supervisor_.reset();
  const fs::path output = folder_ / fmt::format("supervisor-{}.out", ++starts_);
  supervisor_ = std::make_unique<ChildProcess>(arguments, output, folder_);
}

void RunUnderTest::start() {
  std::vector<std::string> arguments = {"train", recipe().string(), "--run-dir",
                                        directory_.string()};
  for (const std::string& o : overrides_) {
    arguments.push_back("--set");
    arguments.push_back(o);
  }
  launch(std::move(arguments));
}

void RunUnderTest::resume(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"train", "--resume", "--run-dir", directory_.string()};
  arguments.insert(arguments.end(), more.begin(), more.end());
  launch(std::move(arguments));
}

Ended RunUnderTest::wait() {
  const auto ended = supervisor_->wait(kRunDeadline);
  if (ended) return *ended;
  ADD_FAILURE() << "the run did not end";
  supervisor_->signal(SIGKILL);
  return supervisor_->wait(kRunDeadline).value_or(Ended{});
}

std::string RunUnderTest::output() const { return supervisor_ ? supervisor_->output() : ""; }

bool RunUnderTest::supervisor_runs() { return supervisor_ && !supervisor_->ended(); }

CommandResult RunUnderTest::tenax(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), TENAX_PROGRAM);
  return run_command(arguments, folder_);
}

std::vector<json> RunUnderTest::json_lines(const std::string& command,
                                           const std::vector<std::string>& options) const {
  std::vector<std::string> arguments;
  std::istringstream words(command);
  for (std::string word; words >> word;) arguments.push_back(word);
  arguments.push_back(directory_.string());
  arguments.insert(arguments.end(), options.begin(), options.end());
  arguments.push_back("--json");
  const CommandResult result = tenax(arguments);
  EXPECT_EQ(result.ended, Ended({0, 0})) << "tenax " << command << ": " << result.output;
  std::vector<json> lines;
  std::istringstream in(result.output);
  for (std::string line; std::getline(in, line);) {
    lines.push_back(json::parse(line, nullptr, false));
    EXPECT_FALSE(lines.back().is_discarded()) << "tenax " << command << " printed: " << line;
  }
  return lines;
}

std::string RunUnderTest::hash() const {
  const std::vector<json> lines = json_lines("hash");
  return lines.size() == 1 && lines[0].is_object() ? lines[0].value("hash", "") : "";
}

std::string RunUnderTest::journal() const {
  return tenax({"journal", directory_.string(), "--all"}).output;
}

std::optional<std::string> RunUnderTest::get(const std::string& path) {
  const json address = json::parse(read(directory_ / "supervisor.json"), nullptr, false);
  if (!address.is_object() || address.value("pid", -1) != supervisor()) return std::nullopt;
  std::string base = address.value("dashboard_url", "");
  while (!base.empty() && base.back() == '/') base.pop_back();
  if (base.empty()) return std::nullopt;
  httplib::Client client(base);
  client.set_connection_timeout(1);
  client.set_read_timeout(5);
  const auto answer = client.Get(path);
  if (!answer || answer->status != 200) return std::nullopt;
  return answer->body;
}

json RunUnderTest::state() {
  const auto text = get("/api/state");
  const json j = text ? json::parse(*text, nullptr, false) : json();
  return j.is_object() ? j : json();
}

std::int64_t RunUnderTest::step() {
  const json j = state();
  return j.is_null() ? -1 : j.at("progress").at("step").get<std::int64_t>();
}

bool RunUnderTest::wait_for_step(std::int64_t wanted) {
  const bool in_time =
      eventually(kRunDeadline, [&] { return !supervisor_runs() || step() >= wanted; });
  EXPECT_TRUE(in_time) << "step " << wanted << " was not reached";
  return in_time && supervisor_runs();
}

std::vector<RunProcess> RunUnderTest::processes() const {
  std::vector<RunProcess> found;
  for (const fs::path& proc : proc_folders()) {
    const std::vector<std::string> a = command_line(proc);
    if (a.size() < 4 || fs::path(a[0]).filename() != "tenax" ||
        value_after(a, "--run-dir") != directory_.string()) {
      continue;
    }
    RunProcess p;
    p.pid = std::stoi(proc.filename());
    p.state = state_of(proc).first;
    if (p.state == 'Z' || p.state == 'X' || p.state == '?') continue;
    if (a[1] == "train") p.role = Role::kSupervisor;
    if (a[1] == "agent") p.role = Role::kAgent;
    if (const std::string v = value_after(a, "--agent"); !v.empty()) p.agent = std::stoi(v);
    if (const std::string v = value_after(a, "--slot"); !v.empty()) p.slot = std::stoi(v);
    found.push_back(p);
  }
  std::sort(found.begin(), found.end(), [](const RunProcess& x, const RunProcess& y) {
    return std::pair(x.agent, x.slot) < std::pair(y.agent, y.slot);
  });
  return found;
}

std::vector<RunProcess> RunUnderTest::workers() const {
  std::vector<RunProcess> found = processes();
  std::erase_if(found, [](const RunProcess& p) { return p.role != Role::kWorker; });
  return found;
}

std::vector<RunProcess> RunUnderTest::agents() const {
  std::vector<RunProcess> found = processes();
  std::erase_if(found, [](const RunProcess& p) { return p.role != Role::kAgent; });
  return found;
}

int RunUnderTest::zombies() const {
  std::map<pid_t, bool> ours;
  for (const RunProcess& p : processes()) ours[p.pid] = true;
  int count = 0;
  for (const fs::path& proc : proc_folders()) {
    const auto [state, parent] = state_of(proc);
    count += state == 'Z' && ours.contains(parent) ? 1 : 0;
  }
  return count;
}

void RunUnderTest::kill_everything() const {
  for (const RunProcess& p : processes()) ::kill(p.pid, SIGKILL);
}

std::vector<std::string> RunUnderTest::segments() const {
  std::vector<std::string> names;
  const std::string run = id();
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator("/dev/shm", ec)) {
    const std::string name = entry.path().filename();
    if (!run.empty() && name.starts_with("tenax-" + run)) names.push_back(name);
  }
  return names;
}

std::vector<std::string> long_run() {
  return {fmt::format("train.steps={}", RunUnderTest::kLongSteps)};
}

std::string undisturbed_hash(const Shape& shape, const std::vector<std::string>& overrides) {
  static std::map<std::string, std::string> known;
  std::string key = shape.name;
  for (const std::string& o : overrides) key += " " + o;
  std::string& hash = known[key];
  if (!hash.empty()) return hash;
  RunUnderTest run(shape, overrides);
  run.start();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  hash = run.hash();
  return hash;
}

}  // namespace tenax::testing
