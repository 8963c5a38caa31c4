#include "data/bpe_trainer.h"

#include <fmt/format.h>

#include <queue>
#include <set>
#include <tuple>
#include <unordered_set>

#include "data/pretokenizer.h"

namespace tenax::data {

namespace {

using Pair = std::pair<std::int32_t, std::int32_t>;

struct Piece {
  std::vector<std::int32_t> tokens;
  std::int64_t count = 0;
};

struct PairInfo {
  std::int64_t count = 0;
  std::set<std::size_t> pieces;  // in which it may occur; never lacks one
};

/// Ordered so that the top of a priority queue is the next pair to merge.
struct Candidate {
  std::int64_t count = 0;
  Pair pair;
  bool operator<(const Candidate& o) const {
    return std::tie(count, o.pair) < std::tie(o.count, pair);
  }
};

class Training {
 public:
  explicit Training(const std::map<std::string, std::int64_t, std::less<>>& piece_count) {
    for (int byte = 0; byte < 256; ++byte) add_token(std::string(1, static_cast<char>(byte)));
    for (const auto& [text, count] : piece_count) {
      Piece& piece = pieces_.emplace_back();
      piece.count = count;
      for (const char c : text) piece.tokens.push_back(static_cast<unsigned char>(c));
      count_pairs(pieces_.size() - 1, piece.count);
    }
    for (const auto& [pair, info] : pairs_) queue_.push({info.count, pair});
  }

  BpeVocabulary run(std::int64_t vocabulary_size) && {
    BpeVocabulary out;
    while (static_cast<std::int64_t>(tokens_.size()) + 1 < vocabulary_size && !queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      // Counts in the queue are refreshed by pushing again; older entries no longer agree with the
      // table.
      const auto at = pairs_.find(best.pair);
      if (at == pairs_.end() || at->second.count != best.count) continue;
      if (best.count < 2) break;
      std::string merged = tokens_[index(best.pair.first)] + tokens_[index(best.pair.second)];
      if (known_.contains(merged)) continue;
      out.merges.push_back(best.pair);
      const auto token = static_cast<std::int32_t>(tokens_.size());
      add_token(std::move(merged));
      merge(best.pair, token);
    }
    out.tokens = std::move(tokens_);
    out.end_of_document = static_cast<std::int32_t>(out.tokens.size());
    out.tokens.emplace_back();
    return out;
  }

 private:
  static std::size_t index(std::int32_t token) { return static_cast<std::size_t>(token); }

  void add_token(std::string bytes) {
    known_.insert(bytes);
    tokens_.push_back(std::move(bytes));
  }

  /// Adds `count` (which may be negative) to every pair of neighbours of a piece.
  void count_pairs(std::size_t piece, std::int64_t count) {
    const auto& tokens = pieces_[piece].tokens;
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      const Pair pair(tokens[i], tokens[i + 1]);
      PairInfo& info = pairs_[pair];
      info.count += count;
      if (count > 0) info.pieces.insert(piece);
      changed_.insert(pair);
    }
  }

  void merge(Pair pair, std::int32_t token) {
    changed_.clear();
    const std::set<std::size_t> where = std::move(pairs_[pair].pieces);
    for (const std::size_t piece : where) {
      auto& tokens = pieces_[piece].tokens;
      count_pairs(piece, -pieces_[piece].count);
      std::size_t to = 0;
      for (std::size_t from = 0; from < tokens.size(); ++to) {
        const bool is_pair = from + 1 < tokens.size() && tokens[from] == pair.first &&
                             tokens[from + 1] == pair.second;
        tokens[to] = is_pair ? token : tokens[from];
        from += is_pair ? 2 : 1;
      }
      tokens.resize(to);
      count_pairs(piece, pieces_[piece].count);
    }
    for (const Pair& c : changed_) {
      const auto at = pairs_.find(c);
      if (at->second.count == 0) {
        pairs_.erase(at);
      } else {
        queue_.push({at->second.count, c});
      }
    }
  }

  std::vector<std::string> tokens_;
  std::unordered_set<std::string> known_;
  std::vector<Piece> pieces_;
  std::map<Pair, PairInfo> pairs_;
  std::set<Pair> changed_;
  std::priority_queue<Candidate> queue_;
};

}  // namespace

void BpeTrainer::add(std::string_view document) {
  while (!document.empty()) {
    const std::string_view piece = document.substr(0, first_piece(document));
    document.remove_prefix(piece.size());
    const auto at = piece_count_.find(piece);
    if (at == piece_count_.end()) {
      piece_count_.emplace(piece, 1);
    } else {
      ++at->second;
    }
  }
}

Result<BpeTokenizer> BpeTrainer::train(std::int64_t vocabulary_size) const {
  if (vocabulary_size < 257) {
    return make_error(ErrorCode::kInvalidArgument,
                      fmt::format("training a BPE: vocabulary size {} is less than 257, the bytes "
                                  "and the end of a document",
                                  vocabulary_size));
  }
  return BpeTokenizer::create(Training(piece_count_).run(vocabulary_size));
}

}  // namespace tenax::data
