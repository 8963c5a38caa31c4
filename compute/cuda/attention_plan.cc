#include "compute/cuda/attention_plan.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>

#include "compute/cuda/context.h"
#include "compute/cuda/cudnn_graph.h"

namespace tenax::cuda {
namespace {

/// An engine that cuDNN proposes for a graph.
struct Engine {
  Descriptor config = nullptr;
  std::int64_t id = -1;
  bool deterministic = false;
};

/// A graph with what runs it. The descriptors belong to `graph`.
struct Planned {
  explicit Planned(const Cudnn& cudnn) : graph(cudnn) {}
  CudnnGraph graph;
  Descriptor plan = nullptr;
  std::int64_t engine = -1;
  std::int64_t workspace_bytes = 0;
};

/// The engines for a call's graph, in cuDNN's order of preference. With a device `properties` is
/// null; without one `handle` is.
std::vector<Engine> propose(CudnnGraph& g, const tenax_cuda_attention& call, Direction direction,
                            cudnnHandle_t handle, Descriptor properties) {
  const std::vector<Descriptor> operations = direction == Direction::kForward
                                                 ? attention_forward_operations(g, call)
                                                 : attention_backward_operations(g, call);
  const Descriptor graph = g.make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  g.set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
        static_cast<std::int64_t>(operations.size()), operations.data());
  if (handle != nullptr) g.set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle);
  g.finalize(graph, "attention's graph");
  const Descriptor heuristics = g.make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  g.set_descriptor(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  g.set(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A);
  if (properties != nullptr)
    g.set_descriptor(heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, properties);
  g.finalize(heuristics, "the choice of engines for attention");
  const std::int64_t count =
      g.get(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, nullptr);
  std::vector<Descriptor> configs(static_cast<std::size_t>(count));
  for (Descriptor& config : configs) config = g.make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  // Fewer may come than were counted; the rest stay empty.
  const std::int64_t filled = count > 0
                                  ? g.get(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, count, configs.data())
                                  : 0;
  configs.resize(static_cast<std::size_t>(std::min(count, filled)));
  std::vector<Engine> engines;
  for (const Descriptor config : configs) {
    Engine engine;
    engine.config = config;
    Descriptor described = g.make(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    g.get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &described);
    g.get(described, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &engine.id);
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    if (!g.outcome().ok()) return engines;
    const std::int64_t found =
        g.get(described, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
              CUDNN_NUMERICAL_NOTE_TYPE_COUNT, notes);
    // Some engines tell only where there is a device; what is not told counts as the worse.
    engine.deterministic = g.outcome().ok();
    g.clear();
    for (std::int64_t i = 0; i < found && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; ++i)
      if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) engine.deterministic = false;
    engines.push_back(engine);
  }
  return engines;
}

/// Makes `engine` ready to run; the plan, or null with the reason in the graph's outcome.
Descriptor make_plan(CudnnGraph& g, const Engine& engine, cudnnHandle_t handle,
                     Descriptor properties, std::int64_t& workspace_bytes) {
  const Descriptor plan = g.make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  g.set_descriptor(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine.config);
  if (handle != nullptr) g.set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, handle);
  if (properties != nullptr)
    g.set_descriptor(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, properties);
  g.finalize(plan, "attention's plan");
  g.get(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &workspace_bytes);
  return g.outcome().ok() ? plan : nullptr;
}

class CudnnAttention final : public AttentionPlans {
 public:
  explicit CudnnAttention(tenax_cuda_context& context) : context_(context) {}

  ~CudnnAttention() override {
    plans_.clear();
    if (handle_ != nullptr) static_cast<void>(cudnn_.destroy(handle_));
  }

  Outcome plan(const tenax_cuda_attention& call, Direction direction) override {
    if (std::string reason = attention_refusal(call); !reason.empty())
      return {TENAX_CUDA_UNSUPPORTED, std::move(reason)};
    const std::string key = attention_key(call, direction);
    if (plans_.contains(key)) return {};
    if (const auto refused = refused_.find(key); refused != refused_.end()) return refused->second;
    Outcome made = make(call, direction, key);
    if (!made.ok()) refused_[key] = made;
    return made;
  }

  Outcome run(const tenax_cuda_attention& c, Direction direction) override {
    Planned& planned = *plans_.at(attention_key(c, direction));
    void* workspace = nullptr;
    if (planned.workspace_bytes > 0) {
      workspace = context_.scratch(static_cast<std::uint64_t>(planned.workspace_bytes));
      if (workspace == nullptr) return {TENAX_CUDA_OUT_OF_MEMORY, context_.message};
    }
    float scale = c.scale;
    float lowest = std::numeric_limits<float>::lowest();
    const auto writable = [](const void* p) { return const_cast<void*>(p); };
    std::vector<std::int64_t> ids = {kQuery,  kKeyTransposed, kValue,   kOut,
                                     kLogSum, kScale,         kNegative};
    std::vector<void*> pointers = {writable(c.q), writable(c.k), writable(c.v), c.out,
                                   c.log_sum,     &scale,        &lowest};
    if (direction == Direction::kBackward) {
      ids = {kQuery,       kKeyTransposed, kKey,         kValueTransposed, kOut,   kLogSum,
             kOutGradient, kQueryGradient, kKeyGradient, kValueGradient,   kScale, kNegative};
      pointers = {writable(c.q),    writable(c.k), writable(c.k), writable(c.v), c.out,  c.log_sum,
                  writable(c.dout), c.dq,          c.dk,          c.dv,          &scale, &lowest};
    }
    CudnnGraph call(cudnn_);
    const Descriptor pack = call.make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    call.set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids);
    call.set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
             static_cast<std::int64_t>(pointers.size()), pointers.data());
    call.set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace);
    call.finalize(pack, "attention's arguments");
    if (!call.outcome().ok()) return call.outcome();
    const cudnnStatus_t status = cudnn_.execute(handle_, planned.plan, pack);
    if (status == CUDNN_STATUS_SUCCESS) return {};
    return {status_of_cudnn(status),
            std::string("cuDNN attention: ") + cudnn_.error_string(status)};
  }

  std::string plans() const override {
    std::string text;
    for (const auto& [key, planned] : plans_)
      text += "attention " + key + " = engine " + std::to_string(planned->engine) + "\n";
    return text;
  }

  bool use_plan(const std::string& line) override {
    const std::string kPrefix = "attention ";
    const std::string kEngine = " = engine ";
    const std::size_t equals = line.find(kEngine);
    if (!line.starts_with(kPrefix) || equals == std::string::npos) return false;
    long long id = 0;
    char rest = 0;
    if (std::sscanf(line.c_str() + equals + kEngine.size(), "%lld%c", &id, &rest) != 1)
      return false;
    wanted_[line.substr(kPrefix.size(), equals - kPrefix.size())] = id;
    return true;
  }

 private:
  Outcome open() {
    if (handle_ != nullptr) return {};
    if (!cudnn_.load()) return {TENAX_CUDA_UNAVAILABLE, cudnn_.library.missing()};
    if (const cudnnStatus_t status = cudnn_.create(&handle_); status != CUDNN_STATUS_SUCCESS) {
      handle_ = nullptr;
      return {status_of_cudnn(status), std::string("cudnnCreate: ") + cudnn_.error_string(status)};
    }
    if (const cudnnStatus_t status = cudnn_.set_stream(handle_, context_.stream);
        status != CUDNN_STATUS_SUCCESS)
      return {status_of_cudnn(status),
              std::string("cudnnSetStream: ") + cudnn_.error_string(status)};
    return {};
  }

  /// The engine written down for the key, else the first one that is allowed and can be planned.
  Outcome make(const tenax_cuda_attention& call, Direction direction, const std::string& key) {
    if (Outcome opened = open(); !opened.ok()) return opened;
    auto planned = std::make_unique<Planned>(cudnn_);
    CudnnGraph& g = planned->graph;
    std::vector<Engine> engines = propose(g, call, direction, handle_, nullptr);
    if (!g.outcome().ok()) return g.outcome();
    if (context_.options.reproducible != 0)
      std::erase_if(engines, [](const Engine& e) { return !e.deterministic; });
    if (const auto wanted = wanted_.find(key); wanted != wanted_.end())
      std::stable_partition(engines.begin(), engines.end(),
                            [&](const Engine& e) { return e.id == wanted->second; });
    Outcome last{TENAX_CUDA_UNSUPPORTED, "cuDNN has no engine for attention " + key};
    for (const Engine& engine : engines) {
      planned->plan = make_plan(g, engine, handle_, nullptr, planned->workspace_bytes);
      if (planned->plan != nullptr) {
        planned->engine = engine.id;
        plans_.emplace(key, std::move(planned));
        return {};
      }
      last = g.outcome();
      g.clear();
    }
    return last;
  }

  tenax_cuda_context& context_;
  Cudnn cudnn_;
  cudnnHandle_t handle_ = nullptr;
  std::map<std::string, std::unique_ptr<Planned>> plans_;
  std::map<std::string, Outcome> refused_;
  std::map<std::string, std::int64_t> wanted_;
};

}  // namespace

Outcome plan_attention_without_device(const tenax_cuda_attention& call, Direction direction,
                                      const std::string& device_json, std::string& text) {
  if (std::string reason = attention_refusal(call); !reason.empty())
    return {TENAX_CUDA_UNSUPPORTED, std::move(reason)};
  Cudnn cudnn;
  if (!cudnn.load()) return {TENAX_CUDA_UNAVAILABLE, cudnn.library.missing()};
  CudnnGraph g(cudnn);
  const Descriptor properties = g.make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  g.set(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
        static_cast<std::int64_t>(device_json.size() + 1), device_json.c_str());
  g.finalize(properties, "the description of a device");
  const std::vector<Engine> engines = propose(g, call, direction, nullptr, properties);
  if (!g.outcome().ok()) return g.outcome();
  text = attention_key(call, direction) + ":";
  for (const Engine& engine : engines)
    text += " engine " + std::to_string(engine.id) +
            (engine.deterministic ? " (deterministic)" : " (not deterministic)");
  if (engines.empty()) return {TENAX_CUDA_UNSUPPORTED, "cuDNN has no engine for " + text};
  return {};
}

std::unique_ptr<AttentionPlans> make_attention_plans(tenax_cuda_context& context) {
  return std::make_unique<CudnnAttention>(context);
}

}  // namespace tenax::cuda
