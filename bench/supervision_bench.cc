// What supervision costs: the same training bare (the same train loop, engine and collectives in
// four processes that find each other through files; no supervisor, agent or checkpoint) and
// supervised with a checkpoint every 50 steps, in alternating pairs. Prints each pair, the median
// ratio of wall times with the interval of its order statistics, and the CPU seconds of supervisor
// and agent as a share of the workers'.
//
//   supervision_bench TENAX [PAIRS [STEPS]]
//   supervision_bench --bare RUN_DIR STEP    (by tools/gpu_check)
//
// The second trains the configuration of a run that has ended bare, without checkpoints, and prints
// the steps a second from STEP to the last.
#include <dirent.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "actors/engine_setup.h"
#include "actors/process.h"
#include "actors/run_directory.h"
#include "actors/train_loop.h"
#include "checkpoint/slot.h"
#include "checkpoint/store_reader.h"
#include "configs/run_config.h"
#include "scheduler/run_json.h"

namespace {

using namespace tenax;
namespace fs = std::filesystem;
using Steady = std::chrono::steady_clock;

double seconds_since(Steady::time_point t) {
  return std::chrono::duration<double>(Steady::now() - t).count();
}

/// Empty if the file is gone, or goes while it is read, as the files of a process do.
std::string read(const fs::path& path) {
  try {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  } catch (const std::ios_base::failure&) {
    return {};
  }
}

/// When a rank ended its first and its newest step of those that count.
struct Pace {
  std::int64_t from = 1;  ///< the first step that counts
  std::int64_t newest = 0;
  Steady::time_point begin{};
  Steady::time_point end{};

  void add(std::int64_t step) {
    if (step < from) return;
    if (step == from) begin = Steady::now();
    newest = step;
    end = Steady::now();
  }
  double steps_per_second() const {
    return newest > from ? static_cast<double>(newest - from) /
                               std::chrono::duration<double>(end - begin).count()
                         : 0;
  }
};

/// One bare rank: publishes to, and is delivered from, files in `exchange`. Writes its wall seconds
/// of training, and its steps a second from step `from` on.
int bare_rank(const fs::path& run_dir, const fs::path& exchange, int rank, std::int64_t from) {
  signal(SIGPIPE, SIG_IGN);
  const actors::RunDirectory directory(run_dir);
  const std::string config_text = read(directory.config());
  const auto config = configs::parse_run_config(config_text, "config", {"checkpoint.interval=0"});
  if (!config) return 1;
  const SystemClock clock;
  actors::SlotGate gate;
  actors::GenerationLink link(1, [&](const std::string& key, std::string value) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '/', '%');
    std::ofstream(exchange / ("." + name), std::ios::binary) << value;
    fs::rename(exchange / ("." + name), exchange / name);
  });
  std::jthread deliverer([&](const std::stop_token& stop) {
    std::set<std::string> seen;
    while (!stop.stop_requested()) {
      for (const auto& entry : fs::directory_iterator(exchange)) {
        std::string key = entry.path().filename().string();
        if (key.front() == '.' || !seen.insert(key).second) continue;
        std::string value = read(entry.path());
        std::replace(key.begin(), key.end(), '%', '/');
        link.deliver(key, std::move(value));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(seen.size() < 64 ? 1 : 50));
    }
  });
  Steady::time_point begin;
  double wall = 0;
  Pace pace;
  pace.from = from;
  actors::TrainLoopOptions options;
  options.directory = directory;
  options.run_id = fmt::format("bare{}", getppid());
  options.slot = static_cast<std::uint32_t>(rank);
  actors::TrainLoop loop(options, clock, gate, [&](const wire::Body& body) {
    if (std::holds_alternative<wire::RankFormed>(body)) begin = Steady::now();
    if (const auto* done = std::get_if<wire::StepDone>(&body)) pace.add(done->report.step);
    if (std::holds_alternative<wire::RankFinished>(body)) wall = seconds_since(begin);
  });
  wire::PlanFor plan;
  plan.rank = static_cast<std::uint32_t>(rank);
  plan.config = configs::canonical_text(*config);
  plan.plan.generation = 1;
  plan.plan.degrees = actors::degrees_of(*config);
  plan.plan.total_steps = config->train.steps;
  plan.plan.sources.assign(static_cast<std::size_t>(plan.plan.degrees.world_size()),
                           {SourceKind::kInitial, -1});
  const auto stopped = loop.run(plan, link);
  if (stopped) {
    fmt::print(stderr, "bare rank {}: {}\n", rank, stopped->reason);
    return 1;
  }
  std::ofstream(exchange.parent_path() / fmt::format("wall{}", rank)) << wall;
  std::ofstream(exchange.parent_path() / fmt::format("pace{}", rank)) << pace.steps_per_second();
  std::ofstream(exchange.parent_path() / fmt::format("cpu{}", rank))
      << static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return 0;
}

std::string self() { return actors::self_path(); }

struct Sample {
  double wall = 0;
  double steps_per_second = 0;  ///< of a bare run, from a step on
  double worker_cpu = 0;
  double overhead_cpu = 0;  ///< supervisor and agent
};

/// As many ranks as the run's configuration has.
int world_of(const fs::path& run_dir) {
  const auto config =
      configs::load_run_config(actors::RunDirectory(run_dir).config(), std::vector<std::string>{});
  return config ? static_cast<int>(config->layout.world_size()) : 0;
}

Sample run_bare(const fs::path& run_dir, const fs::path& scratch, std::int64_t from = 1) {
  fs::remove_all(scratch);
  fs::create_directories(scratch / "exchange");
  const int world = world_of(run_dir);
  std::vector<actors::Process> ranks;
  for (int r = 0; r < world; ++r) {
    auto p = actors::Process::spawn(
        {{self(), "--bare-rank", run_dir.string(), (scratch / "exchange").string(),
          std::to_string(r), std::to_string(from)},
         (scratch / "log").string()});
    if (p) ranks.push_back(*std::move(p));
  }
  Sample s;
  for (const auto& p : ranks) static_cast<void>(actors::reap(p));
  s.steps_per_second = std::atof(read(scratch / "pace0").c_str());
  for (int r = 0; r < world; ++r) {
    s.wall = std::max(s.wall, std::atof(read(scratch / fmt::format("wall{}", r)).c_str()));
    s.worker_cpu += std::atof(read(scratch / fmt::format("cpu{}", r)).c_str());
  }
  static_cast<void>(checkpoint::unlink_segments(fmt::format("bare{}", getpid())));
  return s;
}

/// Of `--bare`.
int print_bare(const fs::path& run_dir, std::int64_t from) {
  const fs::path scratch =
      fs::temp_directory_path() / fmt::format("supervision_bench.{}", getpid());
  const Sample bare = run_bare(run_dir, scratch, from);
  const std::string log = read(scratch / "log");
  fs::remove_all(scratch);
  if (bare.steps_per_second <= 0) {
    fmt::print(stderr, "{}the bare run made no steps after step {}\n", log, from);
    return 1;
  }
  fmt::print("{:.6f} steps/s\n", bare.steps_per_second);
  return 0;
}

/// utime + stime of every process whose command line holds `dir`, by pid and subcommand.
void note_cpu(const std::string& dir, std::map<int, std::pair<bool, double>>& cpu) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string command = read(entry.path() / "cmdline");
    if (command.find(dir) == std::string::npos || command.find("tenax") == std::string::npos)
      continue;
    const std::string stat = read(entry.path() / "stat");
    const auto close = stat.rfind(')');
    if (close == std::string::npos) continue;
    long utime = 0;
    long stime = 0;
    if (std::sscanf(stat.c_str() + close + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld",
                    &utime, &stime) != 2)
      continue;
    const bool worker = command.find(std::string("\0worker\0", 8)) != std::string::npos;
    cpu[std::stoi(name)] = {
        worker, static_cast<double>(utime + stime) / static_cast<double>(sysconf(_SC_CLK_TCK))};
  }
}

/// From the first moment all ranks train to the last one's end, as journalled.
double journalled_wall(const fs::path& run_dir) {
  const auto store = checkpoint::StoreReader::open_read_only(run_dir.string());
  if (!store) return 0;
  const auto records = (*store)->read_journal(0);
  if (!records) return 0;
  Time begin{};
  Time end{};
  for (const auto& r : *records) {
    const auto entry = scheduler::journal_entry_from_json(r.bytes);
    if (!entry) continue;
    if (std::holds_alternative<scheduler::RankFormed>(entry->event)) begin = entry->time;
    if (std::holds_alternative<scheduler::RankFinished>(entry->event)) end = entry->time;
  }
  return to_seconds(end - begin);
}

Sample run_supervised(const std::string& tenax, const fs::path& recipe, const fs::path& run_dir) {
  fs::remove_all(run_dir);
  auto process = actors::Process::spawn({{tenax, "train", recipe.string(), "--run-dir",
                                          run_dir.string(), "--set", "generate.tokens=0"},
                                         run_dir.string() + ".log"});
  Sample s;
  if (!process) return s;
  std::map<int, std::pair<bool, double>> cpu;
  const pid_t pid = process->pid();
  std::thread poller([&] {
    while (actors::is_alive(pid, "tenax")) {
      note_cpu(run_dir.string(), cpu);
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  });
  poller.join();
  static_cast<void>(actors::reap(*process));
  for (const auto& [id, c] : cpu) (c.first ? s.worker_cpu : s.overhead_cpu) += c.second;
  s.wall = journalled_wall(run_dir);
  return s;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == "--bare-rank")
    return bare_rank(argv[2], argv[3], std::atoi(argv[4]), std::atoi(argv[5]));
  if (argc == 4 && std::string(argv[1]) == "--bare") return print_bare(argv[2], std::atoi(argv[3]));
  if (argc < 2 || argv[1][0] == '-') {
    fmt::print(stderr,
               "usage: supervision_bench TENAX [PAIRS [STEPS]]\n"
               "       supervision_bench --bare RUN_DIR STEP\n");
    return 2;
  }
  const std::string tenax = argv[1];
  const int pairs = argc > 2 ? std::atoi(argv[2]) : 10;
  const int steps = argc > 3 ? std::atoi(argv[3]) : 200;
  const fs::path scratch =
      fs::temp_directory_path() / fmt::format("supervision_bench.{}", getpid());
  fs::create_directories(scratch);
  std::ofstream(scratch / "text.txt")
      << read(fs::path(TENAX_SOURCE_DIR) / "scheduler" / "run_json.cc")
      << read(fs::path(TENAX_SOURCE_DIR) / "wire" / "message.cc");
  const fs::path recipe = scratch / "recipe.toml";
  std::ofstream(recipe) << fmt::format(
      "[run]\nname = \"bench\"\n[data]\ntext = [\"text.txt\"]\n[model]\nwidth = 128\nlayers = "
      "4\nheads = 4\n"
      "[layout]\ndata_parallel = 2\npipeline_parallel = 2\n[train]\nsteps = {}\nsequence_length = "
      "128\n"
      "global_batch_size = 32\nmicrobatch_size = 4\neval_interval = 0\n[checkpoint]\ninterval = "
      "50\n",
      steps);
  std::vector<double> ratios;
  std::vector<double> shares;
  for (int i = -1; i < pairs; ++i) {  // the first pair warms up
    const Sample supervised = run_supervised(tenax, recipe, scratch / "run");
    const Sample bare = run_bare(scratch / "run", scratch / "bare");
    if (supervised.wall <= 0 || bare.wall <= 0) {
      fmt::print(stderr, "a run failed; see {}\n", scratch.string());
      return 1;
    }
    if (i < 0) continue;
    ratios.push_back(bare.wall / supervised.wall);
    shares.push_back(supervised.overhead_cpu / supervised.worker_cpu);
    fmt::print(
        "pair {:2}: bare {:.3f} s, supervised {:.3f} s, ratio {:.4f}; supervisor and agent {:.2f} "
        "CPU s of the "
        "workers' {:.2f} ({:.2f} %)\n",
        i + 1, bare.wall, supervised.wall, ratios.back(), supervised.overhead_cpu,
        supervised.worker_cpu, 100 * shares.back());
    std::fflush(stdout);
  }
  std::vector<double> sorted = ratios;
  std::sort(sorted.begin(), sorted.end());
  // Order statistics 2 and n-1 bound the median with about 98 % for 10 pairs.
  const std::size_t low = sorted.size() > 3 ? 1 : 0;
  fmt::print(
      "median ratio bare / supervised {:.4f}, interval [{:.4f}, {:.4f}]; CPU share median {:.2f} "
      "%\n",
      median(ratios), sorted[low], sorted[sorted.size() - 1 - low], 100 * median(shares));
  fs::remove_all(scratch);
  return 0;
}
