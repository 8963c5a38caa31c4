// Reads tensors out of safetensors files, a piece at a time: memory is what the caller asks for and
// a constant. Immutable after opening; any number of threads.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors_format.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// One open file.
class SafetensorsFile {
 public:
  /// Reads the header only. kNotFound, kPermission or kIo with the path; kDataLoss or kUnsupported
  /// as parse_safetensors_header().
  static Result<SafetensorsFile> open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;

  const std::string& path() const { return path_; }
  const SafetensorsHeader& header() const { return header_; }

  /// Elements [first, first + out.size()) of a tensor of this file, row-major, as floats.
  /// kInvalidArgument outside of the tensor; kUnsupported for a dtype that is not floating point;
  /// kDataLoss where the file has become shorter.
  Status read(const SafetensorsEntry& entry, std::int64_t first, std::span<float> out) const;

 private:
  SafetensorsFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  int fd_ = -1;
  std::string path_;
  SafetensorsHeader header_;
  std::uint64_t data_begin_ = 0;
};

/// A model: one file, or the files that an index names.
class SafetensorsModel {
 public:
  static constexpr const char* kFileName = "model.safetensors";
  static constexpr const char* kIndexName = "model.safetensors.index.json";

  /// `path` is a .safetensors file, or a folder with model.safetensors or its index. kDataLoss if
  /// the index and the files disagree.
  static Result<SafetensorsModel> open(const std::string& path);

  /// Sorted by name.
  std::vector<std::string> names() const;
  /// Null: there is no such tensor.
  const SafetensorsEntry* find(const std::string& name) const;
  /// SafetensorsFile::read() of a named tensor; kNotFound if there is none.
  Status read(const std::string& name, std::int64_t first, std::span<float> out) const;

 private:
  struct Place {
    std::size_t file = 0;
    std::size_t entry = 0;
  };
  Status add_file(SafetensorsFile file);

  std::vector<SafetensorsFile> files_;
  std::map<std::string, Place> places_;
};

}  // namespace tenax::checkpoint
