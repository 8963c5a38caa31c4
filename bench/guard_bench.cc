// What the step guard and the notes of sample losses cost: training steps with and without them, in
// turns, in one process. Prints the medians, their ratio with the spread of the pairs, and the time
// of the guard's own code.
//
//   build/bench/guard_bench [PAIRS] [WIDTH] [LAYERS]      # default 60 256 4
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "actors/engine_setup.h"
#include "actors/sample_log.h"
#include "common/counter_rng.h"
#include "compute/solo_communicator.h"
#include "configs/run_config.h"
#include "scheduler/step_guard.h"

namespace {

using namespace tenax;
using Seconds = std::chrono::duration<double>;

enum class Guard { kOff, kOn };

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

configs::RunConfig recipe(int width, int layers) {
  return *configs::parse_run_config(
      fmt::format("[data]\ntext = [\"unused\"]\n[model]\nwidth = {}\nlayers = {}\nheads = 4\n"
                  "[train]\nsequence_length = 128\nglobal_batch_size = 8\nmicrobatch_size = 2\n",
                  width, layers),
      "guard_bench", {});
}

class Bench {
 public:
  Bench(const configs::RunConfig& config, const std::string& folder)
      : options_(configs::guard_options(config)),
        engine_(*compute::Engine::create(actors::engine_options(config, 257, {}, 0))),
        log_(*actors::SampleLog::open(std::filesystem::path(folder) / "rank0.ring")) {
    engine_->initialise(1);
    const compute::EngineOptions& o = engine_->options();
    const std::size_t n = static_cast<std::size_t>(o.shape.microbatch_size) *
                          static_cast<std::size_t>(o.shape.sequence_length);
    const CounterRng rng(1, 0);
    for (int mb = 0; mb < o.num_microbatches; ++mb) {
      std::vector<std::int32_t> tokens(n);
      for (std::size_t i = 0; i < n; ++i)
        tokens[i] = static_cast<std::int32_t>(rng.bits(n * static_cast<std::size_t>(mb) + i) % 257);
      tokens_.push_back(tokens);
    }
    for (const auto& t : tokens_) batches_.push_back({t, t});
  }

  double step(Guard guard) {
    const auto begin = std::chrono::steady_clock::now();
    ++step_;
    if (!engine_->compute_gradients(comm_, batches_)) std::abort();
    compute::VerdictPart part = engine_->verdict_part();
    part.step = step_;
    const auto verdict = engine_->exchange_verdict(comm_, part);
    if (!verdict) std::abort();
    StepReport report;
    report.step = step_;
    report.loss = verdict->loss;
    report.grad_norm = verdict->grad_norm;
    report.tokens = verdict->targets;
    report.clip_norm = options_.clip_norm;
    if (guard == Guard::kOn) {
      report.clip_norm =
          scheduler::judge_step(options_, state_, {step_, report.loss, report.grad_norm}).clip_norm;
    }
    engine_->apply_update({report.grad_norm, report.clip_norm, report.tokens, 1e-4, step_});
    if (guard == Guard::kOn) {
      scheduler::observe_step(options_, report, state_);
      for (const double loss : engine_->sample_losses()) log_->add({0, step_, step_, loss});
    }
    return Seconds(std::chrono::steady_clock::now() - begin).count();
  }

  /// Nanoseconds of the guard's decision and memory for a step.
  double guard_alone() {
    constexpr int kTimes = 1000000;
    StepReport report;
    report.loss = 2;
    report.tokens = 1000;
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kTimes; ++i) {
      report.step = i;
      report.grad_norm = 1 + 1e-3 * (i % 7);
      report.clip_norm =
          scheduler::judge_step(options_, state_, {i, report.loss, report.grad_norm}).clip_norm;
      scheduler::observe_step(options_, report, state_);
    }
    return Seconds(std::chrono::steady_clock::now() - begin).count() / kTimes * 1e9;
  }

 private:
  scheduler::GuardOptions options_;
  GuardState state_;
  std::unique_ptr<compute::Engine> engine_;
  std::unique_ptr<actors::SampleLog> log_;
  compute::SoloCommunicator comm_;
  std::vector<std::vector<std::int32_t>> tokens_;
  std::vector<compute::Microbatch> batches_;
  std::int64_t step_ = 0;
};

int argument(int argc, char** argv, int index, int otherwise) {
  return argc > index ? std::max(1, std::atoi(argv[index])) : otherwise;
}

}  // namespace

int main(int argc, char** argv) {
  const int pairs = argument(argc, argv, 1, 60);
  char folder[] = "/tmp/tenax-guard-bench-XXXXXX";
  if (mkdtemp(folder) == nullptr) return 1;
  Bench bench(recipe(argument(argc, argv, 2, 256), argument(argc, argv, 3, 4)), folder);
  for (int i = 0; i < 3; ++i) bench.step(Guard::kOff);
  std::vector<double> off;
  std::vector<double> on;
  std::vector<double> ratios;
  for (int i = 0; i < pairs; ++i) {
    // Which comes first changes, so that neither has the warmer cache.
    const bool first_off = i % 2 == 0;
    const double a = bench.step(first_off ? Guard::kOff : Guard::kOn);
    const double b = bench.step(first_off ? Guard::kOn : Guard::kOff);
    off.push_back(first_off ? a : b);
    on.push_back(first_off ? b : a);
    ratios.push_back(on.back() / off.back());
  }
  std::sort(ratios.begin(), ratios.end());
  fmt::print("step without the guard   {:9.3f} ms (median of {})\n", 1e3 * median(off), pairs);
  fmt::print("step with the guard      {:9.3f} ms\n", 1e3 * median(on));
  fmt::print("with / without           {:9.4f} (median of the pairs; quartiles {:.4f}, {:.4f})\n",
             median(ratios), ratios[ratios.size() / 4], ratios[3 * ratios.size() / 4]);
  fmt::print("the guard's own code     {:9.1f} ns a step\n", bench.guard_alone());
  std::filesystem::remove_all(folder);
  return 0;
}
