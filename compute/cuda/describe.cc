// What doctor asks: versions compiled against and found.
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <cudnn.h>
#include <nccl.h>

#include <sstream>

#include "compute/cuda/errors.h"
#include "compute/cuda/library.h"

using tenax::cuda::copy_text;
using tenax::cuda::Library;

namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

/// {"compiled": 92200, "found": 92200, "where": "..."}; found is 0 where the library is missing.
std::string entry(long long compiled, long long found, const std::string& where) {
  return "{\"compiled\": " + std::to_string(compiled) + ", \"found\": " + std::to_string(found) +
         ", \"where\": " + quoted(where) + "}";
}

template <class Version>
std::string library_entry(const char* name, const char* function, long long compiled,
                          Version&& version) {
  Library library(name);
  void* const symbol = library.symbol(function);
  return entry(compiled, symbol == nullptr ? 0 : version(symbol),
               symbol == nullptr ? library.missing() : library.text());
}

}  // namespace

extern "C" {

tenax_cuda_status tenax_cuda_describe(char* json, size_t size) {
  int driver = 0;
  int runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  const auto size_version = [](void* f) {
    return static_cast<long long>(reinterpret_cast<std::size_t (*)()>(f)());
  };
  const auto nccl_version = [](void* f) {
    int version = 0;
    reinterpret_cast<int (*)(int*)>(f)(&version);
    return static_cast<long long>(version);
  };
  Library nvml("libnvidia-ml.so.1");
  std::ostringstream text;
  text << "{\"driver\": " << driver << ", \"runtime\": " << runtime << ", \"cublasLt\": "
       << library_entry("libcublasLt.so.13", "cublasLtGetVersion", CUBLAS_VERSION, size_version)
       << ", \"cudnn\": "
       << library_entry("libcudnn.so.9", "cudnnGetVersion", CUDNN_VERSION, size_version)
       << ", \"nccl\": "
       << library_entry("libnccl.so.2", "ncclGetVersion", NCCL_VERSION_CODE, nccl_version)
       << ", \"nvrtc\": "
       << entry(0, Library("libnvrtc.so.13").found() ? 1 : 0, Library("libnvrtc.so.13").text())
       << ", \"nvml\": " << entry(0, nvml.found() ? 1 : 0, nvml.text()) << "}";
  copy_text(text.str(), json, size);
  return TENAX_CUDA_OK;
}

}  // extern "C"
