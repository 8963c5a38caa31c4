// Files are compared with bytes put together here from the format's description.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>

#include "checkpoint/safetensors_reader.h"
#include "checkpoint/safetensors_writer.h"
#include "tests/unit/checkpoint/model_on_disk.h"

namespace tenax::checkpoint {
namespace {

/// A file with this header and so many zero bytes of data.
std::string file_bytes(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, '\0');
}

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<float> numbers(std::size_t count, float first) {
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = first + static_cast<float>(i) / 4;
  return out;
}

TEST(Safetensors, AFileIsHeaderLengthHeaderAndBytes) {
  const TempDir dir;
  auto writer = SafetensorsWriter::create(dir.path(), {{"b", {2}}, {"a", {1, 2}}});
  ASSERT_OK(writer);
  ASSERT_OK(writer->append(std::vector<float>{1, 2}));
  ASSERT_OK(writer->append(std::vector<float>{-1, 0.5f}));
  ASSERT_OK(writer->finish());
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}})";
  std::string expected = file_bytes(header + std::string((8 - header.size() % 8) % 8, ' '), 0);
  EXPECT_EQ(expected.size() % 8, 0u);
  for (const float v : {1.0f, 2.0f, -1.0f, 0.5f}) {
    expected.append(reinterpret_cast<const char*>(&v), 4);
  }
  EXPECT_EQ(read(dir / "model.safetensors"), expected);
}

TEST(Safetensors, WhatIsWrittenIsReadInPiecesOfAnySize) {
  const TempDir dir;
  const std::vector<float> big = numbers(3 * 400'001, -7);
  const std::vector<float> small = numbers(5, 3);
  auto writer =
      SafetensorsWriter::create(dir.path(), {{"big", {3, 400'001}}, {"s", {}}, {"small", {5}}});
  ASSERT_OK(writer);
  for (std::size_t at = 0; at < big.size(); at += 123'457) {
    ASSERT_OK(writer->append(
        std::span(big).subspan(at, std::min<std::size_t>(123'457, big.size() - at))));
  }
  ASSERT_OK(writer->append(std::vector<float>{42}));
  ASSERT_OK(writer->append(small));
  ASSERT_OK(writer->finish());

  const auto model = SafetensorsModel::open(dir.path());
  ASSERT_OK(model);
  EXPECT_EQ(model->names(), (std::vector<std::string>{"big", "s", "small"}));
  std::vector<float> back(big.size());
  ASSERT_OK(model->read("big", 0, std::span(back).first(700'000)));
  ASSERT_OK(model->read("big", 700'000, std::span(back).subspan(700'000)));
  EXPECT_EQ(back, big);
  std::vector<float> two(2);
  ASSERT_OK(model->read("small", 3, two));
  EXPECT_EQ(two, (std::vector<float>{3.75f, 4}));
  EXPECT_EQ(model->read("small", 4, two).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(model->read("none", 0, two).error().code, ErrorCode::kNotFound);
}

TEST(Safetensors, ShortFormatsAreReadBackRounded) {
  for (const FloatFormat format : {FloatFormat::kBf16, FloatFormat::kF16}) {
    const TempDir dir;
    SafetensorsWriteOptions options;
    options.format = format;
    auto writer = SafetensorsWriter::create(dir.path(), {{"w", {3}}}, options);
    ASSERT_OK(writer);
    ASSERT_OK(writer->append(std::vector<float>{1.001f, -3, 0x1p-20f}));
    ASSERT_OK(writer->finish());
    const auto model = SafetensorsModel::open(dir / "model.safetensors");
    ASSERT_OK(model);
    EXPECT_EQ(model->find("w")->dtype, name_of(format));
    EXPECT_EQ(model->find("w")->end, 6u);
    std::vector<float> back(3);
    ASSERT_OK(model->read("w", 0, back));
    EXPECT_EQ(back, format == FloatFormat::kBf16
                        ? (std::vector<float>{1, -3, 0x1p-20f})
                        : (std::vector<float>{1.0009765625f, -3, 0x1p-20f}));
  }
}

TEST(Safetensors, AValueThatDoesNotFitTheFormatIsAnError) {
  const TempDir dir;
  SafetensorsWriteOptions options;
  options.format = FloatFormat::kF16;
  {
    auto writer = SafetensorsWriter::create(dir.path(), {{"w", {2}}}, options);
    ASSERT_OK(writer);
    const Status status = writer->append(std::vector<float>{1, 1e6f});
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(status.error().message.find("element 1"), std::string::npos);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path())) << "nothing half-written is left";
}

TEST(Safetensors, LargeModelsAreCutIntoFilesWithAnIndex) {
  const TempDir dir;
  SafetensorsWriteOptions options;
  options.max_file_bytes = 100;
  const std::vector<OutgoingTensor> tensors{
      {"a", {10}}, {"b", {15}}, {"c", {50}}, {"d", {1}}, {"e", {2, 3}}};
  auto writer = SafetensorsWriter::create(dir.path(), tensors, options);
  ASSERT_OK(writer);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::size_t count = 1;
    for (const auto n : tensors[i].shape) count *= static_cast<std::size_t>(n);
    ASSERT_OK(writer->append(numbers(count, static_cast<float>(100 * i))));
  }
  ASSERT_OK(writer->finish());
  EXPECT_EQ(writer->paths(),
            (std::vector<std::string>{
                dir / "model-00001-of-00003.safetensors", dir / "model-00002-of-00003.safetensors",
                dir / "model-00003-of-00003.safetensors", dir / "model.safetensors.index.json"}));
  EXPECT_EQ(writer->data_bytes(), 4u * 82);
  const auto model = SafetensorsModel::open(dir.path());
  ASSERT_OK(model);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const SafetensorsEntry* entry = model->find(tensors[i].name);
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->shape, tensors[i].shape);
    std::vector<float> back(static_cast<std::size_t>(entry->num_elements()));
    ASSERT_OK(model->read(tensors[i].name, 0, back));
    EXPECT_EQ(back, numbers(back.size(), static_cast<float>(100 * i)));
  }

  std::filesystem::remove(dir / "model-00002-of-00003.safetensors");
  const auto incomplete = SafetensorsModel::open(dir.path());
  ASSERT_FALSE(incomplete);
  EXPECT_EQ(incomplete.error().code, ErrorCode::kNotFound);
  std::filesystem::copy(dir / "model-00001-of-00003.safetensors",
                        dir / "model-00002-of-00003.safetensors");
  const auto twice = SafetensorsModel::open(dir.path());
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, ErrorCode::kDataLoss);
}

TEST(Safetensors, AnIndexThatLeavesItsFolderIsRefused) {
  const TempDir dir;
  for (const char* name : {"../model.safetensors", "/etc/passwd", ".hidden", ""}) {
    write(dir / "model.safetensors.index.json",
          std::string(R"({"weight_map":{"w":")") + name + "\"}}");
    const auto model = SafetensorsModel::open(dir.path());
    ASSERT_FALSE(model);
    EXPECT_EQ(model.error().code, ErrorCode::kDataLoss) << name;
  }
}

TEST(Safetensors, TheWriterRefusesWhatIsNotTheTensors) {
  const TempDir dir;
  EXPECT_FALSE(SafetensorsWriter::create(dir.path(), {{"a", {1}}, {"a", {2}}}));
  EXPECT_FALSE(SafetensorsWriter::create(dir.path(), {}));
  EXPECT_EQ(SafetensorsWriter::create(dir / "none", {{"a", {1}}}).error().code,
            ErrorCode::kNotFound);
  auto writer = SafetensorsWriter::create(dir.path(), {{"a", {3}}, {"b", {2}}});
  ASSERT_OK(writer);
  EXPECT_FALSE(writer->append(numbers(4, 0))) << "reaches into the next tensor";
  ASSERT_OK(writer->append(numbers(3, 0)));
  ASSERT_OK(writer->append(numbers(1, 0)));
  EXPECT_FALSE(writer->finish()) << "b is not complete";
  ASSERT_OK(writer->append(numbers(1, 0)));
  EXPECT_FALSE(writer->append(numbers(1, 0))) << "there is no third tensor";
  ASSERT_OK(writer->finish());
}

struct Malformed {
  const char* name;
  std::string bytes;
  const char* says;
  ErrorCode code = ErrorCode::kDataLoss;
};

TEST(Safetensors, MalformedFilesAreNamedForWhatIsWrongWithThem) {
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
    return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}}";
  };
  std::string huge(8, '\0');
  const std::uint64_t huge_length = 1ULL << 60;
  std::memcpy(huge.data(), &huge_length, 8);
  std::string beyond = file_bytes(one("F32", "[1]", "[0,4]"), 0);
  const std::string two =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":)";
  const std::string first = two.substr(0, two.find("\"b\""));
  const std::vector<Malformed> cases = {
      {"empty", "", "too few"},
      {"short", "1234567", "too few"},
      {"huge header", huge + "{}", "at most"},
      {"header beyond file", beyond.substr(0, beyond.size() - 1), "the whole file has"},
      {"no JSON", file_bytes("{]", 0), "not a JSON object"},
      {"not an object", file_bytes("[1,2]", 0), "begin with"},
      {"leading space", file_bytes(" {}", 0), "begin with"},
      {"no dtype", file_bytes(R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4), "needs dtype"},
      {"negative extent", file_bytes(one("F32", "[-1]", "[0,4]"), 4), "whole number"},
      {"fraction", file_bytes(one("F32", "[1.5]", "[0,6]"), 6), "whole number"},
      {"three offsets", file_bytes(one("F32", "[1]", "[0,4,8]"), 4), "two whole numbers"},
      {"negative offset", file_bytes(one("F32", "[1]", "[-4,0]"), 4), "two whole numbers"},
      {"end before begin", file_bytes(one("F32", "[1]", "[4,0]"), 4), "before they begin"},
      {"wrong size", file_bytes(one("F32", "[3]", "[0,8]"), 8), "take 12 bytes"},
      {"wrong dtype size", file_bytes(one("BF16", "[2]", "[0,8]"), 8), "take 4 bytes"},
      {"overflow", file_bytes(one("F32", "[4294967296,4294967296]", "[0,4]"), 4), "addressed"},
      {"unknown dtype", file_bytes(one("F4", "[1]", "[0,4]"), 4), "F4", ErrorCode::kUnsupported},
      {"truncated data", file_bytes(one("F32", "[2]", "[0,8]"), 7), "has 7 bytes of data"},
      {"trailing bytes", file_bytes(one("F32", "[2]", "[0,8]"), 9), "the tensors take 8"},
      {"overlap", file_bytes(two + "[4,12]}}", 12), "within the one before"},
      {"gap", file_bytes(two + "[12,20]}}", 20), "belong to no tensor"},
      {"twice", file_bytes(first + first.substr(1) + two.substr(first.size()) + "[8,16]}}", 16),
       "twice"},
      {"metadata", file_bytes(R"({"__metadata__":{"a":1}})", 0), "__metadata__"},
  };
  const TempDir dir;
  for (const Malformed& c : cases) {
    write(dir / "model.safetensors", c.bytes);
    const auto model = SafetensorsModel::open(dir.path());
    ASSERT_FALSE(model) << c.name;
    EXPECT_EQ(model.error().code, c.code) << c.name << ": " << model.error().message;
    EXPECT_NE(model.error().message.find(c.says), std::string::npos)
        << c.name << ": " << model.error().message;
    EXPECT_NE(model.error().message.find(dir.path()), std::string::npos) << model.error().message;
  }
}

TEST(Safetensors, NoFlippedByteOfAHeaderCrashesTheReader) {
  const TempDir dir;
  auto writer = SafetensorsWriter::create(dir.path(), {{"first", {7, 3}}, {"second", {4}}});
  ASSERT_OK(writer);
  ASSERT_OK(writer->append(numbers(21, 0)));
  ASSERT_OK(writer->append(numbers(4, 0)));
  ASSERT_OK(writer->finish());
  const std::string good = read(dir / "model.safetensors");
  std::mt19937_64 rng(11);
  for (int i = 0; i < 1000; ++i) {
    std::string bytes = good;
    for (std::uint64_t flips = 1 + rng() % 3; flips > 0; --flips) {
      bytes[rng() % (good.size() - 100)] ^= static_cast<char>(1 << (rng() % 8));
    }
    if (rng() % 4 == 0) bytes.resize(rng() % bytes.size());
    write(dir / "model.safetensors", bytes);
    const auto model = SafetensorsModel::open(dir.path());
    if (!model) continue;
    for (const std::string& name : model->names()) {
      // What opens describes bytes that are there.
      std::vector<float> values(static_cast<std::size_t>(model->find(name)->num_elements()));
      const Status status = model->read(name, 0, values);
      EXPECT_TRUE(status || status.error().code == ErrorCode::kUnsupported)
          << status.error().message;
    }
  }
}

TEST(Safetensors, IntegersAreNoWeights) {
  const TempDir dir;
  write(dir / "model.safetensors",
        file_bytes(R"({"n":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8));
  const auto model = SafetensorsModel::open(dir.path());
  ASSERT_OK(model);
  std::vector<float> value(1);
  EXPECT_EQ(model->read("n", 0, value).error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace tenax::checkpoint
