// Shared libraries that are looked for when they are first needed: one GPU trains without NCCL, and
// the program runs where nothing of CUDA is installed. Owner of the handle; libraries stay loaded,
// since they start threads of their own.
#pragma once

#include <string>
#include <vector>

namespace tenax::cuda {

class Library {
 public:
  /// Looks for `name` ("libcudnn.so.9") in the folders of TENAX_CUDA_LIBS, then where the loader
  /// looks, then in /usr/local/cuda/lib64.
  explicit Library(const std::string& name);

  bool found() const { return handle_ != nullptr; }
  /// Where it was found; or why not, and what to do.
  const std::string& text() const { return text_; }
  /// Null if it has no such function; missing() then names it.
  void* symbol(const char* name);
  const std::string& missing() const { return missing_; }

  template <class Function>
  void load(const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(symbol(name));
  }

 private:
  void* handle_ = nullptr;
  std::string text_;
  std::string missing_;
};

/// The candidates' paths, in order.
std::vector<std::string> library_paths(const std::string& name, const char* cuda_libs);

}  // namespace tenax::cuda
