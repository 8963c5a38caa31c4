#include "configs/binder.h"

#include <gtest/gtest.h>

#include "configs/toml_source.h"

namespace tenax::configs {
namespace {

enum class Colour { kRed, kGreen };

struct Sample {
  bool flag = false;
  std::int32_t small = 1;
  std::int64_t count = 2;
  double ratio = 0.5;
  std::string name = "x";
  std::vector<std::string> files;
  Duration wait = std::chrono::seconds(1);
  Colour colour = Colour::kRed;
};

Binder bind(Sample& s) {
  Binder b;
  b.add("z.flag", s.flag, {.doc = "A flag."});
  b.add("a.small", s.small, {.doc = "Small.", .range = at_least(-5)});
  b.add("a.count", s.count, {.doc = "Count.", .unit = "apples", .range = between(1, 9)});
  b.add("a.ratio", s.ratio, {.doc = "Ratio.", .range = from_to_below(0, 1)});
  b.add("a.name", s.name, {.doc = "Name.", .changeable = Changeable::kYes});
  b.add("a.files", s.files, {.doc = "Files."});
  b.add("a.wait", s.wait, {.doc = "Wait.", .range = above(0)});
  b.add_enum("a.colour", s.colour, {{"red", Colour::kRed}, {"green", Colour::kGreen}},
             {.doc = "Colour."});
  return b;
}

TEST(Binder, CanonicalTextHasAllKeysInOrder) {
  Sample s;
  s.files = {"a b", "c\"d\\\n"};
  s.ratio = 1e-8;
  EXPECT_EQ(bind(s).canonical_text(),
            "a.colour = \"red\"\n"
            "a.count = 2\n"
            "a.files = [\"a b\", \"c\\\"d\\\\\\u000A\"]\n"
            "a.name = \"x\"\n"
            "a.ratio = 1e-08\n"
            "a.small = 1\n"
            "a.wait = \"1s\"\n"
            "z.flag = false\n");
}

TEST(Binder, CanonicalTextReadsBackAsTheSame) {
  Sample s{true,
           -5,
           9,
           0.1 + 0.2,
           "\x7f\ttab \xc3\xa9 \"quote\" \\",
           {"", "**/*.md"},
           Duration(1234567),
           Colour::kGreen};
  const std::string text = bind(s).canonical_text();
  Sample t;
  Binder binder = bind(t);
  EXPECT_EQ(read_toml(binder, text, "canonical").lines, std::vector<std::string>{});
  EXPECT_EQ(binder.canonical_text(), text);
  EXPECT_EQ(t.ratio, s.ratio);
  EXPECT_EQ(t.name, s.name);
  EXPECT_EQ(t.files, s.files);
  EXPECT_EQ(t.wait, s.wait);
  EXPECT_EQ(t.colour, s.colour);
}

TEST(Binder, WholeNumbersStayFloatsInCanonicalText) {
  Sample s;
  s.ratio = 0;
  EXPECT_NE(bind(s).canonical_text().find("a.ratio = 0.0\n"), std::string::npos);
}

TEST(Binder, DigestChangesWithEveryKey) {
  Sample s;
  const Hash128 before = bind(s).digest();
  Sample t = s;
  EXPECT_EQ(bind(t).digest(), before);
  t.wait += Duration(1);
  EXPECT_NE(bind(t).digest(), before);
}

TEST(Binder, ListsEverythingThatAPersonWantsToKnow) {
  Sample s;
  const auto rows = bind(s).list();
  ASSERT_EQ(rows.size(), 8u);
  EXPECT_EQ(rows[0].type, "red|green");
  EXPECT_EQ(rows[1].key, "a.count");
  EXPECT_EQ(rows[1].type, "integer");
  EXPECT_EQ(rows[1].value, "2");
  EXPECT_EQ(rows[1].unit, "apples");
  EXPECT_EQ(rows[1].range, "at least 1 and at most 9");
  EXPECT_EQ(rows[1].doc, "Count.");
  EXPECT_EQ(rows[1].changeable, Changeable::kNo);
  EXPECT_EQ(rows[2].type, "list of strings");
  EXPECT_EQ(rows[3].changeable, Changeable::kYes);
  EXPECT_EQ(rows[4].type, "number");
  EXPECT_EQ(rows[4].range, "at least 0 and below 1");
  EXPECT_EQ(rows[6].type, "duration");
  EXPECT_EQ(rows[6].range, "above 0s");
  EXPECT_EQ(rows[7].type, "boolean");
}

TEST(Binder, LeavesAMemberAloneWhenItsValueIsWrong) {
  Sample s;
  Binder binder = bind(s);
  EXPECT_TRUE(binder.assign("a.count", {std::int64_t{10}, "integer 10"}));
  EXPECT_EQ(s.count, 2);
  EXPECT_FALSE(binder.assign("a.count", {std::int64_t{9}, "integer 9"}));
  EXPECT_EQ(s.count, 9);
}

}  // namespace
}  // namespace tenax::configs
