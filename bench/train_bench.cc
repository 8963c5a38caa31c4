// Tokens a second of training steps (forward, backward, norm, AdamW) on one process' threads,
// beside PyTorch on the same machine in alternating rounds of the same run.
//
// Usage: train_bench [MODEL [PRECISION [ROUNDS [THREADS [STEPS]]]]]
//   MODEL: 124m (GPT-2, B 4, T 64), small (6 layers, width 384, vocabulary 4096, B 16, T 256) or
//   tiny; PRECISION: fp32 or bf16.
// Prints for each round both rates and the load of other processes; at the end medians, their
// ratio, the share that the matrix products' operations make up of what the micro-kernel alone does
// on as many threads in the same rounds, peak memory of both, and what recomputation costs. Figures
// mean something where the foreign load is small.
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "common/counter_rng.h"
#include "compute/aligned_buffer.h"
#include "compute/device.h"
#include "compute/flops.h"
#include "compute/stage.h"
#include "compute/tensor_norm.h"

namespace {

using namespace tenax;
using namespace tenax::compute;
using SteadyClock = std::chrono::steady_clock;

struct Case {
  ModelOptions model;
  BatchShape shape;
};

std::optional<Case> case_of(const std::string& name) {
  Case c;
  ModelOptions& m = c.model;
  if (name == "124m") {
    m.vocabulary_size = 50257;
    m.width = 768;
    m.num_layers = m.num_heads = 12;
    c.shape = {4, 64};
  } else if (name == "small") {
    m.vocabulary_size = 4096;
    m.width = 384;
    m.num_layers = m.num_heads = 6;
    c.shape = {16, 256};
  } else if (name == "tiny") {
    m.vocabulary_size = 256;
    m.width = 64;
    m.num_layers = 2;
    m.num_heads = 4;
    c.shape = {4, 64};
  } else {
    return std::nullopt;
  }
  m.max_sequence_length = c.shape.sequence_length;
  return c;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[values.size() / 2];
}

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

/// CPU seconds of the whole machine (not idle) and of this process with its children.
struct CpuTimes {
  double machine = 0;
  double own = 0;
};

CpuTimes cpu_times(pid_t child) {
  CpuTimes t;
  std::ifstream stat("/proc/stat");
  std::string word;
  stat >> word;
  const double tick = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
  double value = 0;
  for (int i = 0; i < 8 && stat >> value; ++i) {
    const bool idle = i == 3 || i == 4;
    if (!idle) t.machine += value * tick;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& v) {
    return static_cast<double>(v.tv_sec) + 1e-6 * static_cast<double>(v.tv_usec);
  };
  t.own = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  if (child > 0) {
    std::ifstream file(fmt::format("/proc/{}/stat", child));
    std::string text;
    std::getline(file, text);
    std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
    std::string field;
    for (int i = 0; i < 11 && fields >> field; ++i) {
    }
    double user = 0;
    double system = 0;
    fields >> user >> system;
    t.own += (user + system) * tick;
  }
  return t;
}

std::string peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM")) return line.substr(6);
  return "unknown";
}

/// A model and what trains it, on one process.
class Trainer {
 public:
  Trainer(const Case& c, const StageSettings& settings) : case_(c), device_(settings.num_threads) {
    auto stage = Stage::create(c.model, whole_model(c.model), c.shape, 1, settings);
    if (!stage) {
      fmt::print(stderr, "train_bench: {}\n", stage.error().message);
      std::exit(1);
    }
    stage_ = *std::move(stage);
    stage_->initialise(1);
    m_ = AlignedBuffer(stage_->values().size());
    v_ = AlignedBuffer(stage_->values().size());
    gradient_ = AlignedBuffer(stage_->gradient_size());
    std::size_t chunks = 0;
    for (const StageParameter& p : stage_->parameters())
      chunks += num_norm_chunks(static_cast<std::size_t>(p.size));
    chunk_squares_.resize(chunks);
    std::size_t chunk = 0;
    for (const StageParameter& p : stage_->parameters()) {
      const auto at = static_cast<std::size_t>(p.offset);
      const auto n = static_cast<std::size_t>(p.size);
      const std::span<float> gradient =
          gradient_.span().subspan(static_cast<std::size_t>(p.gradients.front().offset), n);
      const std::span<double> sums = std::span(chunk_squares_).subspan(chunk, num_norm_chunks(n));
      norms_.push_back({gradient, sums});
      updates_.push_back({stage_->values().subspan(at, n), gradient, m_.span().subspan(at, n),
                          v_.span().subspan(at, n), p.spec.decay});
      chunk += sums.size();
    }
  }

  /// One step; its loss.
  double step() {
    const auto tokens = static_cast<std::size_t>(case_.shape.microbatch_size) *
                        static_cast<std::size_t>(case_.shape.sequence_length);
    const CounterRng rng(1, static_cast<std::uint64_t>(++step_));
    std::vector<std::int32_t> inputs(tokens);
    std::vector<std::int32_t> targets(tokens);
    for (std::size_t i = 0; i < tokens; ++i) {
      inputs[i] = static_cast<std::int32_t>(
          rng.bits(2 * i) % static_cast<std::uint64_t>(case_.model.vocabulary_size));
      targets[i] = static_cast<std::int32_t>(
          rng.bits(2 * i + 1) % static_cast<std::uint64_t>(case_.model.vocabulary_size));
    }
    stage_->forward(0, {inputs, targets}, {}, {});
    stage_->backward(0, {}, {}, gradient_.span());
    for (const StageParameter& p : stage_->parameters()) {
      // A tied embedding's gradient is the sum of its parts, as in the engine.
      const auto part_at = [&](std::size_t part) {
        return gradient_.span().subspan(static_cast<std::size_t>(p.gradients[part].offset),
                                        static_cast<std::size_t>(p.size));
      };
      for (std::size_t part = 1; part < p.gradients.size(); ++part)
        device_.add(part_at(0), part_at(part), part_at(0));
    }
    device_.chunk_squares(norms_);
    const double squares = std::accumulate(chunk_squares_.begin(), chunk_squares_.end(), 0.0);
    const LossSum loss = stage_->loss(0);
    const double scale = 1.0 / static_cast<double>(loss.targets);
    const double norm = std::sqrt(squares) * scale;
    device_.adamw({}, {step_, 1e-4, norm > 1 ? scale / norm : scale}, updates_);
    return loss.sum * scale;
  }

  double milliseconds_of_step() {
    const auto start = SteadyClock::now();
    step();
    return 1e3 * seconds_since(start);
  }
  std::string kernels() const { return stage_->kernel_description(); }

 private:
  Case case_;
  std::unique_ptr<Stage> stage_;
  HostDevice device_;
  AlignedBuffer m_, v_, gradient_;
  std::vector<double> chunk_squares_;
  std::vector<NormRange> norms_;
  std::vector<AdamwRange> updates_;
  std::int64_t step_ = 0;
};

/// torch_train.py in a process of its own, driven line by line.
class Peer {
 public:
  static std::unique_ptr<Peer> start(const Case& c, const std::string& precision, int threads) {
    int to[2];
    int from[2];
    if (pipe(to) != 0 || pipe(from) != 0) return nullptr;
    const pid_t pid = fork();
    if (pid == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      for (const int fd : {to[0], to[1], from[0], from[1]}) close(fd);
      // Debian's PyTorch is fastest with the OpenMP build of OpenBLAS.
      setenv("LD_LIBRARY_PATH", "/usr/lib/x86_64-linux-gnu/openblas-openmp", 1);
      setenv("OMP_NUM_THREADS", std::to_string(threads).c_str(), 1);
      // OpenBLAS takes processors that are newer than itself for ones without AVX.
      setenv("OPENBLAS_CORETYPE", __builtin_cpu_supports("avx512f") ? "SkylakeX" : "Haswell", 0);
      const auto text = [](std::int64_t v) { return std::to_string(v); };
      const std::vector<std::string> arguments = {"/usr/bin/python3",
                                                  TENAX_SOURCE_DIR "/bench/torch_train.py",
                                                  text(c.model.num_layers),
                                                  text(c.model.width),
                                                  text(c.model.num_heads),
                                                  text(c.model.vocabulary_size),
                                                  text(c.shape.sequence_length),
                                                  text(c.shape.microbatch_size),
                                                  text(threads),
                                                  precision};
      std::vector<char*> argv;
      for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    std::unique_ptr<Peer> peer(new Peer(pid, to[1], from[0]));
    const std::string hello = peer->line();
    if (!hello.starts_with("ready ")) return nullptr;
    peer->version_ = hello.substr(6);
    return peer;
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() { finish(); }

  double milliseconds_of_step() {
    if (write(to_, "\n", 1) != 1) return 0;
    return std::atof(line().c_str());
  }
  /// Ends it; its peak memory.
  std::string finish() {
    if (pid_ <= 0) return {};
    close(to_);
    const std::string memory = line();
    std::fclose(from_);
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return memory.starts_with("memory ") ? memory.substr(7) + " kB" : "unknown";
  }
  pid_t pid() const { return pid_; }
  const std::string& version() const { return version_; }

 private:
  Peer(pid_t pid, int to, int from) : pid_(pid), to_(to), from_(fdopen(from, "r")) {}
  std::string line() {
    char buffer[256] = {};
    if (std::fgets(buffer, sizeof buffer, from_) == nullptr) return {};
    return std::string(buffer, std::strcspn(buffer, "\n"));
  }

  pid_t pid_;
  int to_;
  std::FILE* from_;
  std::string version_;
};

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  const auto argument = [&](int i, const char* otherwise) {
    return std::string(argc > i ? argv[i] : otherwise);
  };
  const std::string name = argument(1, "small");
  const std::string precision = argument(2, "fp32");
  const int rounds = std::atoi(argument(3, "7").c_str());
  const int threads = std::atoi(argument(4, "2").c_str());
  const int steps = std::atoi(argument(5, "3").c_str());
  const auto chosen = case_of(name);
  if (!chosen || (precision != "fp32" && precision != "bf16") || rounds < 1 || threads < 1 ||
      steps < 1) {
    fmt::print(stderr,
               "usage: train_bench [124m|small|tiny [fp32|bf16 [ROUNDS [THREADS [STEPS]]]]]\n");
    return 2;
  }
  StageSettings settings;
  settings.num_threads = threads;
  settings.precision = precision == "bf16" ? Precision::kBf16 : Precision::kFp32;
  // Before any thread of ours: the peer is forked.
  const auto peer = Peer::start(*chosen, precision, threads);
  Trainer ours(*chosen, settings);
  const double tokens = chosen->shape.microbatch_size * chosen->shape.sequence_length;
  const double flops = flops_per_token(chosen->model, chosen->shape.sequence_length);
  fmt::print("{} {} on {} threads: {} ({:.1f} MFLOP a token); peer: {}\n", name, precision, threads,
             ours.kernels(), flops * 1e-6,
             peer ? "PyTorch " + peer->version() : "none (no python3-torch for /usr/bin/python3)");
  ours.milliseconds_of_step();
  if (peer) peer->milliseconds_of_step();
  std::vector<double> our_times;
  std::vector<double> peer_times;
  std::vector<double> peaks;
  for (int round = 0; round < rounds; ++round) {
    const CpuTimes before = cpu_times(peer ? peer->pid() : -1);
    const auto start = SteadyClock::now();
    std::vector<double> mine;
    std::vector<double> theirs;
    for (int i = 0; i < steps; ++i) mine.push_back(ours.milliseconds_of_step());
    for (int i = 0; i < steps && peer; ++i) theirs.push_back(peer->milliseconds_of_step());
    peaks.push_back(measure_sustained_flops(settings.isa, settings.precision, threads));
    const CpuTimes after = cpu_times(peer ? peer->pid() : -1);
    our_times.push_back(median(mine));
    if (peer) peer_times.push_back(median(theirs));
    const double foreign =
        (after.machine - before.machine - (after.own - before.own)) / seconds_since(start);
    fmt::print("round {}: {:.1f} tokens/s", round + 1, 1e3 * tokens / our_times.back());
    if (peer) fmt::print(", peer {:.1f}", 1e3 * tokens / peer_times.back());
    fmt::print("; other processes took {:.2f} cores\n", foreign);
    std::fflush(stdout);
  }
  const double rate = 1e3 * tokens / median(our_times);
  const double peak = median(peaks);
  fmt::print(
      "median {:.1f} tokens/s, {:.1f} GFLOP/s: {:.0f} % of the micro-kernel alone on {} threads "
      "({:.1f} GFLOP/s)\n",
      rate, rate * flops * 1e-9, 100 * rate * flops / peak, threads, peak * 1e-9);
  if (peer) {
    fmt::print("peer {:.1f} tokens/s; ratio {:.2f}\n", 1e3 * tokens / median(peer_times),
               median(peer_times) / median(our_times));
  }
  fmt::print("peak memory {}", peak_memory());
  if (peer) fmt::print("; peer {}", peer->finish());
  fmt::print("\n");
  for (const auto& [word, recompute] :
       {std::pair{"selective", Recompute::kSelective}, {"full", Recompute::kFull}}) {
    StageSettings again = settings;
    again.recompute = recompute;
    Trainer other(*chosen, again);
    other.milliseconds_of_step();
    std::vector<double> without;
    std::vector<double> with;
    for (int round = 0; round < rounds; ++round) {
      without.push_back(ours.milliseconds_of_step());
      with.push_back(other.milliseconds_of_step());
    }
    fmt::print("recomputation {}: {:.2f} x the time of none\n", word,
               median(with) / median(without));
  }
  return 0;
}
