// A training step in several layouts on one machine, in alternating rounds of one run: tokens a
// second, what collectives move and how long ranks wait for them, and how far the pipeline's step
// is from its schedule priced with the same step's own action times.
//
// Usage: layout_bench [MODEL [ROUNDS]]
//   MODEL: small (6 layers, width 384, vocabulary 4096, T 256; 16 microbatches of one sequence) or
//   tiny. Ranks are threads with an engine of one thread and a Gloo communicator each; "one
//   process" is one engine of two threads. Ranks of two-rank layouts are pinned to a core each.
// Prints medians over the rounds and the load of other processes. Figures mean something where the
// foreign load is small.
#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "actors/engine_setup.h"
#include "common/counter_rng.h"
#include "compute/cpu/gloo_communicator.h"
#include "compute/engine.h"
#include "compute/step_trace.h"
#include "configs/run_config.h"

namespace {

using namespace tenax;
using SteadyClock = std::chrono::steady_clock;

template <class T>
T require(Result<T> result) {
  if (!result) {
    fmt::print(stderr, "{}\n", result.error().message);
    std::exit(1);
  }
  return *std::move(result);
}
void require(const Status& status) {
  if (status) return;
  fmt::print(stderr, "{}\n", status.error().message);
  std::exit(1);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

/// Processor seconds of all processes since boot, and of this one.
std::pair<double, double> processor_seconds() {
  std::ifstream in("/proc/stat");
  std::string word;
  in >> word;
  double all = 0;
  for (int field = 0; field < 10; ++field) {
    double ticks = 0;
    in >> ticks;
    if (field != 3 && field != 4 && field < 8) all += ticks;  // neither idle nor guests twice
  }
  rusage own{};
  getrusage(RUSAGE_SELF, &own);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return {all / static_cast<double>(sysconf(_SC_CLK_TCK)),
          seconds(own.ru_utime) + seconds(own.ru_stime)};
}

class LocalRendezvous final : public compute::Rendezvous {
 public:
  Status publish(const std::string& key, std::string value) override {
    const std::lock_guard lock(mutex_);
    values_[key] = std::move(value);
    changed_.notify_all();
    return {};
  }
  Result<std::string> wait(const std::string& key) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return values_.contains(key); });
    return values_[key];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> values_;
};

/// Counts what a rank sends and how long it waits for transfers.
class CountingCommunicator final : public compute::Communicator {
 public:
  explicit CountingCommunicator(compute::Communicator& inner) : inner_(inner) {}

  int rank() const override { return inner_.rank(); }
  int world_size() const override { return inner_.world_size(); }
  std::unique_ptr<compute::Transfer> send(int peer, std::uint64_t tag,
                                          std::span<const std::byte> bytes) override {
    sent_bytes += static_cast<double>(bytes.size());
    return std::make_unique<Timed>(inner_.send(peer, tag, bytes), waited);
  }
  std::unique_ptr<compute::Transfer> recv(int peer, std::uint64_t tag,
                                          std::span<std::byte> bytes) override {
    return std::make_unique<Timed>(inner_.recv(peer, tag, bytes), waited);
  }
  void abort(std::string reason) override { inner_.abort(std::move(reason)); }

  double sent_bytes = 0;
  double waited = 0;  ///< seconds

 private:
  class Timed final : public compute::Transfer {
   public:
    Timed(std::unique_ptr<compute::Transfer> inner, double& waited)
        : inner_(std::move(inner)), waited_(waited) {}
    Status wait() override {
      const auto start = SteadyClock::now();
      Status status = inner_->wait();
      waited_ += seconds_since(start);
      return status;
    }

   private:
    std::unique_ptr<compute::Transfer> inner_;
    double& waited_;
  };

  compute::Communicator& inner_;
};

struct Layout {
  std::string name;
  configs::LayoutSection degrees;
  compute::Overlap overlap = compute::Overlap::kOn;
  bool traces = true;
};

struct Measured {
  double seconds = 0;
  double sent_bytes = 0;  ///< of all ranks
  double waited = 0;      ///< seconds, mean over ranks
  double priced = 0;      ///< seconds, of a pipeline; 0: none
};

configs::RunConfig config_of(const std::string& model, const Layout& layout) {
  configs::RunConfig c;
  const bool small = model == "small";
  c.model.width = small ? 384 : 64;
  c.model.num_layers = small ? 6 : 4;
  c.model.num_heads = small ? 6 : 4;
  c.train.sequence_length = small ? 256 : 64;
  c.train.global_batch_size = 16;
  c.train.microbatch_size = 1;
  c.layout = layout.degrees;
  return c;
}

/// What one rank did in the timed step.
struct RankTimes {
  double step = 0;
  double tail = 0;  ///< behind the last action of the schedule
  std::map<std::pair<int, bool>, std::vector<double>> actions;  ///< by chunk and direction
  PipelineSchedule schedule;
  double sent_bytes = 0;
  double waited = 0;
};

/// When the last rank has done its schedule, if every action takes the mean of its kind, messages
/// none, and nobody waits for anything but messages.
double price(const std::vector<RankTimes>& ranks) {
  const auto num_stages = ranks.size();
  std::vector<std::size_t> at(num_stages, 0);
  std::vector<double> now(num_stages, 0);
  std::map<std::tuple<bool, std::size_t, int>, double> ready;  // forward, virtual stage, microbatch
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t r = 0; r < num_stages; ++r) {
      for (; at[r] < ranks[r].schedule.size(); ++at[r], moved = true) {
        const Action& a = ranks[r].schedule[at[r]];
        const std::size_t v = static_cast<std::size_t>(a.chunk) * num_stages + r;
        const bool forward = a.kind == ActionKind::kRecvForward || a.kind == ActionKind::kForward ||
                             a.kind == ActionKind::kSendForward;
        if (a.kind == ActionKind::kRecvForward || a.kind == ActionKind::kRecvBackward) {
          const auto message = ready.find({forward, v, a.microbatch});
          if (message == ready.end()) break;
          now[r] = std::max(now[r], message->second);
        } else if (a.kind == ActionKind::kSendForward || a.kind == ActionKind::kSendBackward) {
          ready[{forward, forward ? v + 1 : v - 1, a.microbatch}] = now[r];
        } else {
          now[r] += median(ranks[r].actions.at({a.chunk, forward}));
        }
      }
    }
  }
  double end = 0;
  for (std::size_t r = 0; r < num_stages; ++r) end = std::max(end, now[r] + ranks[r].tail);
  return end;
}

RankTimes run_rank(const configs::RunConfig& config, const Layout& layout, int num_threads,
                   compute::Communicator& inner) {
  constexpr std::int64_t kVocabulary = 4096;
  const SystemClock clock;
  compute::StepTrace trace(clock, 16384);
  compute::EngineOptions options =
      actors::engine_options(config, kVocabulary, actors::degrees_of(config), inner.rank());
  options.settings.num_threads = num_threads;
  options.trace = layout.traces ? &trace : nullptr;
  options.overlap = layout.overlap;
  const auto engine = require(compute::Engine::create(std::move(options)));
  engine->initialise(1);
  const compute::EngineOptions& o = engine->options();
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(config.train.sequence_length));
  const CounterRng rng(1, 1);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int32_t>(rng.bits(i) % kVocabulary);
  compute::Microbatch microbatch;
  microbatch.tokens = tokens;
  microbatch.targets = tokens;
  const std::vector<compute::Microbatch> mine(
      static_cast<std::size_t>(o.ranges[static_cast<std::size_t>(o.replica)].size()), microbatch);

  CountingCommunicator comm(inner);
  std::vector<int> world(static_cast<std::size_t>(inner.world_size()));
  for (std::size_t i = 0; i < world.size(); ++i) world[i] = static_cast<int>(i);
  RankTimes times;
  for (std::int64_t step = 1; step <= 2; ++step) {  // the first warms up
    require(compute::barrier(inner, {world, inner.rank()}, 1));
    comm.sent_bytes = comm.waited = 0;
    trace.begin_step(step);
    const auto start = SteadyClock::now();
    require(engine->compute_gradients(comm, mine));
    compute::VerdictPart part = engine->verdict_part();
    part.step = step;
    const compute::Verdict verdict = require(engine->exchange_verdict(comm, part));
    engine->apply_update({verdict.grad_norm, 1.0, verdict.targets, 1e-4, step});
    require(engine->share_weights(comm));
    times.step = seconds_since(start);
  }
  times.schedule = o.schedule;
  times.sent_bytes = comm.sent_bytes;
  times.waited = comm.waited;
  if (!layout.traces) return times;
  // Events of forward and backward come in the schedule's order.
  std::vector<const Action*> passes;
  for (const Action& a : times.schedule) {
    if (a.kind == ActionKind::kForward || a.kind == ActionKind::kBackward) passes.push_back(&a);
  }
  std::size_t next = 0;
  Time begin = trace.events().front().begin;
  Time last = begin;
  for (const compute::TraceEvent& e : trace.events()) {
    if (e.kind > compute::TraceKind::kSendBackward) continue;
    last = e.end;
    if (e.kind != compute::TraceKind::kForward && e.kind != compute::TraceKind::kBackward) continue;
    const Action& a = *passes[next++];
    times.actions[{a.chunk, a.kind == ActionKind::kForward}].push_back(to_seconds(e.end - e.begin));
  }
  times.tail = times.step - to_seconds(last - begin);
  return times;
}

void pin(std::size_t core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

Measured measure(const configs::RunConfig& config, const Layout& layout, int num_threads) {
  const Degrees degrees = actors::degrees_of(config);
  const int n = degrees.world_size();
  const auto rendezvous = std::make_shared<LocalRendezvous>();
  const auto device = require(compute::GlooDevice::open("127.0.0.1"));
  std::vector<RankTimes> ranks(static_cast<std::size_t>(n));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < n; ++rank) {
    threads.emplace_back([&, rank] {
      if (n == 2) pin(static_cast<std::size_t>(rank));
      compute::GlooOptions gloo;
      gloo.rank = rank;
      gloo.world_size = n;
      gloo.form_timeout = gloo.operation_timeout = std::chrono::minutes(5);
      const auto comm = require(compute::GlooCommunicator::create(device, gloo, rendezvous));
      ranks[static_cast<std::size_t>(rank)] = run_rank(config, layout, num_threads, *comm);
    });
  }
  for (std::thread& thread : threads) thread.join();
  Measured m;
  for (const RankTimes& r : ranks) {
    m.seconds = std::max(m.seconds, r.step);
    m.sent_bytes += r.sent_bytes;
    m.waited += r.waited / n;
  }
  if (degrees.pp == n && n > 1) m.priced = price(ranks);
  return m;
}

std::vector<Layout> layouts() {
  const auto make = [](std::string name, int dp, int tp, int pp, int chunks = 1, int zero = 0) {
    configs::LayoutSection l;
    l.data_parallel = dp;
    l.tensor_parallel = tp;
    l.pipeline_parallel = pp;
    l.virtual_stages = chunks;
    l.zero = zero;
    return Layout{std::move(name), l};
  };
  Layout untraced = make("one process, not traced", 1, 1, 1);
  untraced.traces = false;
  Layout behind = make("dp 2, reduced behind the backward", 2, 1, 1);
  behind.overlap = compute::Overlap::kOff;
  return {make("one process, 2 threads", 1, 1, 1),
          untraced,
          make("dp 2", 2, 1, 1),
          behind,
          make("dp 2, ZeRO-1", 2, 1, 1, 1, 1),
          make("tp 2", 1, 2, 1),
          make("pp 2", 1, 1, 2),
          make("pp 2, 2 virtual stages", 1, 1, 2, 2),
          make("dp 2 x pp 2", 2, 1, 2)};
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  const std::string model = argc > 1 ? argv[1] : "small";
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;
  if ((model != "small" && model != "tiny") || rounds < 1) {
    fmt::print(stderr, "usage: layout_bench [small|tiny [ROUNDS]]\n");
    return 2;
  }
  const auto all = layouts();
  std::vector<std::vector<Measured>> results(all.size());
  const auto start = SteadyClock::now();
  const auto [machine_before, own_before] = processor_seconds();
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      const configs::RunConfig config = config_of(model, all[i]);
      results[i].push_back(measure(config, all[i], config.layout.world_size() == 1 ? 2 : 1));
    }
  }
  const auto [machine_after, own_after] = processor_seconds();
  const double foreign =
      ((machine_after - machine_before) - (own_after - own_before)) / seconds_since(start);
  const configs::RunConfig config = config_of(model, all.front());
  const auto tokens =
      static_cast<double>(config.train.global_batch_size * config.train.sequence_length);
  fmt::print("{} model, {} rounds; other processes took {:.2f} cores\n\n", model, rounds, foreign);
  fmt::print(
      "| layout | step, ms | tokens/s | of one process | sent, MB | waited, ms | priced, ms |\n"
      "|---|---|---|---|---|---|---|\n");
  double one_process = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto of = [&](double Measured::*field) {
      std::vector<double> values;
      for (const Measured& m : results[i]) values.push_back(m.*field);
      return median(values);
    };
    const double seconds = of(&Measured::seconds);
    if (i == 0) one_process = seconds;
    const double priced = of(&Measured::priced);
    fmt::print("| {} | {:.1f} | {:.0f} | {:.2f} | {:.2f} | {:.1f} | {} |\n", all[i].name,
               1e3 * seconds, tokens / seconds, one_process / seconds,
               1e-6 * of(&Measured::sent_bytes), 1e3 * of(&Measured::waited),
               priced > 0
                   ? fmt::format("{:.1f} ({:+.1f} %)", 1e3 * priced, 100 * (seconds / priced - 1))
                   : std::string());
  }
  return 0;
}
