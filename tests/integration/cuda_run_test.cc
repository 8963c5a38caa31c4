// Whole runs whose workers compute through the CUDA plugin, on the emulated device: killed workers
// and lost devices end with the undisturbed weights, and the losses are the CPU's.
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "compute/cuda/tenax_cuda.h"
#include "tests/support/run_under_test.h"

namespace tenax::testing {
namespace {

/// An emulated device is slow: few and short samples.
std::vector<std::string> short_run(const std::string& device) {
  return {"train.device=" + device,    "train.steps=6",           "train.sequence_length=12",
          "train.global_batch_size=4", "train.microbatch_size=1", "train.eval_interval=0",
          "checkpoint.interval=2"};
}

/// Names the plugin, and stubs of the libraries it opens, for the programs that a test starts.
class CudaRun : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("TENAX_CUDA_PLUGIN", TENAX_EMULATED_CUDA, 1);
    setenv("TENAX_CUDA_LIBS", TENAX_STUB_LIBRARIES, 1);
  }
  void TearDown() override {
    unsetenv("TENAX_CUDA_PLUGIN");
    unsetenv("TENAX_CUDA_LIBS");
    unsetenv("TENAX_STUB_NVML");
    unsetenv("TENAX_EMULATED_FAULT");
    unsetenv("TENAX_EMULATED_ALGORITHM");
    unsetenv("TENAX_EMULATED_DEVICES");
    unsetenv("TENAX_EMULATED_CONTEXTS");
  }
};

std::vector<double> losses(const RunUnderTest& run) {
  std::istringstream csv(run.tenax({"metrics", run.directory().string(), "--csv"}).output);
  std::vector<double> values;
  std::string line;
  std::getline(csv, line);  // the heading
  while (std::getline(csv, line)) {
    const auto comma = line.find(',');
    if (comma != std::string::npos) values.push_back(std::atof(line.c_str() + comma + 1));
  }
  return values;
}

/// float32 with sums in another order: 1e-4 over the first steps.
void expect_same_curve(const RunUnderTest& on_gpu, const RunUnderTest& on_cpu) {
  const std::vector<double> expected = losses(on_cpu);
  const std::vector<double> actual = losses(on_gpu);
  ASSERT_EQ(expected.size(), 6u);
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(actual[i], expected[i], 1e-4 * expected[i]) << "step " << i + 1;
}

std::string text_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// What all processes of a run logged.
std::string logs_of(const RunUnderTest& run) {
  std::string text;
  for (const auto& entry : std::filesystem::directory_iterator(run.directory() / "logs"))
    text += text_of(entry.path());
  return text;
}

TEST_F(CudaRun, HasTheLossesOfTheCpu) {
  RunUnderTest on_gpu(shapes().front(), short_run("cuda"));
  on_gpu.start();
  ASSERT_EQ(on_gpu.wait(), Ended({0, 0})) << on_gpu.output();
  RunUnderTest on_cpu(shapes().front(), short_run("cpu"));
  on_cpu.start();
  ASSERT_EQ(on_cpu.wait(), Ended({0, 0})) << on_cpu.output();
  expect_same_curve(on_gpu, on_cpu);
  EXPECT_NE(
      logs_of(on_gpu).find("what ranks exchange goes through the hosts' memory, which is slower: "
                           "ranks 0 and 1 share the GPU 0000:00:00.0"),
      std::string::npos)
      << logs_of(on_gpu);
}

TEST_F(CudaRun, HoldsTheMemoryThatWasPlanned) {
  RunUnderTest run({"1x1", 1, 1, 1, 2, 8}, short_run("cuda"));
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const auto number_after = [](const std::string& text, const std::string& words) {
    const auto at = text.find(words);
    return at == std::string::npos ? 0.0 : std::atof(text.c_str() + at + words.size());
  };
  // The emulated device's products need no workspace; scratch is taken by the mebibyte.
  const double plan = 1e6 * number_after(run.output(), "memory    ") - TENAX_CUDA_WORKSPACE_BYTES;
  const double held = number_after(logs_of(run), "held at most ");
  EXPECT_GT(plan, 0) << run.output();
  EXPECT_NEAR(held, plan, 2 << 20) << logs_of(run);
  EXPECT_GT(held, plan - 0.1e6) << "something planned was not counted";
}

TEST_F(CudaRun, OnTwoGpusGivesTheWorkersOfTwoAgentsOneEach) {
  RunUnderTest run({"2x1 on two agents", 2, 1, 2, 2, 8}, short_run("cuda"));
  setenv("TENAX_EMULATED_DEVICES", "2", 1);
  // The stub of NCCL is for the ranks of one process: what is found here is none.
  std::filesystem::create_symlink(std::filesystem::path(TENAX_STUB_LIBRARIES) / "libnvidia-ml.so.1",
                                  run.folder() / "libnccl.so.2");
  setenv("TENAX_CUDA_LIBS", run.folder().c_str(), 1);
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const std::string logs = logs_of(run);
  EXPECT_NE(logs.find("GPU 0 (emulated): held at most "), std::string::npos) << logs;
  EXPECT_NE(logs.find("GPU 1 (emulated): held at most "), std::string::npos) << logs;
  EXPECT_EQ(logs.find("share the GPU"), std::string::npos) << logs;
}

TEST_F(CudaRun, HasContextsInItsWorkersAlone) {
  RunUnderTest run({"1x1", 1, 1, 1, 2, 8}, short_run("cuda"));
  const std::filesystem::path contexts = run.folder() / "contexts";
  setenv("TENAX_EMULATED_CONTEXTS", contexts.c_str(), 1);
  run.start();
  ASSERT_TRUE(run.wait_for_step(2));
  const std::vector<RunProcess> workers = run.workers();
  ASSERT_EQ(workers.size(), 1u);
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  std::istringstream pids(text_of(contexts));
  std::set<pid_t> seen;
  for (pid_t pid = 0; pids >> pid;) seen.insert(pid);
  EXPECT_EQ(seen, std::set<pid_t>{workers[0].pid}) << "planning takes no device memory";
}

TEST_F(CudaRun, OfWhichAWorkerDiesEndsWithTheUndisturbedWeights) {
  const std::string hash = undisturbed_hash(shapes().front(), short_run("cuda"));
  RunUnderTest run(shapes().front(), short_run("cuda"));
  run.start();
  ASSERT_TRUE(run.wait_for_step(2));
  const std::vector<RunProcess> workers = run.workers();
  ASSERT_FALSE(workers.empty());
  ::kill(workers.back().pid, SIGKILL);
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
}

TEST_F(CudaRun, InAnotherLayoutEndsWithTheSameWeights) {  // T2
  const std::string hash = undisturbed_hash(shapes().front(), short_run("cuda"));
  EXPECT_EQ(undisturbed_hash({"1x1", 1, 1, 1, 2, 8}, short_run("cuda")), hash);
}

TEST_F(CudaRun, InPartsWithDropoutAndDocumentsIsTheCpusAndSurvivesAKill) {
  const Shape in_parts{"2x1 in parts", 2, 1, 1, 2, 8};
  const auto options = [](const std::string& device) {
    std::vector<std::string> all = short_run(device);
    for (const char* option : {"layout.tensor_parallel=2", "data.packing=\"documents\"",
                               "train.dropout_embedding=0.1", "train.dropout_attention=0.1",
                               "train.dropout_residual=0.1", "train.recompute=\"selective\""})
      all.emplace_back(option);
    return all;
  };
  RunUnderTest on_cpu(in_parts, options("cpu"));
  on_cpu.start();
  ASSERT_EQ(on_cpu.wait(), Ended({0, 0})) << on_cpu.output();
  RunUnderTest undisturbed(in_parts, options("cuda"));
  undisturbed.start();
  ASSERT_EQ(undisturbed.wait(), Ended({0, 0})) << undisturbed.output();
  expect_same_curve(undisturbed, on_cpu);
  RunUnderTest run(in_parts, options("cuda"));
  run.start();
  ASSERT_TRUE(run.wait_for_step(2));
  const std::vector<RunProcess> workers = run.workers();
  ASSERT_EQ(workers.size(), 4u);
  ::kill(workers[1].pid, SIGKILL);
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), undisturbed.hash());
}

TEST_F(CudaRun, OfWhichADeviceIsLostEndsWithTheUndisturbedWeights) {
  const std::string hash = undisturbed_hash(shapes().front(), short_run("cuda"));
  RunUnderTest run(shapes().front(), short_run("cuda"));
  const std::string fault = (run.folder() / "fault").string();
  setenv("TENAX_EMULATED_FAULT", fault.c_str(), 1);
  const std::string nvml = (run.folder() / "nvml").string();
  setenv("TENAX_STUB_NVML", nvml.c_str(), 1);
  std::ofstream(nvml) << "0 0 0 0\n";
  run.start();
  ASSERT_TRUE(run.wait_for_step(2));
  std::ofstream(nvml) << "1 0 0 0\n79\n";
  std::ofstream(fault) << "now\n";
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_FALSE(std::filesystem::exists(fault)) << "nobody had the fault";
  EXPECT_EQ(run.hash(), hash);
  EXPECT_NE(run.journal().find("exited with code 71"), std::string::npos) << run.journal();
  // The reason, with what NVML says beside it, is there before the worker is gone.
  const std::string journal = run.journal();
  const auto told = journal.find("fault: GPU 0 (emulated): ");
  EXPECT_NE(told, std::string::npos) << journal;
  EXPECT_LT(told, journal.find("exited with code 71")) << journal;
  EXPECT_NE(journal.find("; the driver reports Xid 79; 1 uncorrected memory errors since", told),
            std::string::npos)
      << journal;
  EXPECT_NE(journal.find("lost its GPU: GPU 0 (emulated)"), std::string::npos) << journal;
}

TEST_F(CudaRun, WhoseGpuIsInBadHealthSaysSoAndGoesOn) {
  RunUnderTest run({"1x1", 1, 1, 1, 2, 8}, short_run("cuda"));
  const std::string nvml = (run.folder() / "nvml").string();
  setenv("TENAX_STUB_NVML", nvml.c_str(), 1);
  std::ofstream(nvml) << "0 5 0 64\n";
  run.start();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const std::string journal = run.journal();
  EXPECT_NE(journal.find("health: GPU 0 (emulated): 5 corrected memory errors"), std::string::npos)
      << journal;
  EXPECT_NE(journal.find("its clock is held down: hardware thermal slowdown"), std::string::npos)
      << journal;
  const std::string status = run.tenax({"status", run.directory().string()}).output;
  EXPECT_NE(status.find("of agent 0 slot 0: health: GPU 0 (emulated)"), std::string::npos)
      << status;
}

/// A run with a fault in step 4 ends with the weights of one without; returns its journal.
std::string journal_of_fault(const std::string& kind, std::vector<std::string> more = {}) {
  const std::string hash = undisturbed_hash(shapes().front(), short_run("cuda"));
  std::vector<std::string> overrides = short_run("cuda");
  overrides.insert(overrides.end(),
                   {"faults.gpu_step=4", "faults.rank=1", "faults.gpu_kind=" + kind});
  overrides.insert(overrides.end(), more.begin(), more.end());
  RunUnderTest run(shapes().front(), overrides);
  run.start();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  return run.journal();
}

TEST_F(CudaRun, ThatStoresOutOfBoundsLosesAWorkerAndEndsWithTheUndisturbedWeights) {
  const std::string journal = journal_of_fault("bad_store");
  EXPECT_NE(journal.find("fault: GPU 0 (emulated): "), std::string::npos) << journal;
  EXPECT_NE(journal.find("rank 1 lost its GPU"), std::string::npos) << journal;
  EXPECT_NE(journal.find("exited with code 71"), std::string::npos) << journal;
  EXPECT_EQ(journal.find("generation 3"), std::string::npos) << "it struck once: " << journal;
}

TEST_F(CudaRun, ThatRunsOutOfMemoryGoesOnFromMemoryWithTheUndisturbedWeights) {
  const std::string journal = journal_of_fault("out_of_memory");
  EXPECT_NE(journal.find("out of memory: GPU 0 (emulated), a fault on purpose: cudaMalloc: needs "),
            std::string::npos)
      << journal;
  EXPECT_NE(journal.find("; this worker holds "), std::string::npos) << journal;
  EXPECT_NE(journal.find(", planned for it are "), std::string::npos) << journal;
  EXPECT_EQ(journal.find("exited with"), std::string::npos) << journal;
}

TEST_F(CudaRun, WhoseKernelHangsForAWhileWaitsForIt) {
  const std::string journal = journal_of_fault("hang", {"faults.gpu_hang_seconds=2.0"});
  EXPECT_EQ(journal.find("generation 2"), std::string::npos) << journal;
}

TEST_F(CudaRun, WhoseKernelHangsTooLongLosesAWorkerAndEndsWithTheUndisturbedWeights) {
  const std::string journal =
      journal_of_fault("hang", {"faults.gpu_hang_seconds=60.0", "supervision.hang_timeout=10s",
                                "supervision.abort_timeout=500ms"});
  EXPECT_NE(journal.find("the generation hangs"), std::string::npos) << journal;
  EXPECT_NE(journal.find("killed by signal 9"), std::string::npos) << journal;
}

TEST_F(CudaRun, InBfloat16IsReproducedAfterAKill) {
  std::vector<std::string> overrides = short_run("cuda");
  overrides.push_back("train.precision=bf16");
  const std::string hash = undisturbed_hash(shapes().front(), overrides);
  EXPECT_NE(hash, undisturbed_hash(shapes().front(), short_run("cuda")));
  RunUnderTest run(shapes().front(), overrides);
  run.start();
  ASSERT_TRUE(run.wait_for_step(3));
  run.kill_everything();
  run.wait();
  run.resume();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
}

TEST_F(CudaRun, AlgorithmsChosenOnceAreTakenAgain) {  // T1
  const auto trained = [] {
    RunUnderTest run(shapes().front(), short_run("cuda"));
    run.start();
    EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
    return run.hash();
  };
  const std::string with_other_algorithms = trained();
  setenv("TENAX_EMULATED_ALGORITHM", "1", 1);  // rounds its sums at each term
  const std::string hash = trained();
  EXPECT_NE(hash, with_other_algorithms);

  RunUnderTest run(shapes().front(), short_run("cuda"));
  run.start();
  ASSERT_TRUE(run.wait_for_step(3));
  run.kill_everything();
  run.wait();
  unsetenv("TENAX_EMULATED_ALGORITHM");  // what heuristics would choose now
  run.resume();
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  EXPECT_EQ(run.hash(), hash);
  const std::string plans = text_of(run.directory() / "gpu_plans" / "a0.0.txt");
  EXPECT_TRUE(plans.starts_with("fp32 products on emulated sm_90, driver 13000")) << plans;
  EXPECT_NE(plans.find("\nmatmul f32-f32 nt m12 "), std::string::npos) << plans;
  EXPECT_NE(plans.find(" = id 1 "), std::string::npos) << plans;
  EXPECT_EQ(plans.find(" = id 0 "), std::string::npos) << plans;
  const auto checkpoint = run.json_lines("checkpoint show");
  ASSERT_EQ(checkpoint.size(), 1u);
  const std::string arithmetic = checkpoint[0].at("arithmetic");
  EXPECT_NE(arithmetic.find("\nmatmul f32-f32 nt m12 "), std::string::npos) << arithmetic;
  EXPECT_NE(arithmetic.find(" = id 1 "), std::string::npos) << arithmetic;
}

TEST_F(CudaRun, OnAnotherStackSaysThatBitsWillDiffer) {
  RunUnderTest run(shapes().front(), short_run("cuda"));
  run.start();
  ASSERT_TRUE(run.wait_for_step(3));
  run.kill_everything();
  run.wait();
  setenv("TENAX_EMULATED_DRIVER", "13010", 1);
  run.resume();
  EXPECT_EQ(run.wait(), Ended({3, 0}));
  EXPECT_NE(run.output().find("driver 13010"), std::string::npos) << run.output();
  EXPECT_NE(run.output().find("driver 13000"), std::string::npos) << run.output();
  EXPECT_NE(run.output().find("other bits"), std::string::npos) << run.output();
  run.resume({"--other-arithmetic"});
  EXPECT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const std::string plans = text_of(run.directory() / "gpu_plans" / "a0.0.txt");
  EXPECT_NE(plans.find("driver 13010"), std::string::npos) << "chosen anew: " << plans;
  unsetenv("TENAX_EMULATED_DRIVER");
}

TEST_F(CudaRun, WithoutAGpuIsRefusedWithTheReason) {
  setenv("TENAX_CUDA_PLUGIN", "/nowhere/libtenax_cuda.so", 1);
  RunUnderTest run(shapes().front(), short_run("cuda"));
  run.start();
  EXPECT_EQ(run.wait(), Ended({3, 0}));
  EXPECT_NE(run.output().find("train.device = \"cuda\": the CUDA plugin was not found (looked at "
                              "/nowhere/libtenax_cuda.so)"),
            std::string::npos)
      << run.output();
  EXPECT_NE(run.output().find("train.device = \"cpu\" trains on the processor"), std::string::npos)
      << run.output();
  EXPECT_FALSE(std::filesystem::exists(run.directory() / "run.json"));
}

}  // namespace
}  // namespace tenax::testing
