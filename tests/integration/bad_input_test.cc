// What a user can get wrong: each gives one clear message and its exit code, at once.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>

#include "tests/support/run_under_test.h"

namespace tenax::testing {

namespace {

/// Starts a run that must be refused with `exit_code`, saying all of `words`.
void expect_refused(const std::vector<std::string>& overrides, int exit_code,
                    const std::vector<std::string>& words) {
  RunUnderTest run(shapes().front(), overrides);
  run.start();
  EXPECT_EQ(run.wait(), Ended({exit_code, 0}));
  for (const std::string& word : words)
    EXPECT_NE(run.output().find(word), std::string::npos) << word << " in: " << run.output();
  EXPECT_TRUE(run.processes().empty());
}

void expect_words(const CommandResult& result, int exit_code,
                  const std::vector<std::string>& words) {
  EXPECT_EQ(result.ended, Ended({exit_code, 0})) << result.output;
  for (const std::string& word : words)
    EXPECT_NE(result.output.find(word), std::string::npos) << word << " in: " << result.output;
}

}  // namespace

TEST(BadInput, AnUnknownKeyIsNamedWithTheNearestOne) {
  expect_refused({"trian.steps=3"}, 3, {"unknown key 'trian.steps'", "did you mean 'train.steps'"});
}

TEST(BadInput, AWrongTypeIsNamedWithTheRightOne) {
  expect_refused({"train.steps=many"}, 3, {"train.steps", "expected an integer", "many"});
}

TEST(BadInput, AllMistakesOfAConfigurationAreToldAtOnce) {
  expect_refused({"trian.steps=3", "train.steps=many", "optimizer.learning_rte=1"}, 3,
                 {"'trian.steps'", "train.steps: expected an integer", "'optimizer.learning_rte'"});
}

TEST(BadInput, AnImpossibleLayoutIsToldWithItsSums) {
  expect_refused(
      {"layout.data_parallel=3"}, 3,
      {"train.global_batch_size 8", "layout.data_parallel 3", "train.microbatch_size 2", "= 6"});
  expect_refused({"layout.pipeline_parallel=4"}, 3,
                 {"layout.pipeline_parallel 4", "model.layers 2"});
}

TEST(BadInput, AModelBeyondTheMachinesMemoryIsRefusedWithTheSums) {
  expect_refused({"model.width=262144", "model.layers=16", "model.heads=64"}, 3,
                 {"more memory than the machine's", "weights", "optimizer", "activations"});
}

TEST(BadInput, MissingTextIsNamed) {
  expect_refused({"data.text=[\"nothing/*.txt\"]"}, 3, {"nothing/*.txt", "matches no file"});
}

TEST(BadInput, AMissingRecipeIsNamed) {
  RunUnderTest run;
  std::filesystem::remove(run.recipe());
  run.start();
  EXPECT_EQ(run.wait(), Ended({3, 0}));
  EXPECT_NE(run.output().find("run.toml"), std::string::npos) << run.output();
}

TEST(BadInput, APortInUseIsNamed) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(fd, 1), 0);
  ASSERT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  expect_refused({"dashboard.port=" + port}, 4, {port, "dashboard.port"});
  ::close(fd);
}

TEST(BadInput, ADirectoryThatHoldsARunIsNotOverwritten) {
  RunUnderTest run(shapes().front(), {"train.steps=2"});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  run.start();
  EXPECT_EQ(run.wait(), Ended({3, 0}));
  EXPECT_NE(run.output().find("already holds a run"), std::string::npos) << run.output();
  EXPECT_NE(run.output().find("--resume"), std::string::npos) << run.output();
}

TEST(BadInput, ResumingWithAnotherConfigurationIsRefusedWithTheDifference) {
  RunUnderTest run(shapes().front(), {"train.steps=2"});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  expect_words(run.tenax({"train", run.recipe().string(), "--resume", "--run-dir",
                          run.directory().string(), "--set", "model.width=64"}),
               3, {"another configuration", "model.width: 32 there, 64 now"});
}

TEST(BadInput, ResumingWhereTheProcessorComputesOtherBitsIsRefusedUntilItIsWaived) {
  RunUnderTest run(shapes().front(), {"train.steps=2"});
  run.start();
  ASSERT_EQ(run.wait(), Ended({0, 0})) << run.output();
  const std::filesystem::path file = run.directory() / "run.json";
  std::ifstream in(file);
  std::string identity((std::istreambuf_iterator<char>(in)), {});
  const std::size_t at = identity.find("sums cut at");
  ASSERT_NE(at, std::string::npos) << identity;
  identity.replace(at, 11, "sums nowhere cut at");
  std::ofstream(file) << identity;
  std::vector<std::string> resume = {"train", "--resume",     "--run-dir", run.directory().string(),
                                     "--set", "train.steps=3"};
  expect_words(run.tenax(resume), 3, {"other bits", "sums nowhere cut at", "--other-arithmetic"});
  resume.push_back("--other-arithmetic");
  EXPECT_EQ(run.tenax(resume).ended, Ended({0, 0}));
}

TEST(BadInput, AnUnwritableDirectoryIsNamed) {
  RunUnderTest run;
  const std::filesystem::path file = run.folder() / "file";
  std::ofstream(file) << "not a folder";
  run.set_directory(file / "run");
  run.start();
  EXPECT_EQ(run.wait(), Ended({4, 0}));
  EXPECT_NE(run.output().find((file / "run").string()), std::string::npos) << run.output();
}

TEST(BadInput, CommandsOnAFolderWithoutARunSaySo) {
  RunUnderTest run;
  for (const char* command : {"status", "stop", "journal", "metrics", "hash"})
    expect_words(run.tenax({command, run.folder().string()}), 3, {"not a run directory"});
}

TEST(BadInput, AFolderInPlaceOfAFileIsAnErrorAndNoCrash) {
  RunUnderTest run;
  std::filesystem::create_directories(run.directory() / "run.json");
  expect_words(run.tenax({"status", run.directory().string()}), 4, {"run.json", "Is a directory"});
  const CommandResult detect = run.tenax({"detect", run.folder().string()});
  EXPECT_EQ(detect.ended.signal, 0) << detect.output;
  EXPECT_NE(detect.output.find(run.folder().string()), std::string::npos) << detect.output;
  expect_words(run.tenax({"train", run.folder().string()}), 4, {"Is a directory"});
}

TEST(BadInput, UnknownCommandsAndFlagsEndWithTwo) {
  RunUnderTest run;
  EXPECT_EQ(run.tenax({"trian"}).ended, Ended({2, 0}));
  EXPECT_EQ(run.tenax({"train", "--no-such-flag"}).ended, Ended({2, 0}));
  EXPECT_EQ(run.tenax({"--help"}).ended, Ended({0, 0}));
}

TEST(SecondSupervisor, IsRefusedWithTheNameOfTheHolder) {
  RunUnderTest run(shapes().front(), {"train.steps=300"});
  run.start();
  ASSERT_TRUE(run.wait_for_step(3));
  const std::string holder = "pid " + std::to_string(run.supervisor());
  const std::vector<std::string> resume = {"train", "--resume", "--run-dir",
                                           run.directory().string()};
  expect_words(run.tenax(resume), 4, {holder});
  EXPECT_TRUE(run.supervisor_runs());
  // One that stands still is not displaced either.
  ::kill(run.supervisor(), SIGSTOP);
  expect_words(run.tenax(resume), 4, {holder});
  ::kill(run.supervisor(), SIGCONT);
  const std::int64_t step = run.step();
  EXPECT_TRUE(run.wait_for_step(step + 3)) << run.output();
}

}  // namespace tenax::testing
