#include "compute/cuda/cudnn_graph.h"

namespace tenax::cuda {

static_assert(CUDNN_STATUS_NOT_INITIALIZED == 1001 && CUDNN_STATUS_BAD_PARAM == 2000 &&
              CUDNN_STATUS_NOT_SUPPORTED == 3000 && CUDNN_STATUS_INTERNAL_ERROR == 4000 &&
              CUDNN_STATUS_EXECUTION_FAILED == 5000);

bool Cudnn::load() {
  library.load("cudnnCreate", create);
  library.load("cudnnDestroy", destroy);
  library.load("cudnnSetStream", set_stream);
  library.load("cudnnGetVersion", get_version);
  library.load("cudnnGetErrorString", error_string);
  library.load("cudnnGetLastErrorString", last_error);
  library.load("cudnnBackendCreateDescriptor", create_descriptor);
  library.load("cudnnBackendDestroyDescriptor", destroy_descriptor);
  library.load("cudnnBackendSetAttribute", set_attribute);
  library.load("cudnnBackendGetAttribute", get_attribute);
  library.load("cudnnBackendFinalize", finalize);
  library.load("cudnnBackendExecute", execute);
  return library.missing().empty();
}

CudnnGraph::~CudnnGraph() {
  for (auto d = descriptors_.rbegin(); d != descriptors_.rend(); ++d)
    static_cast<void>(cudnn_.destroy_descriptor(*d));
}

void CudnnGraph::check(cudnnStatus_t status, const char* doing) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char detail[1024] = "";
  cudnn_.last_error(detail, sizeof detail);
  outcome_ = {status_of_cudnn(status), std::string("cuDNN, ") + doing + ": " +
                                           cudnn_.error_string(status) +
                                           (detail[0] == '\0' ? "" : ": ") + detail};
}

Descriptor CudnnGraph::make(cudnnBackendDescriptorType_t type) {
  if (!outcome_.ok()) return nullptr;
  Descriptor d = nullptr;
  check(cudnn_.create_descriptor(type, &d), "creating a descriptor");
  if (d != nullptr) descriptors_.push_back(d);
  return d;
}

void CudnnGraph::set(Descriptor d, cudnnBackendAttributeName_t name,
                     cudnnBackendAttributeType_t type, std::int64_t count, const void* values) {
  if (!outcome_.ok()) return;
  check(cudnn_.set_attribute(d, name, type, count, values), "setting an attribute");
}

std::int64_t CudnnGraph::get(Descriptor d, cudnnBackendAttributeName_t name,
                             cudnnBackendAttributeType_t type, std::int64_t count, void* values) {
  if (!outcome_.ok()) return 0;
  std::int64_t found = 0;
  check(cudnn_.get_attribute(d, name, type, count, &found, values), "reading an attribute");
  return found;
}

void CudnnGraph::finalize(Descriptor d, const char* what) {
  if (!outcome_.ok()) return;
  check(cudnn_.finalize(d), what);
}

}  // namespace tenax::cuda
