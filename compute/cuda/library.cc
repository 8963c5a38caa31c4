#include "compute/cuda/library.h"

#include <dlfcn.h>

#include <cstdlib>

namespace tenax::cuda {

std::vector<std::string> library_paths(const std::string& name, const char* cuda_libs) {
  std::vector<std::string> paths;
  std::string folder;
  for (const char* c = cuda_libs == nullptr ? "" : cuda_libs;; ++c) {
    if (*c != ':' && *c != '\0') {
      folder += *c;
      continue;
    }
    if (!folder.empty()) paths.push_back(folder + "/" + name);
    folder.clear();
    if (*c == '\0') break;
  }
  paths.push_back(name);
  paths.push_back("/usr/local/cuda/lib64/" + name);
  return paths;
}

Library::Library(const std::string& name) {
  for (const std::string& path : library_paths(name, std::getenv("TENAX_CUDA_LIBS"))) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
      text_ = path;
      return;
    }
    if (const char* error = dlerror(); error != nullptr) text_ = error;
  }
  text_ = name + " was not found (" + text_ + "); install it or name its folder in TENAX_CUDA_LIBS";
}

void* Library::symbol(const char* name) {
  if (handle_ == nullptr) {
    missing_ = text_;
    return nullptr;
  }
  void* const address = dlsym(handle_, name);
  if (address == nullptr) missing_ = text_ + " has no " + name + "; another version is needed";
  return address;
}

}  // namespace tenax::cuda
