// The layout of a token file, all numbers little-endian:
//
//   offset  bytes
//        0      8  magic "TENAXTOK"
//        8      4  format version, 1
//       12      4  bytes a token, 2 or 4
//       16      8  number of tokens
//       24      8  vocabulary size; every token is smaller
//       32     16  digest of the tokenizer (high word, low word)
//       48     16  XXH3-128 of the token bytes
//       64     16  XXH3-128 of bytes 0-63
//       80      -  the tokens; each document, and so the file, ends with the end-of-document token
//
// A file appears under its name only when it is whole and synced; a reader never sees half of one.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/hash.h"

namespace tenax::data {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

inline constexpr char kTokenFileMagic[8] = {'T', 'E', 'N', 'A', 'X', 'T', 'O', 'K'};
inline constexpr std::uint32_t kTokenFileVersion = 1;

struct TokenFileHeader {
  char magic[8];
  std::uint32_t version;
  std::uint32_t token_width_bytes;
  std::int64_t num_tokens;
  std::int64_t vocabulary_size;
  Hash128 tokenizer_digest;
  Hash128 content_hash;
  Hash128 header_hash;
};
static_assert(sizeof(TokenFileHeader) == 80);

/// What header_hash must be.
inline Hash128 hash_of(const TokenFileHeader& header) {
  return hash128(
      std::as_bytes(std::span(&header, 1)).first(offsetof(TokenFileHeader, header_hash)));
}

}  // namespace tenax::data
