#include "checkpoint/float_formats.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace tenax::checkpoint {

std::size_t bytes_of(FloatFormat format) {
  switch (format) {
    case FloatFormat::kF32:
      return 4;
    case FloatFormat::kBf16:
    case FloatFormat::kF16:
      return 2;
    case FloatFormat::kF64:
      return 8;
  }
  return 4;
}

std::string_view name_of(FloatFormat format) {
  switch (format) {
    case FloatFormat::kF32:
      return "F32";
    case FloatFormat::kBf16:
      return "BF16";
    case FloatFormat::kF16:
      return "F16";
    case FloatFormat::kF64:
      return "F64";
  }
  return "F32";
}

std::optional<FloatFormat> float_format(std::string_view name) {
  for (const FloatFormat f :
       {FloatFormat::kF32, FloatFormat::kBf16, FloatFormat::kF16, FloatFormat::kF64}) {
    if (name == name_of(f)) return f;
  }
  return std::nullopt;
}

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<std::uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<std::uint16_t>(sign | 0x7c00);  // 65520 and more
  if (magnitude < 0x38800000) {  // below 2^-14: a multiple of 2^-24, counted by the rounding of +
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(std::nearbyint(scaled)));
  }
  const std::uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<std::uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

float from_f16(std::uint16_t bits) {
  const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
  const std::uint32_t exponent = (bits >> 10) & 0x1f;
  const std::uint32_t fraction = bits & 0x3ff;
  if (exponent == 0x1f) {
    const std::uint32_t wide = (static_cast<std::uint32_t>(bits & 0x8000) << 16) | 0x7f800000;
    return std::bit_cast<float>(wide | (fraction << 13));
  }
  if (exponent == 0) return sign * static_cast<float>(fraction) * 0x1p-24f;
  const std::uint32_t wide = ((exponent + 112) << 23) | (fraction << 13);
  return sign * std::bit_cast<float>(wide);
}

static_assert(std::endian::native == std::endian::little, "weight files are little endian");

std::optional<std::size_t> encode_floats(std::span<const float> values, FloatFormat format,
                                         std::span<std::byte> out) {
  if (format == FloatFormat::kF32) {
    if (!values.empty()) std::memcpy(out.data(), values.data(), values.size_bytes());
    return std::nullopt;
  }
  std::optional<std::size_t> overflow;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool bf16 = format == FloatFormat::kBf16;
    const std::uint16_t bits = bf16 ? to_bf16(values[i]) : to_f16(values[i]);
    if (!overflow && std::isfinite(values[i]) &&
        !std::isfinite(bf16 ? from_bf16(bits) : from_f16(bits))) {
      overflow = i;
    }
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
  return overflow;
}

void decode_floats(std::span<const std::byte> bytes, FloatFormat format, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::byte* at = bytes.data() + i * bytes_of(format);
    if (format == FloatFormat::kF32) {
      std::memcpy(&out[i], at, 4);
    } else if (format == FloatFormat::kF64) {
      double wide = 0;
      std::memcpy(&wide, at, 8);
      out[i] = static_cast<float>(wide);
    } else {
      std::uint16_t bits = 0;
      std::memcpy(&bits, at, 2);
      out[i] = format == FloatFormat::kBf16 ? from_bf16(bits) : from_f16(bits);
    }
  }
}

}  // namespace tenax::checkpoint
