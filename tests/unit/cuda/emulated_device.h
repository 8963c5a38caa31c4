// The CUDA plugin over an emulated device, and what the tests of the stage on it share. The kernels
// are the product's; what computes is this machine, so device memory can be read as it is.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "compute/cuda_device.h"
#include "compute/cuda_stage.h"
#include "tests/unit/compute/tiny_models.h"

namespace tenax::compute {

inline std::shared_ptr<const CudaPlugin> emulated_plugin() {
  static const auto plugin = [] {
    auto loaded = CudaPlugin::load({TENAX_EMULATED_CUDA});
    if (!loaded) throw std::runtime_error(loaded.error().message);
    return *loaded;
  }();
  return plugin;
}

inline std::shared_ptr<CudaDevice> emulated_device(bool reproducible = false) {
  auto device = CudaDevice::open(emulated_plugin(), {0, reproducible});
  if (!device) throw std::runtime_error(device.error().message);
  return *device;
}

/// A function of the emulation itself, by its name.
template <class Function>
Function* emulation_function(const char* name) {
  void* const library = dlopen(TENAX_EMULATED_CUDA, RTLD_NOW | RTLD_LOCAL);
  auto* const function = reinterpret_cast<Function*>(dlsym(library, name));
  if (function == nullptr) throw std::runtime_error(name);
  return function;
}

inline StageSettings on_emulated_device(bool bfloat16 = false) {
  StageSettings settings;
  settings.cuda = emulated_device();
  settings.precision = bfloat16 ? Precision::kBf16 : Precision::kFp32;
  return settings;
}

/// The tests' values of a stage, those of matrices times `weight_scale`.
inline std::vector<float> device_test_values(Stage& stage, float weight_scale = 1) {
  std::vector<float> host(stage.values().size());
  for (const StageParameter& p : stage.parameters())
    for (std::int64_t i = 0; i < p.size; ++i)
      host[static_cast<std::size_t>(p.offset + i)] =
          test_value(p.spec, i) *
          (p.spec.init.kind == InitRule::Kind::kNormal ? weight_scale : 1.0f);
  return host;
}

inline std::unique_ptr<Stage> make_device_stage(const ModelOptions& options, const StageSpec& spec,
                                                const BatchShape& shape,
                                                const StageSettings& settings, int num_slots = 1) {
  auto stage = CudaStage::create(settings.cuda, options, spec, shape, num_slots, settings);
  if (!stage) throw std::runtime_error(stage.error().message);
  (*stage)->device()->write(device_test_values(**stage), (*stage)->values());
  (*stage)->values_changed();
  return *std::move(stage);
}

/// Forward and backward of the whole model, the gradient brought to the host.
inline Trained train_on_device(Stage& stage, const TestBatch& batch, int slot = 0) {
  DeviceBuffer gradient = stage.device()->allocate(stage.gradient_size()).value();
  stage.forward(slot, batch.inputs(), {}, {});
  stage.backward(slot, {}, {}, gradient.span());
  Trained result;
  result.gradient.resize(stage.gradient_size());
  stage.device()->read(gradient.span(), result.gradient);
  result.loss = stage.loss(slot);
  const auto samples = stage.sample_losses(slot);
  result.sample_losses.assign(samples.begin(), samples.end());
  const Status status = stage.device()->status();
  EXPECT_TRUE(status) << status.error().message;
  return result;
}

}  // namespace tenax::compute
