// Matrix products by three loops in the place of cuBLASLt, and no cuDNN: attention is the plain
// kernels'. Its heuristics choose the algorithm that TENAX_EMULATED_ALGORITHM names, 0 without it;
// odd ones sum in float32.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

#include "compute/cuda/bfloat16.h"
#include "compute/cuda/context.h"

namespace tenax::cuda {
namespace {

float element(const void* p, std::int32_t type, std::int64_t i) {
  return type == TENAX_CUDA_F32 ? static_cast<const float*>(p)[i]
                                : to_float(static_cast<const Bfloat16*>(p)[i]);
}

void set_element(void* p, std::int32_t type, std::int64_t i, float x) {
  if (type == TENAX_CUDA_F32)
    static_cast<float*>(p)[i] = x;
  else
    static_cast<Bfloat16*>(p)[i] = to_bfloat16(x);
}

double gelu_slope(double x) {
  const double root = std::sqrt(2 / M_PI);
  const double t = std::tanh(root * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x);
}

class LoopProducts final : public MatrixProducts {
 public:
  explicit LoopProducts(tenax_cuda_context& context) : context_(context) {}
  Outcome run(const tenax_cuda_matmul& c, float*, bool* fused) override {
    *fused = false;
    emulation::finish(context_.stream);
    const MatmulAlgorithm& algorithm = plan_for(matmul_key(c));
    for (std::int64_t i = 0; i < c.m; ++i)
      for (std::int64_t j = 0; j < c.n; ++j) {
        double sum = 0;
        for (std::int64_t l = 0; l < c.k; ++l) {
          sum += static_cast<double>(
                     element(c.a, c.type, c.transpose_a != 0 ? l * c.lda + i : i * c.lda + l)) *
                 static_cast<double>(
                     element(c.b, c.type, c.transpose_b != 0 ? j * c.ldb + l : l * c.ldb + j));
          if (algorithm.id % 2 != 0) sum = static_cast<double>(static_cast<float>(sum));
        }
        if (c.c != nullptr) sum += static_cast<double>(element(c.c, c.out_type, i * c.ldc + j));
        if (c.bias != nullptr) sum += static_cast<double>(element(c.bias, c.type, j));
        if (c.epilogue == TENAX_CUDA_EPILOGUE_GELU_AUX) {
          set_element(c.aux, c.type, i * c.ld_aux + j, static_cast<float>(sum));
          sum =
              0.5 * sum * (1 + std::tanh(std::sqrt(2 / M_PI) * (sum + 0.044715 * sum * sum * sum)));
        } else if (c.epilogue == TENAX_CUDA_EPILOGUE_DGELU) {
          sum *= gelu_slope(static_cast<double>(element(c.aux, c.type, i * c.ld_aux + j)));
        }
        set_element(c.d, c.out_type, i * c.ldd + j, static_cast<float>(sum));
      }
    return {};
  }
  std::string plans() const override {
    std::string text;
    for (const auto& [key, algorithm] : plans_) text += plan_line(key, algorithm) + "\n";
    return text;
  }
  bool use_plan(const std::string& line) override {
    std::string key;
    MatmulAlgorithm algorithm;
    if (!parse_plan_line(line, key, algorithm)) return false;
    wanted_[key] = algorithm;
    return true;
  }

 private:
  const MatmulAlgorithm& plan_for(const std::string& key) {
    const auto known = plans_.find(key);
    if (known != plans_.end()) return known->second;
    MatmulAlgorithm chosen;
    const auto wanted = wanted_.find(key);
    if (wanted != wanted_.end()) {
      chosen = wanted->second;
    } else if (const char* id = std::getenv("TENAX_EMULATED_ALGORITHM"); id != nullptr) {
      chosen.id = std::atoi(id);
    }
    return plans_.emplace(key, chosen).first->second;
  }

  tenax_cuda_context& context_;
  std::map<std::string, MatmulAlgorithm> plans_;
  std::map<std::string, MatmulAlgorithm> wanted_;
};

class NoCudnn final : public AttentionPlans {
 public:
  Outcome plan(const tenax_cuda_attention&, Direction) override {
    return {TENAX_CUDA_UNAVAILABLE, "there is no cuDNN in an emulation"};
  }
  Outcome run(const tenax_cuda_attention&, Direction) override { return {TENAX_CUDA_INTERNAL, ""}; }
  std::string plans() const override { return ""; }
  bool use_plan(const std::string&) override { return false; }
};

}  // namespace

std::unique_ptr<MatrixProducts> make_matrix_products(tenax_cuda_context& context) {
  return std::make_unique<LoopProducts>(context);
}

std::unique_ptr<AttentionPlans> make_attention_plans(tenax_cuda_context&) {
  return std::make_unique<NoCudnn>();
}

Outcome plan_attention_without_device(const tenax_cuda_attention&, Direction, const std::string&,
                                      std::string&) {
  return {TENAX_CUDA_UNAVAILABLE, "there is no cuDNN in an emulation"};
}

}  // namespace tenax::cuda

extern "C" {

tenax_cuda_status tenax_cuda_describe(char* json, size_t size) {
  tenax::cuda::copy_text("{}", json, size);
  return TENAX_CUDA_OK;
}

// For tests that load this library.
__attribute__((visibility("default"))) void tenax_emulation_break_context(int error) {
  tenax::emulation::break_context(error);
}
__attribute__((visibility("default"))) void tenax_emulation_fail_next_allocations(int count) {
  tenax::emulation::fail_next_allocations(count);
}
__attribute__((visibility("default"))) size_t tenax_emulation_allocated_bytes() {
  return tenax::emulation::allocated_bytes();
}
__attribute__((visibility("default"))) size_t tenax_emulation_copied_bytes(int to_host) {
  return tenax::emulation::copied_bytes(to_host != 0);
}

__attribute__((visibility("default"))) size_t tenax_emulation_num_launches() {
  return tenax::emulation::num_launches();
}

}  // extern "C"
