// Writes a model as safetensors: one file, or several with an index when it is larger than a
// limit. The values come in pieces, so memory stays a constant. A file appears under its name only
// when it is complete. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/float_formats.h"
#include "checkpoint/safetensors_format.h"
#include "common/result.h"

namespace tenax::checkpoint {

/// A tensor to write.
struct OutgoingTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

struct SafetensorsWriteOptions {
  FloatFormat format = FloatFormat::kF32;
  /// A file is closed before it would hold more; a larger tensor has a file of its own.
  std::uint64_t max_file_bytes = 5'000'000'000;
  std::map<std::string, std::string> metadata{{"format", "pt"}};
};

class SafetensorsWriter {
 public:
  /// Into `folder`, which exists: model.safetensors, or model-00001-of-0000N.safetensors and
  /// model.safetensors.index.json. kInvalidArgument if two tensors have one name or the format
  /// cannot be written.
  static Result<SafetensorsWriter> create(const std::string& folder,
                                          std::vector<OutgoingTensor> tensors,
                                          SafetensorsWriteOptions options = {});
  /// Removes what is not finished.
  ~SafetensorsWriter();
  SafetensorsWriter(SafetensorsWriter&& other) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = delete;

  /// The next values: of the first tensor, row-major, then of the second, and so on; a piece lies
  /// within one tensor. Blocks for the disk. kInvalidArgument for too many values and for a finite
  /// one that the format cannot hold.
  Status append(std::span<const float> values);
  /// Makes the files durable and gives them their names. kInvalidArgument if values are missing.
  Status finish();

  /// Paths of the files, the index last. They exist after finish().
  std::vector<std::string> paths() const;
  /// Bytes of all tensors.
  std::uint64_t data_bytes() const;

 private:
  struct OutFile {
    std::string name;
    std::vector<SafetensorsEntry> entries;
  };
  SafetensorsWriter(std::string folder, SafetensorsWriteOptions options)
      : folder_(std::move(folder)), options_(std::move(options)) {}

  std::string partial_path(const OutFile& file) const;
  std::string index_path() const;
  Status open_file();
  Status close_file();
  Status write(std::span<const std::byte> bytes);
  Status write_index();
  std::string index_json() const;

  std::string folder_;
  SafetensorsWriteOptions options_;
  std::vector<OutFile> files_;
  std::size_t file_ = 0;      ///< being written
  std::size_t entry_ = 0;     ///< likewise, in it
  std::int64_t element_ = 0;  ///< the next one of the entry
  int fd_ = -1;
  bool finished_ = false;
};

}  // namespace tenax::checkpoint
