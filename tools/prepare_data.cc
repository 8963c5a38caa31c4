#include "tools/prepare_data.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "data/blend.h"
#include "data/corpus.h"
#include "data/token_file.h"
#include "data/tokenize.h"
#include "data/unigram.h"
#include "tools/text_tokenizer.h"

using nlohmann::json;

namespace tenax::tools {

namespace {

struct CorpusFiles {
  data::TokenFileInfo train;
  data::TokenFileInfo heldout;
};

Hash128 digest_of(const std::vector<CorpusFiles>& corpora) {
  std::string text;
  for (const CorpusFiles& c : corpora)
    text += c.train.content_hash.hex() + c.heldout.content_hash.hex();
  return hash128(text + corpora.front().train.tokenizer_digest.hex());
}

Status save(const PreparedData& d, const std::vector<CorpusFiles>& corpora,
            const actors::RunDirectory& directory) {
  json files = json::array();
  for (const CorpusFiles& c : corpora) {
    files.push_back({{"train_hash", c.train.content_hash.hex()},
                     {"heldout_hash", c.heldout.content_hash.hex()}});
  }
  const json j = {{"num_documents", d.num_documents},
                  {"num_bytes", d.num_bytes},
                  {"unigram_loss", d.unigram_loss},
                  {"uniform_loss", d.uniform_loss},
                  {"corpora", std::move(files)},
                  {"tokenizer_digest", corpora.front().train.tokenizer_digest.hex()}};
  return actors::write_file(directory.data_info(), j.dump(2) + "\n", 0644);
}

/// The documents of each corpus.
Result<std::vector<data::DocumentList>> collect_corpora(const configs::RunConfig& config) {
  std::vector<data::DocumentList> corpora;
  if (config.data.blend.empty()) {
    TENAX_TRY(data::DocumentList all, data::collect_documents(config.base_dir, config.data.text));
    corpora.push_back(std::move(all));
  }
  for (const std::string& text : config.data.blend) {
    TENAX_TRY(const data::BlendPart part, data::parse_blend_part(text));
    TENAX_TRY(data::DocumentList list, data::collect_documents(config.base_dir, {part.pattern}));
    corpora.push_back(std::move(list));
  }
  return corpora;
}

void add(std::vector<std::int64_t>& sum, const std::vector<std::int64_t>& counts) {
  sum.resize(counts.size());
  for (std::size_t i = 0; i < counts.size(); ++i) sum[i] += counts[i];
}

/// What data.json says of each corpus' files; a run made before there were blends has one.
Result<std::vector<std::pair<Hash128, Hash128>>> stored_hashes(const json& j) {
  std::vector<std::pair<Hash128, Hash128>> hashes;
  const json corpora = j.contains("corpora") ? j.at("corpora") : json::array({j});
  for (const json& c : corpora) {
    TENAX_TRY(const Hash128 train, Hash128::from_hex(c.at("train_hash").get<std::string>()));
    TENAX_TRY(const Hash128 heldout, Hash128::from_hex(c.at("heldout_hash").get<std::string>()));
    hashes.emplace_back(train, heldout);
  }
  return hashes;
}

}  // namespace

Result<std::unique_ptr<data::Tokenizer>> open_tokenizer(const configs::RunConfig& config,
                                                        const actors::RunDirectory& directory) {
  TENAX_TRY(auto tokenizer,
            open_tokenizer(config.data.tokenizer, directory.tokenizer().parent_path()));
  data::TokenFile::OpenOptions same;
  same.tokenizer_digest = tokenizer->digest();
  TENAX_TRY(const data::TokenFile train, data::TokenFile::open(directory.train_tokens(), same));
  return tokenizer;
}

Result<PreparedData> prepare_data(const configs::RunConfig& config,
                                  const actors::RunDirectory& directory) {
  TENAX_TRY(const std::vector<data::DocumentList> lists, collect_corpora(config));
  std::vector<std::filesystem::path> all_files;
  PreparedData d;
  for (const data::DocumentList& list : lists) {
    all_files.insert(all_files.end(), list.files.begin(), list.files.end());
    d.notices.insert(d.notices.end(), list.notices.begin(), list.notices.end());
  }
  const TokenizerChoice choice{config.data.tokenizer, config.data.vocabulary_size,
                               config.base_dir / config.data.gpt2_dir};
  TENAX_TRY(const auto tokenizer,
            make_tokenizer(choice, all_files, directory.tokenizer().parent_path()));
  const data::SplitOptions split{config.data.heldout_fraction,
                                 static_cast<std::uint64_t>(config.run.seed)};
  std::vector<CorpusFiles> corpora;
  std::vector<std::int64_t> train_counts;
  std::vector<std::int64_t> heldout_counts;
  for (std::size_t c = 0; c < lists.size(); ++c) {
    TENAX_TRY(const data::TokenizedCorpus corpus,
              data::tokenize_corpus(lists[c].files, *tokenizer, split,
                                    {directory.train_tokens(c), directory.heldout_tokens(c)}));
    TENAX_TRY(const data::TokenFile train, data::TokenFile::open(directory.train_tokens(c)));
    TENAX_TRY(const data::TokenFile heldout, data::TokenFile::open(directory.heldout_tokens(c)));
    d.num_documents += corpus.num_documents;
    d.num_bytes += corpus.num_bytes;
    d.train_tokens += corpus.train.num_tokens;
    d.heldout_tokens += corpus.heldout.num_tokens;
    d.vocabulary_size = corpus.train.vocabulary_size;
    add(train_counts, data::count_tokens(train));
    add(heldout_counts, data::count_tokens(heldout));
    corpora.push_back({corpus.train, corpus.heldout});
  }
  d.unigram_loss = data::unigram_cross_entropy(train_counts, heldout_counts);
  d.uniform_loss = data::uniform_cross_entropy(d.vocabulary_size);
  d.digest = digest_of(corpora);
  TENAX_RETURN_IF_ERROR(save(d, corpora, directory));
  return d;
}

Result<PreparedData> reopen_data(const actors::RunDirectory& directory) {
  TENAX_TRY(const std::string text, actors::read_file(directory.data_info()));
  PreparedData d;
  std::vector<std::pair<Hash128, Hash128>> hashes;
  data::TokenFile::OpenOptions options;
  options.verify = data::TokenFile::Verify::kContent;
  try {
    const json j = json::parse(text);
    d.num_documents = j.at("num_documents");
    d.num_bytes = j.at("num_bytes");
    d.unigram_loss = j.at("unigram_loss");
    d.uniform_loss = j.at("uniform_loss");
    TENAX_TRY(hashes, stored_hashes(j));
    TENAX_TRY(options.tokenizer_digest,
              Hash128::from_hex(j.at("tokenizer_digest").get<std::string>()));
  } catch (const json::exception& e) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("{} is damaged: {}", directory.data_info().string(), e.what()));
  }
  if (hashes.empty()) {
    return make_error(ErrorCode::kDataLoss, fmt::format("{} is damaged: it names no corpus",
                                                        directory.data_info().string()));
  }
  std::vector<CorpusFiles> corpora;
  for (std::size_t c = 0; c < hashes.size(); ++c) {
    options.content_hash = hashes[c].first;
    TENAX_TRY(const data::TokenFile train,
              data::TokenFile::open(directory.train_tokens(c), options));
    options.content_hash = hashes[c].second;
    TENAX_TRY(const data::TokenFile heldout,
              data::TokenFile::open(directory.heldout_tokens(c), options));
    d.train_tokens += train.num_tokens();
    d.heldout_tokens += heldout.num_tokens();
    d.vocabulary_size = train.info().vocabulary_size;
    corpora.push_back({train.info(), heldout.info()});
  }
  d.digest = digest_of(corpora);
  return d;
}

}  // namespace tenax::tools
