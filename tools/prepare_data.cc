#include "tools/prepare_data.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "data/corpus.h"
#include "data/token_file.h"
#include "data/tokenize.h"
#include "data/unigram.h"
#include "tools/text_tokenizer.h"

using nlohmann::json;

namespace tenax::tools {

namespace {

Hash128 digest_of(const data::TokenFileInfo& train, const data::TokenFileInfo& heldout) {
  return hash128(train.content_hash.hex() + heldout.content_hash.hex() +
                 train.tokenizer_digest.hex());
}

Status save(const PreparedData& d, const data::TokenizedCorpus& corpus,
            const actors::RunDirectory& directory) {
  const json j = {{"num_documents", d.num_documents},
                  {"num_bytes", d.num_bytes},
                  {"unigram_loss", d.unigram_loss},
                  {"uniform_loss", d.uniform_loss},
                  {"train_hash", corpus.train.content_hash.hex()},
                  {"heldout_hash", corpus.heldout.content_hash.hex()},
                  {"tokenizer_digest", corpus.train.tokenizer_digest.hex()}};
  return actors::write_file(directory.data_info(), j.dump(2) + "\n", 0644);
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
  TENAX_TRY(const data::DocumentList documents,
            data::collect_documents(config.base_dir, config.data.text));
  const TokenizerChoice choice{config.data.tokenizer, config.data.vocabulary_size,
                               config.base_dir / config.data.gpt2_dir};
  TENAX_TRY(const auto tokenizer,
            make_tokenizer(choice, documents.files, directory.tokenizer().parent_path()));
  const data::SplitOptions split{config.data.heldout_fraction,
                                 static_cast<std::uint64_t>(config.run.seed)};
  TENAX_TRY(const data::TokenizedCorpus corpus,
            data::tokenize_corpus(documents.files, *tokenizer, split,
                                  {directory.train_tokens(), directory.heldout_tokens()}));
  TENAX_TRY(const data::TokenFile train, data::TokenFile::open(directory.train_tokens()));
  TENAX_TRY(const data::TokenFile heldout, data::TokenFile::open(directory.heldout_tokens()));
  PreparedData d;
  d.num_documents = corpus.num_documents;
  d.num_bytes = corpus.num_bytes;
  d.train_tokens = corpus.train.num_tokens;
  d.heldout_tokens = corpus.heldout.num_tokens;
  d.vocabulary_size = corpus.train.vocabulary_size;
  d.unigram_loss =
      data::unigram_cross_entropy(data::count_tokens(train), data::count_tokens(heldout));
  d.uniform_loss = data::uniform_cross_entropy(d.vocabulary_size);
  d.digest = digest_of(corpus.train, corpus.heldout);
  d.notices = documents.notices;
  TENAX_RETURN_IF_ERROR(save(d, corpus, directory));
  return d;
}

Result<PreparedData> reopen_data(const actors::RunDirectory& directory) {
  TENAX_TRY(const std::string text, actors::read_file(directory.data_info()));
  PreparedData d;
  data::TokenFile::OpenOptions train_options;
  data::TokenFile::OpenOptions heldout_options;
  try {
    const json j = json::parse(text);
    d.num_documents = j.at("num_documents");
    d.num_bytes = j.at("num_bytes");
    d.unigram_loss = j.at("unigram_loss");
    d.uniform_loss = j.at("uniform_loss");
    TENAX_TRY(train_options.content_hash, Hash128::from_hex(j.at("train_hash").get<std::string>()));
    TENAX_TRY(heldout_options.content_hash,
              Hash128::from_hex(j.at("heldout_hash").get<std::string>()));
    TENAX_TRY(train_options.tokenizer_digest,
              Hash128::from_hex(j.at("tokenizer_digest").get<std::string>()));
  } catch (const json::exception& e) {
    return make_error(ErrorCode::kDataLoss,
                      fmt::format("{} is damaged: {}", directory.data_info().string(), e.what()));
  }
  train_options.verify = data::TokenFile::Verify::kContent;
  heldout_options.verify = data::TokenFile::Verify::kContent;
  heldout_options.tokenizer_digest = train_options.tokenizer_digest;
  TENAX_TRY(const data::TokenFile train,
            data::TokenFile::open(directory.train_tokens(), train_options));
  TENAX_TRY(const data::TokenFile heldout,
            data::TokenFile::open(directory.heldout_tokens(), heldout_options));
  d.train_tokens = train.num_tokens();
  d.heldout_tokens = heldout.num_tokens();
  d.vocabulary_size = train.info().vocabulary_size;
  d.digest = digest_of(train.info(), heldout.info());
  return d;
}

}  // namespace tenax::tools
