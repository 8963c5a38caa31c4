// The safetensors file format (https://github.com/huggingface/safetensors): 8 bytes with the
// header's length, little endian; a JSON object from tensor names to dtype, shape and data_offsets;
// the tensors' bytes, row-major, little endian, without gaps. Pure functions on bytes; the files
// are in safetensors_reader.h and safetensors_writer.h.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace tenax::checkpoint {

/// The reference implementation's limit.
inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  ///< "F32", "BF16", "I64", ...
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  ///< in the data, behind the header
  std::uint64_t end = 0;

  std::int64_t num_elements() const;
  bool operator==(const SafetensorsEntry&) const = default;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  ///< in the order of the data
  std::map<std::string, std::string> metadata;
};

/// Sets begin and end of every entry, in the given order. The dtypes are those of float_formats.h.
void assign_data_offsets(std::span<SafetensorsEntry> entries);

/// What a file begins with: length, JSON and padding that puts the data on a multiple of 8 bytes.
std::string encode_safetensors_header(const SafetensorsHeader& header);

/// `json` is the header without its length, `data_bytes` what follows it in the file. kDataLoss,
/// naming the tensor, unless the tensors fill the data exactly, each as large as dtype and shape
/// say; kUnsupported for a dtype that this version does not know.
Result<SafetensorsHeader> parse_safetensors_header(std::string_view json, std::uint64_t data_bytes);

}  // namespace tenax::checkpoint
