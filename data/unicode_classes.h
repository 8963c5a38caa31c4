// The classes of characters that GPT-2's pre-tokenisation tells apart. Unicode 17.0. Pure
// functions.
#pragma once

#include <string_view>

namespace tenax::data {

enum class CharClass : unsigned char {
  kLetter,  ///< general category L
  kNumber,  ///< general category N
  kSpace,   ///< property White_Space
  kOther,   ///< everything else, bytes that are no UTF-8 included
};

CharClass class_of(char32_t code_point);

struct DecodedChar {
  CharClass char_class = CharClass::kOther;
  std::size_t num_bytes = 1;
};

/// The first character of `text`, which must not be empty. A byte that begins no valid UTF-8
/// sequence is a character of class kOther by itself.
DecodedChar decode_char(std::string_view text);

}  // namespace tenax::data
