#include "data/corpus.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "data/glob.h"
#include "temp_folder.h"

namespace tenax::data {
namespace {

using Names = std::vector<std::string>;

TEST(Glob, MatchesNames) {
  EXPECT_TRUE(matches_name("*.md", "a.md"));
  EXPECT_TRUE(matches_name("*.md", ".md"));
  EXPECT_FALSE(matches_name("*.md", "a.mdx"));
  EXPECT_TRUE(matches_name("a*b*c", "aXbYbZc"));
  EXPECT_FALSE(matches_name("a*b*c", "aXbYbZ"));
  EXPECT_TRUE(matches_name("?x*", "yx"));
  EXPECT_FALSE(matches_name("?x", "x"));
  EXPECT_TRUE(matches_name("*", ""));
  EXPECT_TRUE(matches_name("a**", "a"));
  EXPECT_FALSE(matches_name("", "a"));
}

Names collected(const std::filesystem::path& base, const std::vector<std::string>& patterns) {
  const auto list = collect_documents(base, patterns);
  if (!list) return {"error: " + list.error().message};
  Names names;
  for (const auto& file : list->files) {
    names.push_back(file.lexically_relative(base.lexically_normal()).generic_string());
  }
  return names;
}

std::string error_of(const std::filesystem::path& base, const std::vector<std::string>& patterns,
                     ErrorCode code) {
  const auto list = collect_documents(base, patterns);
  if (list) return "no error";
  EXPECT_EQ(list.error().code, code);
  return list.error().message;
}

class Corpus : public ::testing::Test {
 protected:
  Corpus() {
    for (const char* name :
         {"a.md", "b.txt", "docs/c.md", "docs/deep/er/d.md", "docs/deep/e.cc", "build/x.md",
          "build-asan/x.md", "docs/building/x.md", ".git/x.md", "docs/.cache/x.md", "runs/x.md",
          "docs/node_modules/x.md", ".hidden.md", "Z.md"}) {
      folder_.write(name, "text");
    }
  }
  const TempFolder folder_;
};

TEST_F(Corpus, TwoStarsCrossAnyNumberOfFolders) {
  EXPECT_EQ(collected(folder_.path(), {"docs/**/*.md"}), (Names{"docs/c.md", "docs/deep/er/d.md"}));
  EXPECT_EQ(collected(folder_.path(), {"**/d.md"}), (Names{"docs/deep/er/d.md"}));
  EXPECT_EQ(collected(folder_.path(), {"docs/**"}),
            (Names{"docs/c.md", "docs/deep/e.cc", "docs/deep/er/d.md"}));
  EXPECT_EQ(collected(folder_.path(), {"docs/**/**/deep/**/*"}),
            (Names{"docs/deep/e.cc", "docs/deep/er/d.md"}));
}

TEST_F(Corpus, AreSortedByNameAndListedOnce) {
  EXPECT_EQ(collected(folder_.path(), {"**/*.md", "*.md", "docs/../a.md", "./b.txt"}),
            (Names{".hidden.md", "Z.md", "a.md", "b.txt", "docs/c.md", "docs/deep/er/d.md"}));
}

TEST_F(Corpus, DoNotDependOnWhereTheBaseFolderIsSeenFrom) {
  EXPECT_EQ(collected(folder_.path() / "docs", {"../*.md", "**/*.md"}),
            (Names{"../.hidden.md", "../Z.md", "../a.md", "c.md", "deep/er/d.md"}));
  EXPECT_EQ(collected(folder_.path() / "docs" / ".." / "docs", {"c.md"}), (Names{"c.md"}));
}

TEST_F(Corpus, FoldersOfBuildProductsAreEnteredOnlyByName) {
  EXPECT_EQ(collected(folder_.path(), {"*/x.md"}),
            Names{"error: pattern '*/x.md' matches no file (from folder " +
                  folder_.path().string() + ")"});
  EXPECT_EQ(collected(folder_.path(), {"build/*.md"}), (Names{"build/x.md"}));
}

TEST_F(Corpus, AbsolutePatternsWork) {
  EXPECT_EQ(collected("/", {(folder_ / "docs/*.md").string()}),
            (Names{(folder_ / "docs/c.md").string().substr(1)}));
}

TEST_F(Corpus, LinksToFoldersAreNotFollowedAndLinksToFilesAre) {
  std::filesystem::create_directory_symlink(folder_.path(), folder_ / "docs/loop");
  std::filesystem::create_symlink(folder_ / "b.txt", folder_ / "docs/linked.md");
  EXPECT_EQ(collected(folder_.path(), {"docs/**/*.md"}),
            (Names{"docs/c.md", "docs/deep/er/d.md", "docs/linked.md"}));
}

TEST_F(Corpus, EveryPatternThatGivesNothingIsReported) {
  const std::string from = " (from folder " + folder_.path().string() + ")";
  folder_.write("bin/a.o", std::string("\x7f"
                                       "ELF\0\1",
                                       6));
  EXPECT_EQ(
      error_of(folder_.path(), {"*.md", "*.rst", "nowhere/**/*.md", "bin/*"}, ErrorCode::kNotFound),
      "pattern '*.rst' matches no file" + from + "\n" +
          "pattern 'nowhere/**/*.md' matches no file" + from + "\n" +
          "pattern 'bin/*' matches no text, only 1 binary or empty files" + from);
}

TEST_F(Corpus, BinaryAndEmptyFilesAreLeftOutWithANotice) {
  folder_.write("docs/picture.md", std::string("PNG\0\1\2", 6));
  folder_.write("docs/empty.md", "");
  const auto list = collect_documents(folder_.path(), {"docs/*.md"});
  ASSERT_TRUE(list) << list.error().message;
  EXPECT_EQ(list->files.size(), 1u);
  EXPECT_EQ(list->notices,
            (Names{"left out " + (folder_ / "docs/empty.md").string() + ": it is empty",
                   "left out " + (folder_ / "docs/picture.md").string() + ": it is not text"}));
}

TEST_F(Corpus, AFileThatCannotBeReadIsAnError) {
  std::filesystem::create_symlink("/nonexistent", folder_ / "docs/dangling.md");
  EXPECT_EQ(error_of(folder_.path(), {"docs/*.md"}, ErrorCode::kNotFound),
            "opening document " + (folder_ / "docs/dangling.md").string() +
                ": No such file or directory");
}

TEST_F(Corpus, AFileWithoutPermissionIsAnError) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  std::filesystem::permissions(folder_ / "a.md", std::filesystem::perms::none);
  EXPECT_EQ(error_of(folder_.path(), {"*.md"}, ErrorCode::kPermission),
            "opening document " + (folder_ / "a.md").string() + ": Permission denied");
}

}  // namespace
}  // namespace tenax::data
