#include "actors/http_guard.h"

#include <gtest/gtest.h>

namespace tenax::actors {
namespace {

TEST(HttpGuard, KnowsLoopbackNamesAndAddressesWithoutResolving) {
  for (const char* host : {"localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "::1", "[::1]"}) {
    EXPECT_TRUE(is_loopback_host(host)) << host;
  }
  for (const char* host : {"", "0.0.0.0", "::", "10.0.0.1", "127.0.0.1.evil.example", "127.0.0",
                           "127.0.0.x", "127..0.1", "localhost.evil.example", "[::1"}) {
    EXPECT_FALSE(is_loopback_host(host)) << host;
  }
}

TEST(HttpGuard, SplitsThePortOffAnAuthority) {
  EXPECT_EQ(host_of_authority("localhost:8080"), "localhost");
  EXPECT_EQ(host_of_authority("localhost"), "localhost");
  EXPECT_EQ(host_of_authority("[::1]:8080"), "[::1]");
  EXPECT_EQ(host_of_authority("[::1]"), "[::1]");
}

TEST(HttpGuard, RefusesTheHostHeaderOfAReboundDnsName) {
  EXPECT_TRUE(host_allowed("localhost:9000", "127.0.0.1"));
  EXPECT_TRUE(host_allowed("127.0.0.1:9000", "::1"));
  EXPECT_TRUE(host_allowed("[::1]:9000", "127.0.0.1"));
  EXPECT_TRUE(host_allowed("node7:80", "node7"));
  EXPECT_FALSE(host_allowed("", "127.0.0.1"));
  EXPECT_FALSE(host_allowed(":80", "127.0.0.1"));
  EXPECT_FALSE(host_allowed("evil.example:9000", "127.0.0.1"));
  EXPECT_FALSE(host_allowed("localhost.evil.example", "127.0.0.1"));
}

TEST(HttpGuard, AcceptsOnlyTheServersOwnOrigin) {
  EXPECT_TRUE(origin_allowed("", "localhost:80"));
  EXPECT_TRUE(origin_allowed("http://localhost:80", "localhost:80"));
  EXPECT_FALSE(origin_allowed("http://localhost:81", "localhost:80"));
  EXPECT_FALSE(origin_allowed("http://evil.example", "localhost:80"));
  EXPECT_FALSE(origin_allowed("null", "localhost:80"));
  EXPECT_FALSE(origin_allowed("file://localhost:80", "localhost:80"));
}

TEST(HttpGuard, MatchesATokenExactlyAndNeverAnEmptyOne) {
  EXPECT_TRUE(token_matches("secret", "secret"));
  EXPECT_FALSE(token_matches("secreT", "secret"));
  EXPECT_FALSE(token_matches("secret ", "secret"));
  EXPECT_FALSE(token_matches("", "secret"));
  EXPECT_FALSE(token_matches("", ""));
}

TEST(HttpGuard, FindsACookieAmongOthers) {
  EXPECT_EQ(cookie_value("a=1; tenax_token=xyz; b=2", "tenax_token"), "xyz");
  EXPECT_EQ(cookie_value("tenax_token=xyz", "tenax_token"), "xyz");
  EXPECT_EQ(cookie_value("not_tenax_token=xyz", "tenax_token"), "");
  EXPECT_EQ(cookie_value("tenax_token", "tenax_token"), "");
}

}  // namespace
}  // namespace tenax::actors
