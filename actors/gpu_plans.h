// The algorithms that a run's GPUs chose for their matrix products and attention: a file for each
// worker in the run directory, gpu_plans/<worker>.txt, so that whoever goes on with the run takes
// the same ones and gives the same bits (T1). The first line is the run's arithmetic (GPU, driver,
// libraries), each other "<shape> = <algorithm>" as the plugin writes it. Confined to the engine's
// thread; gpu_plans_of() may be called from any.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include "common/result.h"

namespace tenax::actors {

/// Lines of all workers whose first line is `arithmetic`; where they differ in a shape, those of
/// `worker`, then of the first by name. Files of another arithmetic count as none.
std::string gpu_plans_of(const std::filesystem::path& folder, const std::string& arithmetic,
                         const std::string& worker = "");

class GpuPlans {
 public:
  GpuPlans(std::filesystem::path folder, std::string worker, std::string arithmetic)
      : folder_(std::move(folder)),
        worker_(std::move(worker)),
        arithmetic_(std::move(arithmetic)) {}

  /// What the run chose so far; keep() holds the GPU to it.
  const std::string& take();
  /// Writes down what this worker's GPU uses, where something is new. kUnsupported, naming the
  /// shape, where it is another algorithm than the run's.
  Status keep(const std::string& in_use);

 private:
  using Lines = std::map<std::string, std::string>;  // algorithm by shape

  const std::filesystem::path folder_;
  const std::string worker_;
  const std::string arithmetic_;
  std::string taken_;
  Lines known_;
  std::string kept_;
};

}  // namespace tenax::actors
