// What a fault costs. Starts a run of the given program, disturbs it again and again, and reads
// from the journal where the time went. Prints every fault and the medians.
//
//   recovery_bench TENAX worker|hang|agent [FAULTS]      parts of each recovery: detect, abort,
//                                                        form, restore, replay
//   recovery_bench TENAX supervisor [FAULTS]             pause of training while a supervisor is
//                                                        killed and another one takes over
//   recovery_bench TENAX goodput [SECONDS [EVERY]]       a worker is killed every so many seconds
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "actors/process.h"
#include "actors/run_directory.h"
#include "checkpoint/store_reader.h"
#include "scheduler/run_json.h"
#include "scheduler/run_metrics.h"

namespace {

using namespace tenax;
using namespace tenax::scheduler;
namespace fs = std::filesystem;

constexpr auto kPoll = std::chrono::milliseconds(5);
constexpr double kPatience = 60;  ///< seconds for anything to happen

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::nth_element(values, values.begin() + values.size() / 2);
  return values[values.size() / 2];
}

std::vector<JournalEntry> journal_of(const fs::path& run) {
  std::vector<JournalEntry> entries;
  const auto store = checkpoint::StoreReader::open_read_only(run.string());
  if (!store) return entries;
  const auto records = (*store)->read_journal(0);
  if (!records) return entries;
  for (const auto& r : *records) {
    if (auto entry = journal_entry_from_json(r.bytes)) entries.push_back(*std::move(entry));
  }
  return entries;
}

struct Victim {
  pid_t pid = -1;
  bool worker = false;
};

/// The agents and workers of a run, by /proc.
std::vector<Victim> processes_of(const fs::path& run) {
  std::vector<Victim> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream in(entry.path() / "cmdline", std::ios::binary);
    std::vector<std::string> words;
    for (std::string word; std::getline(in, word, '\0');) words.push_back(word);
    const auto at = std::find(words.begin(), words.end(), "--run-dir");
    if (words.size() < 3 || at == words.end() || at + 1 == words.end() || at[1] != run.string())
      continue;
    if (words[1] == "worker" || words[1] == "agent")
      found.push_back({std::stoi(name), words[1] == "worker"});
  }
  return found;
}

/// A supervisor process under this one's control.
class Run {
 public:
  Run(std::string tenax, fs::path scratch)
      : tenax_(std::move(tenax)), scratch_(std::move(scratch)) {}
  ~Run() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
    for (const Victim& v : processes_of(directory())) ::kill(v.pid, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }

  fs::path directory() const { return scratch_ / "run"; }
  pid_t pid() const { return pid_; }

  void start(bool resume) {
    const fs::path log = scratch_ / "supervisor.log";
    std::vector<std::string> words = {tenax_, "train", (scratch_ / "recipe.toml").string(),
                                      "--run-dir", directory().string()};
    if (resume) words.push_back("--resume");
    pid_ = fork();
    if (pid_ != 0) return;
    std::vector<char*> argv;
    for (std::string& w : words) argv.push_back(w.data());
    argv.push_back(nullptr);
    if (std::freopen(log.c_str(), "a", stdout) == nullptr) _exit(126);
    dup2(STDOUT_FILENO, STDERR_FILENO);
    execv(tenax_.c_str(), argv.data());
    _exit(127);
  }
  void kill_supervisor() {
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  std::int64_t step() const {
    std::int64_t newest = 0;
    for (const JournalEntry& e : journal_of(directory())) {
      if (const auto* r = std::get_if<StepReported>(&e.event))
        newest = std::max(newest, r->report.step);
    }
    return newest;
  }
  /// False if that does not come.
  bool wait_for(const std::function<bool()>& condition) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(kPatience);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(kPoll);
    }
    return true;
  }

 private:
  std::string tenax_;
  fs::path scratch_;
  pid_t pid_ = -1;
};

/// Seconds of each part of one recovery.
struct Recovery {
  double detect = 0;   ///< fault to the decision that something is wrong
  double abort = 0;    ///< to the plan: all ranks have left, the faults are collected
  double form = 0;     ///< to a connected world
  double restore = 0;  ///< the weights are in place
  double replay = 0;   ///< to the first step that had not been counted before
  double total = 0;
};

/// What the journal says of the fault at `fault`; nothing if it is not over yet.
std::optional<Recovery> recovery_after(const std::vector<JournalEntry>& journal, Time fault) {
  constexpr Time kNever{};
  Time detected = kNever;
  Time planned = kNever;
  Time formed = kNever;
  double restore = 0;
  std::int64_t counted = 0;
  for (const JournalEntry& e : journal) {
    const auto* report = std::get_if<StepReported>(&e.event);
    if (e.time < fault || planned == kNever) {
      if (report != nullptr) counted = std::max(counted, report->report.step);
    }
    if (e.time < fault) continue;
    for (const Command& c : e.commands) {
      if (std::holds_alternative<AbortGeneration>(c) && detected == kNever) detected = e.time;
      if (std::holds_alternative<StartGeneration>(c)) {
        planned = e.time;  // of several the last: the one that came to train
        formed = kNever;
        restore = 0;
      }
    }
    if (const auto* f = std::get_if<RankFormed>(&e.event); f != nullptr && planned != kNever) {
      formed = e.time;
      restore = std::max(restore, f->restore_seconds);
    }
    if (report != nullptr && formed != kNever && report->report.step > counted) {
      Recovery r;
      r.detect = to_seconds(detected - fault);
      r.abort = to_seconds(planned - detected);
      r.restore = restore;
      r.form = to_seconds(formed - planned) - restore;
      r.replay = to_seconds(e.time - formed);
      r.total = to_seconds(e.time - fault);
      return r;
    }
  }
  return std::nullopt;
}

int measure_recoveries(Run& run, const std::string& kind, int faults) {
  const SystemClock clock;
  std::mt19937 rng(1);
  std::vector<Recovery> all;
  std::int64_t counted = 0;
  for (int i = 0; i < faults; ++i) {
    if (!run.wait_for([&] { return run.step() >= counted + 20; })) {
      fmt::print(stderr, "the run does not go on\n");
      return 1;
    }
    std::vector<Victim> victims = processes_of(run.directory());
    std::erase_if(victims, [&](const Victim& v) { return v.worker != (kind != "agent"); });
    const Victim victim = victims[rng() % victims.size()];
    const Time fault = clock.now();
    ::kill(victim.pid, kind == "hang" ? SIGSTOP : SIGKILL);
    std::optional<Recovery> r;
    if (!run.wait_for([&] {
          r = recovery_after(journal_of(run.directory()), fault);
          return r.has_value();
        })) {
      fmt::print(stderr, "fault {} was not recovered from\n", i + 1);
      return 1;
    }
    all.push_back(*r);
    counted = run.step();
    fmt::print(
        "{} {:3}: detect {:.3f} s, abort {:.3f} s, form {:.3f} s, restore {:.3f} s, replay "
        "{:.3f} s, in all {:.3f} s\n",
        kind, i + 1, r->detect, r->abort, r->form, r->restore, r->replay, r->total);
    std::fflush(stdout);
  }
  const auto of = [&](double Recovery::*part) {
    std::vector<double> values;
    for (const Recovery& r : all) values.push_back(r.*part);
    return median(values);
  };
  fmt::print(
      "medians of {} faults ({}): detect {:.3f} s, abort {:.3f} s, form {:.3f} s, restore "
      "{:.3f} s, replay {:.3f} s, in all {:.3f} s\n",
      all.size(), kind, of(&Recovery::detect), of(&Recovery::abort), of(&Recovery::form),
      of(&Recovery::restore), of(&Recovery::replay), of(&Recovery::total));
  return 0;
}

/// The time in which workers would have made the steps of the window, taken from the window.
int measure_supervisor(Run& run, int faults) {
  std::vector<double> pauses;
  std::int64_t counted = 0;
  for (int i = 0; i < faults; ++i) {
    if (!run.wait_for([&] { return run.step() >= counted + 40; })) return 1;
    const std::int64_t before = run.step();
    run.kill_supervisor();
    run.start(true);
    if (!run.wait_for([&] { return run.step() >= before + 60; })) return 1;
    std::vector<double> steps;
    std::optional<Time> first;
    std::optional<Time> last;
    for (const JournalEntry& e : journal_of(run.directory())) {
      const auto* r = std::get_if<StepReported>(&e.event);
      if (r == nullptr || r->report.step > before + 60) continue;
      if (r->report.step == before) first = e.time;
      if (r->report.step == before + 60) last = e.time;
      if (r->report.step > before - 30) steps.push_back(r->report.seconds);
    }
    if (!first || !last) return 1;
    pauses.push_back(std::max(0.0, to_seconds(*last - *first) - 60 * median(steps)));
    counted = before + 60;
    fmt::print("supervisor {:3}: training paused for {:.3f} s\n", i + 1, pauses.back());
    std::fflush(stdout);
  }
  fmt::print("median pause of {} takeovers: {:.3f} s\n", pauses.size(), median(pauses));
  return 0;
}

int measure_goodput(Run& run, double seconds, double every) {
  std::mt19937 rng(1);
  if (!run.wait_for([&] { return run.step() >= 20; })) return 1;
  const SystemClock clock;
  const Time begin = clock.now();
  int faults = 0;
  while (to_seconds(clock.now() - begin) < seconds) {
    std::this_thread::sleep_for(std::chrono::duration<double>(every));
    std::vector<Victim> victims = processes_of(run.directory());
    std::erase_if(victims, [](const Victim& v) { return !v.worker; });
    if (victims.empty()) continue;
    ::kill(victims[rng() % victims.size()].pid, SIGKILL);
    ++faults;
  }
  std::this_thread::sleep_for(std::chrono::seconds(2));
  RunMetrics metrics;
  double useful_before = 0;
  Time end = begin;
  for (const JournalEntry& e : journal_of(run.directory())) {
    metrics.add(e);
    if (e.time < begin) useful_before = metrics.useful_seconds();
    if (std::holds_alternative<StepReported>(e.event)) end = e.time;
  }
  const double wall = to_seconds(end - begin);
  const double useful = metrics.useful_seconds() - useful_before;
  fmt::print(
      "{} faults in {:.1f} s: {:.1f} s of useful steps, goodput {:.4f}, {:.3f} s lost a "
      "fault\n",
      faults, wall, useful, useful / wall, (wall - useful) / std::max(1, faults));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string kind = argc > 2 ? argv[2] : "";
  const bool known = kind == "worker" || kind == "hang" || kind == "agent" ||
                     kind == "supervisor" || kind == "goodput";
  if (!known) {
    fmt::print(stderr,
               "usage: recovery_bench TENAX worker|hang|agent|supervisor [FAULTS]\n"
               "       recovery_bench TENAX goodput [SECONDS [EVERY]]\n");
    return 2;
  }
  const fs::path scratch = fs::temp_directory_path() / fmt::format("recovery_bench.{}", getpid());
  fs::create_directories(scratch);
  for (const char* file : {"scheduler/run_json.cc", "wire/message.cc"})
    fs::copy_file(fs::path(TENAX_SOURCE_DIR) / file,
                  scratch / (fs::path(file).stem().string() + ".txt"));
  std::ofstream(scratch / "recipe.toml")
      << "[run]\nname = \"bench\"\n[data]\ntext = [\"*.txt\"]\n"
         "[model]\nwidth = 64\nlayers = 4\nheads = 4\n"
         "[layout]\ndata_parallel = 2\npipeline_parallel = 2\n"
         "[train]\nsteps = 1000000\nsequence_length = 64\nglobal_batch_size = 16\n"
         "microbatch_size = 2\neval_interval = 0\n"
         "[checkpoint]\ninterval = 100\n[spikes]\nenabled = false\n"
         "[supervision]\nrestart_intensity = 100000\n[dashboard]\nenabled = false\n";
  int code = 1;
  {
    Run run(fs::absolute(argv[1]).string(), scratch);
    run.start(false);
    if (kind == "goodput") {
      code = measure_goodput(run, argc > 3 ? std::atof(argv[3]) : 600,
                             argc > 4 ? std::atof(argv[4]) : 30);
    } else if (kind == "supervisor") {
      code = measure_supervisor(run, argc > 3 ? std::atoi(argv[3]) : 20);
    } else {
      code = measure_recoveries(run, kind, argc > 3 ? std::atoi(argv[3]) : 20);
    }
  }
  if (code == 0) {
    fs::remove_all(scratch);
  } else {
    fmt::print(stderr, "what is left is in {}\n", scratch.string());
  }
  return code;
}
