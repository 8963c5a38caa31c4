#include "data/bpe_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>

#include "data/pretokenizer.h"

namespace tenax::data {

namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

Hash128 digest_of(const BpeVocabulary& vocabulary) {
  Hasher128 hasher;
  hasher.update("tenax tokenizer: byte-level bpe, gpt-2 pieces, version 1\n");
  const auto add = [&](std::int64_t number) {
    hasher.update(std::as_bytes(std::span(&number, 1)));
  };
  add(vocabulary.end_of_document);
  add(static_cast<std::int64_t>(vocabulary.tokens.size()));
  for (const std::string& token : vocabulary.tokens) {
    add(static_cast<std::int64_t>(token.size()));
    hasher.update(token);
  }
  for (const auto& [left, right] : vocabulary.merges) {
    add(left);
    add(right);
  }
  return hasher.digest();
}

Error unsound(std::string what) { return make_error(ErrorCode::kInvalidArgument, std::move(what)); }

}  // namespace

Result<BpeTokenizer> BpeTokenizer::create(BpeVocabulary vocabulary) {
  const auto& tokens = vocabulary.tokens;
  const auto num_tokens = static_cast<std::int32_t>(tokens.size());
  std::unordered_map<std::string_view, std::int32_t> id_of;
  for (std::int32_t id = 0; id < num_tokens; ++id) {
    const auto [at, is_new] = id_of.emplace(tokens[static_cast<std::size_t>(id)], id);
    if (!is_new) return unsound(fmt::format("tokens {} and {} are the same", at->second, id));
  }
  const auto end = id_of.find("");
  if (end == id_of.end() || end->second != vocabulary.end_of_document) {
    return unsound(
        fmt::format("token {} is not the end of a document", vocabulary.end_of_document));
  }

  BpeTokenizer tokenizer;
  std::vector<bool> is_made(tokens.size(), false);
  for (int byte = 0; byte < 256; ++byte) {
    const char text[] = {static_cast<char>(byte)};
    const auto at = id_of.find(std::string_view(text, 1));
    if (at == id_of.end()) return unsound(fmt::format("no token for byte {}", byte));
    tokenizer.byte_token_[byte] = at->second;
    is_made[static_cast<std::size_t>(at->second)] = true;
  }
  // Merging in order of rank, leftmost first, equals training's order only if each merge makes
  // something new from what was there before.
  for (std::size_t i = 0; i < vocabulary.merges.size(); ++i) {
    const auto [left, right] = vocabulary.merges[i];
    for (const std::int32_t part : {left, right}) {
      if (part < 0 || part >= num_tokens || !is_made[static_cast<std::size_t>(part)]) {
        return unsound(fmt::format("merge {}: token {} is made by no earlier merge", i, part));
      }
    }
    const std::string merged =
        tokens[static_cast<std::size_t>(left)] + tokens[static_cast<std::size_t>(right)];
    const auto at = id_of.find(merged);
    if (at == id_of.end()) {
      return unsound(fmt::format("merge {}: tokens {} and {} make no token", i, left, right));
    }
    if (is_made[static_cast<std::size_t>(at->second)]) {
      return unsound(fmt::format("merge {}: token {} is made twice", i, at->second));
    }
    is_made[static_cast<std::size_t>(at->second)] = true;
    tokenizer.merge_of_pair_.emplace(pair_key(left, right),
                                     Merge{static_cast<std::int32_t>(i), at->second});
  }
  tokenizer.digest_ = digest_of(vocabulary);
  tokenizer.vocabulary_ = std::move(vocabulary);
  return tokenizer;
}

const BpeTokenizer::Merge* BpeTokenizer::find_merge(std::int32_t left, std::int32_t right) const {
  const auto at = merge_of_pair_.find(pair_key(left, right));
  return at == merge_of_pair_.end() ? nullptr : &at->second;
}

void BpeTokenizer::encode_piece(std::string_view piece, std::vector<std::int32_t>& ids) const {
  // Tokens of the piece as a doubly linked list; a merge replaces the left one and unlinks the
  // right one.
  struct Node {
    std::int32_t token;
    std::int32_t previous;
    std::int32_t next;
  };
  // A merge that was possible when it was queued; stale if either token has changed since.
  struct Candidate {
    std::int32_t rank;
    std::int32_t at;
    std::int32_t left;
    std::int32_t right;
    bool operator>(const Candidate& o) const {
      return std::pair(rank, at) > std::pair(o.rank, o.at);
    }
  };
  const auto size = static_cast<std::int32_t>(piece.size());
  std::vector<Node> nodes;
  nodes.reserve(piece.size());
  for (std::int32_t i = 0; i < size; ++i) {
    const auto byte = static_cast<unsigned char>(piece[static_cast<std::size_t>(i)]);
    nodes.push_back({byte_token_[byte], i - 1, i + 1 < size ? i + 1 : -1});
  }
  const auto node = [&](std::int32_t i) -> Node& { return nodes[static_cast<std::size_t>(i)]; };

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::int32_t at) {
    if (at < 0 || node(at).next < 0) return;
    const std::int32_t left = node(at).token;
    const std::int32_t right = node(node(at).next).token;
    if (const Merge* merge = find_merge(left, right)) queue.push({merge->rank, at, left, right});
  };
  for (std::int32_t i = 0; i < size; ++i) consider(i);

  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    Node& left = node(c.at);
    // Unlinked nodes have token -1.
    if (left.token != c.left || left.next < 0 || node(left.next).token != c.right) continue;
    Node& right = node(left.next);
    left.token = find_merge(c.left, c.right)->token;
    left.next = right.next;
    right.token = -1;
    if (left.next >= 0) node(left.next).previous = c.at;
    consider(c.at);
    consider(left.previous);
  }
  for (std::int32_t i = 0; i >= 0; i = node(i).next) ids.push_back(node(i).token);
}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  // Most pieces of a text occur many times in it.
  std::unordered_map<std::string_view, std::pair<std::size_t, std::size_t>> known;
  while (!text.empty()) {
    const std::string_view piece = text.substr(0, first_piece(text));
    text.remove_prefix(piece.size());
    const auto [at, is_new] = known.try_emplace(piece);
    auto& [begin, end] = at->second;
    if (is_new) {
      begin = ids.size();
      encode_piece(piece, ids);
      end = ids.size();
    } else {
      for (std::size_t i = begin; i < end; ++i) ids.push_back(ids[i]);
    }
  }
  return ids;
}

std::string BpeTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) {
    if (id >= 0 && id < vocabulary_size()) {
      text += vocabulary_.tokens[static_cast<std::size_t>(id)];
    } else {
      text += "\xEF\xBF\xBD";
    }
  }
  return text;
}

}  // namespace tenax::data
