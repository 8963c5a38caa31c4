#include "compute/cuda/matmul.h"

#include <cublasLt.h>

#include <map>
#include <utility>
#include <vector>

#include "compute/cuda/context.h"
#include "compute/cuda/library.h"

namespace tenax::cuda {
namespace {

static_assert(CUBLAS_STATUS_NOT_INITIALIZED == 1 && CUBLAS_STATUS_ALLOC_FAILED == 3 &&
              CUBLAS_STATUS_INVALID_VALUE == 7 && CUBLAS_STATUS_ARCH_MISMATCH == 8 &&
              CUBLAS_STATUS_EXECUTION_FAILED == 13 && CUBLAS_STATUS_NOT_SUPPORTED == 15);

/// The functions used, by their own names.
struct CublasLt {
  Library library{"libcublasLt.so.13"};
  decltype(cublasLtCreate)* create = nullptr;
  decltype(cublasLtDestroy)* destroy = nullptr;
  decltype(cublasLtMatmul)* matmul = nullptr;
  decltype(cublasLtMatmulDescCreate)* desc_create = nullptr;
  decltype(cublasLtMatmulDescDestroy)* desc_destroy = nullptr;
  decltype(cublasLtMatmulDescSetAttribute)* desc_set = nullptr;
  decltype(cublasLtMatrixLayoutCreate)* layout_create = nullptr;
  decltype(cublasLtMatrixLayoutDestroy)* layout_destroy = nullptr;
  decltype(cublasLtMatmulPreferenceCreate)* preference_create = nullptr;
  decltype(cublasLtMatmulPreferenceDestroy)* preference_destroy = nullptr;
  decltype(cublasLtMatmulPreferenceSetAttribute)* preference_set = nullptr;
  decltype(cublasLtMatmulAlgoGetHeuristic)* heuristic = nullptr;
  decltype(cublasLtMatmulAlgoInit)* algo_init = nullptr;
  decltype(cublasLtMatmulAlgoCheck)* algo_check = nullptr;
  decltype(cublasLtMatmulAlgoConfigGetAttribute)* config_get = nullptr;
  decltype(cublasLtMatmulAlgoConfigSetAttribute)* config_set = nullptr;

  /// Loads them; what is missing is left in `library`.
  bool load() {
    library.load("cublasLtCreate", create);
    library.load("cublasLtDestroy", destroy);
    library.load("cublasLtMatmul", matmul);
    library.load("cublasLtMatmulDescCreate", desc_create);
    library.load("cublasLtMatmulDescDestroy", desc_destroy);
    library.load("cublasLtMatmulDescSetAttribute", desc_set);
    library.load("cublasLtMatrixLayoutCreate", layout_create);
    library.load("cublasLtMatrixLayoutDestroy", layout_destroy);
    library.load("cublasLtMatmulPreferenceCreate", preference_create);
    library.load("cublasLtMatmulPreferenceDestroy", preference_destroy);
    library.load("cublasLtMatmulPreferenceSetAttribute", preference_set);
    library.load("cublasLtMatmulAlgoGetHeuristic", heuristic);
    library.load("cublasLtMatmulAlgoInit", algo_init);
    library.load("cublasLtMatmulAlgoCheck", algo_check);
    library.load("cublasLtMatmulAlgoConfigGetAttribute", config_get);
    library.load("cublasLtMatmulAlgoConfigSetAttribute", config_set);
    return library.missing().empty();
  }
};

cudaDataType_t data_type(std::int32_t type) {
  return type == TENAX_CUDA_F32 ? CUDA_R_32F : CUDA_R_16BF;
}

/// Calls f(attribute, pointer to the member, size) for all that fixes an algorithm.
template <class F>
void for_each_attribute(MatmulAlgorithm& a, F&& f) {
  f(CUBLASLT_ALGO_CONFIG_TILE_ID, &a.tile, sizeof a.tile);
  f(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &a.split_k, sizeof a.split_k);
  f(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &a.reduction, sizeof a.reduction);
  f(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, &a.swizzle, sizeof a.swizzle);
  f(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &a.custom, sizeof a.custom);
  f(CUBLASLT_ALGO_CONFIG_STAGES_ID, &a.stages, sizeof a.stages);
  f(CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, &a.inner_shape, sizeof a.inner_shape);
  f(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &a.cluster_shape, sizeof a.cluster_shape);
}

/// One shape, ready to run again and again.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, added = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  MatmulAlgorithm description;
};

class CublasLtProducts final : public MatrixProducts {
 public:
  explicit CublasLtProducts(tenax_cuda_context& context) : context_(context) {}

  ~CublasLtProducts() override {
    for (auto& [key, plan] : plans_) release(plan);
    if (workspace_ != nullptr) static_cast<void>(context_.release(workspace_));
    if (handle_ != nullptr) static_cast<void>(lt_.destroy(handle_));
  }

  Outcome run(const tenax_cuda_matmul& call, float* bias_scratch, bool* fused) override {
    if (Outcome opened = open(); !opened.ok()) return opened;
    *fused = false;
    tenax_cuda_matmul c = call;
    // A plan that makes the bias gradient, where the library has one.
    if (c.bias_gradient != nullptr && !find_plan(c).ok()) {
      without_bias_gradient_[matmul_key(c)] = true;
      c.bias_gradient = nullptr;
    }
    if (c.bias_gradient != nullptr) {
      c.bias_gradient = bias_scratch;
      *fused = true;
    }
    if (Outcome found = find_plan(c); !found.ok()) return found;
    const Plan& plan = plans_.at(matmul_key(c));
    if (Outcome set = set_pointers(plan, c); !set.ok()) return set;
    const float one = 1;
    const float beta = c.c != nullptr ? 1.0F : 0.0F;
    return outcome(
        lt_.matmul(handle_, plan.operation, &one, c.b, plan.first, c.a, plan.second, &beta,
                   c.c != nullptr ? c.c : c.d, c.c != nullptr ? plan.added : plan.out, c.d,
                   plan.out, &plan.algorithm, workspace_, workspace_bytes_, context_.stream),
        "cublasLtMatmul " + matmul_key(c));
  }

  std::string plans() const override {
    std::string text;
    for (const auto& [key, plan] : plans_) text += plan_line(key, plan.description) + "\n";
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
  static Outcome outcome(cublasStatus_t status, const std::string& doing) {
    const tenax_cuda_status result = status_of_cublas(status);
    if (result == TENAX_CUDA_OK) return {};
    return {result, doing + ": cuBLAS status " + std::to_string(status)};
  }

  Outcome open() {
    if (handle_ != nullptr) return {};
    if (!lt_.load()) return {TENAX_CUDA_UNAVAILABLE, lt_.library.missing()};
    if (Outcome created = outcome(lt_.create(&handle_), "cublasLtCreate"); !created.ok()) {
      handle_ = nullptr;
      return created;
    }
    const std::int64_t bytes = context_.options.workspace_bytes > 0
                                   ? context_.options.workspace_bytes
                                   : TENAX_CUDA_WORKSPACE_BYTES;
    if (context_.check(context_.allocate(&workspace_, static_cast<std::uint64_t>(bytes)),
                       "cudaMalloc of the workspace for matrix products") != TENAX_CUDA_OK) {
      workspace_ = nullptr;
      return {TENAX_CUDA_OUT_OF_MEMORY, context_.message};
    }
    workspace_bytes_ = static_cast<std::size_t>(bytes);
    return {};
  }

  void release(Plan& plan) {
    for (cublasLtMatrixLayout_t layout : {plan.first, plan.second, plan.added, plan.out})
      if (layout != nullptr) static_cast<void>(lt_.layout_destroy(layout));
    if (plan.operation != nullptr) static_cast<void>(lt_.desc_destroy(plan.operation));
    plan = {};
  }

  Outcome find_plan(const tenax_cuda_matmul& c) {
    const std::string key = matmul_key(c);
    if (plans_.contains(key)) return {};
    if (without_bias_gradient_.contains(key))
      return {TENAX_CUDA_UNSUPPORTED, "no product of this shape makes its bias gradient"};
    Plan plan;
    Outcome made = make_plan(c, key, plan);
    if (!made.ok()) {
      release(plan);
      return made;
    }
    plans_.emplace(key, plan);
    return {};
  }

  template <class T>
  cublasStatus_t set(Plan& plan, cublasLtMatmulDescAttributes_t attribute, const T& value) {
    return lt_.desc_set(plan.operation, attribute, &value, sizeof value);
  }

  static std::uint32_t epilogue_of(const tenax_cuda_matmul& c) {
    const bool bias = c.bias != nullptr;
    switch (c.epilogue) {
      case TENAX_CUDA_EPILOGUE_GELU_AUX:
        return bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
      case TENAX_CUDA_EPILOGUE_DGELU:
        return CUBLASLT_EPILOGUE_DGELU;
      default:
        if (c.bias_gradient != nullptr) return CUBLASLT_EPILOGUE_BGRADB;
        return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    }
  }

  Outcome make_plan(const tenax_cuda_matmul& c, const std::string& key, Plan& plan) {
    std::vector<cublasStatus_t> steps;
    const ColumnMajorProduct p = column_major(c);
    steps.push_back(lt_.desc_create(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    if (plan.operation == nullptr) return outcome(steps.back(), "cublasLtMatmulDescCreate");
    const cublasOperation_t first = p.transpose_first ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = p.transpose_second ? CUBLAS_OP_T : CUBLAS_OP_N;
    steps.push_back(set(plan, CUBLASLT_MATMUL_DESC_TRANSA, first));
    steps.push_back(set(plan, CUBLASLT_MATMUL_DESC_TRANSB, second));
    steps.push_back(set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(c)));
    if (c.bias_gradient != nullptr) {
      const std::int32_t float32 = CUDA_R_32F;
      steps.push_back(set(plan, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, float32));
    }
    if (c.epilogue != TENAX_CUDA_EPILOGUE_NONE)
      steps.push_back(set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, c.ld_aux));
    const auto layout = [&](cublasLtMatrixLayout_t* to, std::int32_t type,
                            const ColumnMajorProduct::Layout& l) {
      steps.push_back(lt_.layout_create(to, data_type(type), static_cast<std::uint64_t>(l.rows),
                                        static_cast<std::uint64_t>(l.columns), l.ld));
    };
    layout(&plan.first, c.type, p.first);
    layout(&plan.second, c.type, p.second);
    layout(&plan.out, c.out_type, p.out);
    layout(&plan.added, c.out_type, {p.out.rows, p.out.columns, c.c != nullptr ? c.ldc : p.out.ld});
    for (const cublasStatus_t step : steps)
      if (step != CUBLAS_STATUS_SUCCESS) return outcome(step, "describing matmul " + key);
    if (Outcome set_outcome = set_pointers(plan, c); !set_outcome.ok()) return set_outcome;
    // One that this library refuses is chosen anew; plans() then differs from what was written
    // down.
    const auto wanted = wanted_.find(key);
    if (wanted != wanted_.end() && take(c, wanted->second, plan)) return {};
    return choose(key, matmul_alignment(c), plan);
  }

  Outcome set_pointers(const Plan& plan, const tenax_cuda_matmul& c) {
    const auto set_pointer = [&](cublasLtMatmulDescAttributes_t attribute, const void* p) {
      return lt_.desc_set(plan.operation, attribute, &p, sizeof p);
    };
    const void* bias = c.bias_gradient != nullptr ? c.bias_gradient : c.bias;
    if (bias != nullptr)
      if (Outcome done = outcome(set_pointer(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias), "bias");
          !done.ok())
        return done;
    if (c.epilogue != TENAX_CUDA_EPILOGUE_NONE)
      return outcome(set_pointer(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, c.aux), "aux");
    return {};
  }

  /// The library's first proposal. A reproducible context lets no product be split along k.
  Outcome choose(const std::string& key, std::uint32_t alignment, Plan& plan) {
    cublasLtMatmulPreference_t preference = nullptr;
    if (Outcome made =
            outcome(lt_.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
        !made.ok())
      return made;
    const std::uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasStatus_t status = lt_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &workspace_bytes_, sizeof workspace_bytes_);
    if (status == CUBLAS_STATUS_SUCCESS && context_.options.reproducible != 0)
      status = lt_.preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none,
                                  sizeof none);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    // Unless it is told otherwise the library takes operands to be aligned to 256 bytes.
    for (const cublasLtMatmulPreferenceAttributes_t operand :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      if (status == CUBLAS_STATUS_SUCCESS)
        status = lt_.preference_set(preference, operand, &alignment, sizeof alignment);
    if (status == CUBLAS_STATUS_SUCCESS)
      status = lt_.heuristic(handle_, plan.operation, plan.first, plan.second, plan.added, plan.out,
                             preference, 1, &result, &found);
    static_cast<void>(lt_.preference_destroy(preference));
    if (status != CUBLAS_STATUS_SUCCESS)
      return outcome(status, "cublasLtMatmulAlgoGetHeuristic " + key);
    if (found == 0) return {TENAX_CUDA_UNSUPPORTED, "cuBLASLt has no algorithm for matmul " + key};
    plan.algorithm = result.algo;
    static_cast<void>(lt_.config_get(&plan.algorithm, CUBLASLT_ALGO_CONFIG_ID, &plan.description.id,
                                     sizeof plan.description.id, nullptr));
    for_each_attribute(plan.description, [&](cublasLtMatmulAlgoConfigAttributes_t attribute,
                                             void* value, std::size_t size) {
      static_cast<void>(lt_.config_get(&plan.algorithm, attribute, value, size, nullptr));
    });
    return {};
  }

  /// An algorithm written down earlier; false if the library refuses it.
  bool take(const tenax_cuda_matmul& c, MatmulAlgorithm wanted, Plan& plan) {
    if (lt_.algo_init(handle_, CUBLAS_COMPUTE_32F, CUDA_R_32F, data_type(c.type), data_type(c.type),
                      data_type(c.out_type), data_type(c.out_type), wanted.id,
                      &plan.algorithm) != CUBLAS_STATUS_SUCCESS)
      return false;
    bool all = true;
    for_each_attribute(wanted, [&](cublasLtMatmulAlgoConfigAttributes_t attribute, void* value,
                                   std::size_t size) {
      all = all && lt_.config_set(&plan.algorithm, attribute, value, size) == CUBLAS_STATUS_SUCCESS;
    });
    cublasLtMatmulHeuristicResult_t result{};
    if (!all ||
        lt_.algo_check(handle_, plan.operation, plan.first, plan.second, plan.added, plan.out,
                       &plan.algorithm, &result) != CUBLAS_STATUS_SUCCESS ||
        result.workspaceSize > workspace_bytes_)
      return false;
    plan.description = wanted;
    return true;
  }

  tenax_cuda_context& context_;
  CublasLt lt_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::size_t workspace_bytes_ = 0;
  std::map<std::string, Plan> plans_;
  std::map<std::string, MatmulAlgorithm> wanted_;
  std::map<std::string, bool> without_bias_gradient_;
};

}  // namespace

std::unique_ptr<MatrixProducts> make_matrix_products(tenax_cuda_context& context) {
  return std::make_unique<CublasLtProducts>(context);
}

}  // namespace tenax::cuda
