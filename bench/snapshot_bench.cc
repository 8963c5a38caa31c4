// What frequent snapshots cost: the same training with a checkpoint every 10 steps (all of them
// taken: checkpoint.policy = "wait") and without any, in alternating pairs. Prints each pair, the
// median ratio of steps a second with the interval of its order statistics, the bytes of a snapshot
// and how many were committed.
//
//   snapshot_bench TENAX [PAIRS=5 [STEPS=200 [WORKERS=1 [WIDTH=256]]]]
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "actors/process.h"
#include "checkpoint/store_reader.h"
#include "scheduler/run_json.h"

namespace {

using namespace tenax;
namespace fs = std::filesystem;

constexpr int kEvery = 10;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Sample {
  double steps_per_second = 0;
  int committed = 0;
  std::uint64_t bytes = 0;  ///< of a checkpoint
};

/// From the first counted step to the last, as journalled.
Sample journalled(const fs::path& run_dir) {
  Sample s;
  const auto store = checkpoint::StoreReader::open_read_only(run_dir.string());
  if (!store) return s;
  const auto records = (*store)->read_journal(0);
  if (!records) return s;
  Time first{};
  Time last{};
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;
  for (const auto& r : *records) {
    const auto entry = scheduler::journal_entry_from_json(r.bytes);
    if (!entry) continue;
    if (const auto* step = std::get_if<scheduler::StepReported>(&entry->event)) {
      if (first_step == 0) {
        first = entry->time;
        first_step = step->report.step;
      }
      last = entry->time;
      last_step = step->report.step;
    } else if (const auto* commit = std::get_if<scheduler::CommitEnded>(&entry->event)) {
      s.committed += commit->ok ? 1 : 0;
      s.bytes = std::max(s.bytes, commit->bytes);
    }
  }
  if (last > first) {
    s.steps_per_second = static_cast<double>(last_step - first_step) / to_seconds(last - first);
  }
  return s;
}

Sample train(const std::string& tenax, const fs::path& recipe, const fs::path& run_dir,
             int interval) {
  fs::remove_all(run_dir);
  auto process = actors::Process::spawn(
      {{tenax, "train", recipe.string(), "--run-dir", run_dir.string(), "--set",
        "generate.tokens=0", "--set", fmt::format("checkpoint.interval={}", interval), "--set",
        "checkpoint.policy=\"wait\"", "--set", "checkpoint.keep_last=2"},
       run_dir.string() + ".log"});
  if (!process) return {};
  static_cast<void>(actors::reap(*process));
  return journalled(run_dir);
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: snapshot_bench TENAX [PAIRS [STEPS [WORKERS [WIDTH]]]]\n");
    return 2;
  }
  const auto number = [&](int i, int fallback) { return argc > i ? std::atoi(argv[i]) : fallback; };
  const int pairs = number(2, 5);
  const int steps = number(3, 200);
  const fs::path scratch = fs::current_path() / fmt::format("snapshot_bench.{}", getpid());
  fs::create_directories(scratch);
  std::ofstream(scratch / "text.txt")
      << read(fs::path(TENAX_SOURCE_DIR) / "scheduler" / "run_json.cc")
      << read(fs::path(TENAX_SOURCE_DIR) / "wire" / "message.cc");
  const fs::path recipe = scratch / "recipe.toml";
  std::ofstream(recipe) << fmt::format(
      "[run]\nname = \"bench\"\n[data]\ntext = [\"text.txt\"]\n[model]\nwidth = {}\nlayers = 4\n"
      "heads = 4\n[layout]\ndata_parallel = {}\n[train]\nsteps = {}\nsequence_length = 128\n"
      "global_batch_size = 16\nmicrobatch_size = 4\neval_interval = 0\n[dashboard]\nenabled = "
      "false\n",
      number(5, 256), number(4, 1), steps);
  std::vector<double> ratios;
  for (int i = -1; i < pairs; ++i) {  // the first pair warms up
    const bool saving_first = i % 2 == 0;
    const Sample one = train(argv[1], recipe, scratch / "run", saving_first ? kEvery : 0);
    const Sample two = train(argv[1], recipe, scratch / "run", saving_first ? 0 : kEvery);
    const Sample& saving = saving_first ? one : two;
    const Sample& plain = saving_first ? two : one;
    if (saving.steps_per_second <= 0 || plain.steps_per_second <= 0) {
      fmt::print(stderr, "a run failed; see {}\n", scratch.string());
      return 1;
    }
    if (i < 0) continue;
    ratios.push_back(saving.steps_per_second / plain.steps_per_second);
    fmt::print(
        "pair {:2}: every {} steps {:.2f} steps/s ({} checkpoints of {:.1f} MB, {:.2f} MB a "
        "step), none {:.2f} steps/s, ratio {:.4f}\n",
        i + 1, kEvery, saving.steps_per_second, saving.committed,
        static_cast<double>(saving.bytes) * 1e-6, static_cast<double>(saving.bytes) * 1e-6 / kEvery,
        plain.steps_per_second, ratios.back());
    std::fflush(stdout);
  }
  std::vector<double> sorted = ratios;
  std::sort(sorted.begin(), sorted.end());
  fmt::print("median ratio {:.4f}, from {:.4f} to {:.4f}\n", median(ratios), sorted.front(),
             sorted.back());
  fs::remove_all(scratch);
  return 0;
}
