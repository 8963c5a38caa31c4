// cuDNN's backend API with owned descriptors and kept errors: after the first failure every call
// does nothing, and outcome() says what failed. One thread.
#pragma once

#include <cudnn.h>

#include <string>
#include <utility>
#include <vector>

#include "compute/cuda/errors.h"
#include "compute/cuda/library.h"

namespace tenax::cuda {

/// The functions used, by their own names.
struct Cudnn {
  /// cuDNN opens it by its name alone; one that is open already is found whatever its folder.
  Library nvrtc{"libnvrtc.so.13"};
  Library library{"libcudnn.so.9"};
  decltype(cudnnCreate)* create = nullptr;
  decltype(cudnnDestroy)* destroy = nullptr;
  decltype(cudnnSetStream)* set_stream = nullptr;
  decltype(cudnnGetVersion)* get_version = nullptr;
  decltype(cudnnGetErrorString)* error_string = nullptr;
  decltype(cudnnGetLastErrorString)* last_error = nullptr;
  decltype(cudnnBackendCreateDescriptor)* create_descriptor = nullptr;
  decltype(cudnnBackendDestroyDescriptor)* destroy_descriptor = nullptr;
  decltype(cudnnBackendSetAttribute)* set_attribute = nullptr;
  decltype(cudnnBackendGetAttribute)* get_attribute = nullptr;
  decltype(cudnnBackendFinalize)* finalize = nullptr;
  decltype(cudnnBackendExecute)* execute = nullptr;

  /// Loads them; what is missing is left in `library`.
  bool load();
};

using Descriptor = cudnnBackendDescriptor_t;

/// Descriptors of one graph or plan, destroyed with it.
class CudnnGraph {
 public:
  explicit CudnnGraph(const Cudnn& cudnn) : cudnn_(cudnn) {}
  CudnnGraph(const CudnnGraph&) = delete;
  CudnnGraph& operator=(const CudnnGraph&) = delete;
  ~CudnnGraph();

  Descriptor make(cudnnBackendDescriptorType_t type);
  void set(Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
           std::int64_t count, const void* values);
  template <class T>
  void set(Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
           const T& value) {
    set(d, name, type, 1, &value);
  }
  void set(Descriptor d, cudnnBackendAttributeName_t name,
           const std::vector<std::int64_t>& values) {
    set(d, name, CUDNN_TYPE_INT64, static_cast<std::int64_t>(values.size()), values.data());
  }
  void set_descriptor(Descriptor d, cudnnBackendAttributeName_t name, Descriptor value) {
    set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, value);
  }
  /// Number of elements written to `values`, at most `count`.
  std::int64_t get(Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                   std::int64_t count, void* values);
  void finalize(Descriptor d, const char* what);

  const Outcome& outcome() const { return outcome_; }
  /// Forgets a failure, to try another way.
  void clear() { outcome_ = {}; }

 private:
  void check(cudnnStatus_t status, const char* doing);

  const Cudnn& cudnn_;
  std::vector<Descriptor> descriptors_;
  Outcome outcome_;
};

/// What the attention graphs' tensors are called.
enum AttentionTensor : std::int64_t {
  kQuery = 1,
  kKeyTransposed,
  kKey,
  kValue,
  kValueTransposed,
  kOut,
  kLogSum,
  kOutGradient,
  kQueryGradient,
  kKeyGradient,
  kValueGradient,
  kScale,
  kNegative,
  kFirstVirtual = 100
};

/// The operations of softmax(QK^T)V or of its gradients, finalized.
std::vector<Descriptor> attention_forward_operations(CudnnGraph& graph,
                                                     const tenax_cuda_attention& call);
std::vector<Descriptor> attention_backward_operations(CudnnGraph& graph,
                                                      const tenax_cuda_attention& call);

}  // namespace tenax::cuda
