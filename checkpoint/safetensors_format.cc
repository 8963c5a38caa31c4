#include "checkpoint/safetensors_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "checkpoint/float_formats.h"

using nlohmann::json;

namespace tenax::checkpoint {

namespace {

constexpr const char* kMetadata = "__metadata__";

/// Nothing for an unknown dtype.
std::optional<std::uint64_t> element_bytes(std::string_view dtype) {
  static constexpr std::pair<std::string_view, std::uint64_t> kKnown[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  for (const auto& [name, bytes] : kKnown) {
    if (name == dtype) return bytes;
  }
  return std::nullopt;
}

Error malformed(std::string_view what) {
  return make_error(ErrorCode::kDataLoss, fmt::format("safetensors header: {}", what));
}

/// Bytes of a tensor; nothing if the product does not fit 63 bits.
std::optional<std::uint64_t> tensor_bytes(const std::vector<std::int64_t>& shape,
                                          std::uint64_t element) {
  std::int64_t bytes = static_cast<std::int64_t>(element);
  for (const std::int64_t extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return static_cast<std::uint64_t>(bytes);
}

Result<SafetensorsEntry> parse_entry(const std::string& name, const json& j) {
  const auto bad = [&](std::string_view what) {
    return malformed(fmt::format("tensor '{}': {}", name, what));
  };
  if (!j.is_object() || !j.contains("dtype") || !j["dtype"].is_string() || !j.contains("shape") ||
      !j["shape"].is_array() || !j.contains("data_offsets") || !j["data_offsets"].is_array()) {
    return bad("needs dtype, shape and data_offsets");
  }
  SafetensorsEntry entry;
  entry.name = name;
  entry.dtype = j["dtype"].get<std::string>();
  for (const json& extent : j["shape"]) {
    if (!extent.is_number_unsigned() || extent.get<std::uint64_t>() > INT64_MAX) {
      return bad("an extent of its shape is no whole number");
    }
    entry.shape.push_back(extent.get<std::int64_t>());
  }
  const json& offsets = j["data_offsets"];
  if (offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) {
    return bad("data_offsets are not two whole numbers");
  }
  entry.begin = offsets[0].get<std::uint64_t>();
  entry.end = offsets[1].get<std::uint64_t>();
  if (entry.end < entry.begin) {
    return bad(
        fmt::format("data_offsets end at {} before they begin at {}", entry.end, entry.begin));
  }
  const auto element = element_bytes(entry.dtype);
  if (!element) {
    return make_error(
        ErrorCode::kUnsupported,
        fmt::format("tensor '{}' has dtype '{}', unknown to this version", name, entry.dtype));
  }
  const auto bytes = tensor_bytes(entry.shape, *element);
  if (!bytes) return bad("its shape is larger than can be addressed");
  if (*bytes != entry.end - entry.begin) {
    return bad(fmt::format("dtype {} and shape [{}] take {} bytes, data_offsets give {}",
                           entry.dtype, fmt::join(entry.shape, ", "), *bytes,
                           entry.end - entry.begin));
  }
  return entry;
}

/// The tensors must follow each other without gap or overlap and fill the data.
Status check_cover(const std::vector<SafetensorsEntry>& entries, std::uint64_t data_bytes) {
  std::uint64_t at = 0;
  for (const SafetensorsEntry& e : entries) {
    if (e.end > data_bytes) {
      return malformed(fmt::format("tensor '{}' ends at byte {}, the file has {} bytes of data",
                                   e.name, e.end, data_bytes));
    }
    if (e.begin < at) {
      return malformed(
          fmt::format("tensor '{}' begins at byte {} within the one before it, which ends at {}",
                      e.name, e.begin, at));
    }
    if (e.begin > at) {
      return malformed(fmt::format("bytes [{}, {}) before tensor '{}' belong to no tensor", at,
                                   e.begin, e.name));
    }
    at = e.end;
  }
  if (at == data_bytes) return {};
  return malformed(
      fmt::format("the tensors take {} bytes, the file has {} bytes of data", at, data_bytes));
}

/// nlohmann keeps the last of two equal keys; a file that names a tensor twice is damaged.
Result<json> parse_object(std::string_view text) {
  if (text.empty() || text.front() != '{') return malformed("does not begin with '{'");
  std::set<std::string> names;
  std::optional<std::string> twice;
  const json parsed = json::parse(
      text,
      [&](int depth, json::parse_event_t event, json& value) {
        if (event == json::parse_event_t::key && depth == 1 &&
            !names.insert(value.get<std::string>()).second) {
          twice = value.get<std::string>();
        }
        return true;
      },
      /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object()) return malformed("is not a JSON object");
  if (twice) return malformed(fmt::format("names '{}' twice", *twice));
  return parsed;
}

}  // namespace

std::int64_t SafetensorsEntry::num_elements() const {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

void assign_data_offsets(std::span<SafetensorsEntry> entries) {
  std::uint64_t at = 0;
  for (SafetensorsEntry& e : entries) {
    e.begin = at;
    at += static_cast<std::uint64_t>(e.num_elements()) * element_bytes(e.dtype).value_or(0);
    e.end = at;
  }
}

std::string encode_safetensors_header(const SafetensorsHeader& header) {
  nlohmann::ordered_json j = nlohmann::ordered_json::object();
  if (!header.metadata.empty()) j[kMetadata] = header.metadata;
  for (const SafetensorsEntry& e : header.entries) {
    j[e.name] = {{"dtype", e.dtype}, {"shape", e.shape}, {"data_offsets", {e.begin, e.end}}};
  }
  std::string text = j.dump(-1, ' ', false, json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out + text;
}

Result<SafetensorsHeader> parse_safetensors_header(std::string_view text,
                                                   std::uint64_t data_bytes) {
  TENAX_TRY(const json parsed, parse_object(text));
  SafetensorsHeader header;
  for (const auto& [name, value] : parsed.items()) {
    if (name == kMetadata) {
      if (!value.is_object()) return malformed("__metadata__ is not an object");
      for (const auto& [key, word] : value.items()) {
        if (!word.is_string()) return malformed("__metadata__ holds something else than text");
        header.metadata[key] = word.get<std::string>();
      }
      continue;
    }
    TENAX_TRY(header.entries.emplace_back(), parse_entry(name, value));
  }
  std::sort(header.entries.begin(), header.entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
            });
  TENAX_RETURN_IF_ERROR(check_cover(header.entries, data_bytes));
  return header;
}

}  // namespace tenax::checkpoint
