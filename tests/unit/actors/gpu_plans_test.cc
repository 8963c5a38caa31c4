#include "actors/gpu_plans.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace tenax::actors {
namespace {

class GpuPlansTest : public ::testing::Test {
 protected:
  GpuPlansTest() { std::filesystem::remove_all(folder_); }
  ~GpuPlansTest() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& worker, const std::string& text) {
    std::filesystem::create_directories(folder_);
    std::ofstream(folder_ / (worker + ".txt")) << text;
  }
  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("tenax-gpu-plans-" + std::to_string(getpid()));
};

TEST_F(GpuPlansTest, AWorkerThatComesLaterTakesWhatTheRunChose) {
  EXPECT_EQ(gpu_plans_of(folder_, "H200"), "");
  GpuPlans first(folder_, "a0.0", "H200");
  EXPECT_EQ(first.take(), "");
  ASSERT_TRUE(first.keep("matmul m1 = id 5\nattention t7 = engine 3\n"));
  GpuPlans second(folder_, "a0.1", "H200");
  EXPECT_EQ(second.take(), "attention t7 = engine 3\nmatmul m1 = id 5\n");
  ASSERT_TRUE(second.keep("matmul m1 = id 5\nmatmul m2 = id 6\n"));
  EXPECT_EQ(gpu_plans_of(folder_, "H200"),
            "attention t7 = engine 3\nmatmul m1 = id 5\nmatmul m2 = id 6\n");
}

TEST_F(GpuPlansTest, WhatIsNotInUseYetIsNotForgotten) {
  write("a0.0", "H200\nmatmul eval = id 9\n");
  GpuPlans plans(folder_, "a0.0", "H200");
  EXPECT_EQ(plans.take(), "matmul eval = id 9\n");
  ASSERT_TRUE(plans.keep("matmul m1 = id 5\n"));
  EXPECT_EQ(gpu_plans_of(folder_, "H200"), "matmul eval = id 9\nmatmul m1 = id 5\n");
}

TEST_F(GpuPlansTest, AnAlgorithmThatIsNotTheRunsIsRefusedByName) {
  write("a0.0", "H200\nmatmul m1 = id 5\n");
  GpuPlans plans(folder_, "a0.1", "H200");
  plans.take();
  const Status kept = plans.keep("matmul m1 = id 6\n");
  ASSERT_FALSE(kept);
  EXPECT_EQ(kept.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(kept.error().message.find("matmul m1: id 5 was chosen, it uses id 6"),
            std::string::npos)
      << kept.error().message;
  EXPECT_EQ(gpu_plans_of(folder_, "H200"), "matmul m1 = id 5\n");
}

TEST_F(GpuPlansTest, ThoseOfAnotherStackCountAsNone) {
  write("a0.0", "H100\nmatmul m1 = id 5\n");
  GpuPlans plans(folder_, "a0.1", "H200");
  EXPECT_EQ(plans.take(), "");
  EXPECT_TRUE(plans.keep("matmul m1 = id 6\n"));
}

TEST_F(GpuPlansTest, WhereWorkersDifferAWorkersOwnFileComesFirst) {
  write("a0.0", "H200\nmatmul m1 = id 5\n");
  write("a0.1", "H200\nmatmul m1 = id 6\n");
  EXPECT_EQ(gpu_plans_of(folder_, "H200"), "matmul m1 = id 5\n");
  EXPECT_EQ(gpu_plans_of(folder_, "H200", "a0.1"), "matmul m1 = id 6\n");
}

}  // namespace
}  // namespace tenax::actors
