// The floating-point formats that other programs' weight files use, to and from float. Rounds to
// nearest, ties to even, as IEEE 754 and PyTorch do; a NaN stays a NaN. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace tenax::checkpoint {

enum class FloatFormat : std::uint8_t {
  kF32,
  kBf16,  ///< the upper half of a float: 8 bits of exponent, 7 of fraction
  kF16,   ///< IEEE 754 binary16: 5 bits of exponent, 10 of fraction
  kF64,   ///< read only
};

std::size_t bytes_of(FloatFormat format);
/// "F32", as safetensors spells it.
std::string_view name_of(FloatFormat format);
/// Nothing for a name that is no format of floating-point numbers known here.
std::optional<FloatFormat> float_format(std::string_view name);

std::uint16_t to_bf16(float value);
float from_bf16(std::uint16_t bits);
/// Finite values beyond 65504 (once rounded) become infinite.
std::uint16_t to_f16(float value);
float from_f16(std::uint16_t bits);

/// Writes values.size() numbers, little endian; `out` has bytes_of(format) for each. `format` is
/// not kF64. Returns the index of the first finite value that became infinite, if any did.
std::optional<std::size_t> encode_floats(std::span<const float> values, FloatFormat format,
                                         std::span<std::byte> out);
/// The reverse; doubles are rounded to floats.
void decode_floats(std::span<const std::byte> bytes, FloatFormat format, std::span<float> out);

}  // namespace tenax::checkpoint
