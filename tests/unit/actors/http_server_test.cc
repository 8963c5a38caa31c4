// Pages, JSON and the guards of the HTTP server, against cpp-httplib's own client and bare sockets.
#include "actors/http_server.h"

#include <gtest/gtest.h>
#include <httplib.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dashboard/assets.h"
#include "tests/unit/actors/http_test_client.h"

namespace tenax::actors {
namespace {

TEST(HttpServer, ServesEveryEmbeddedFileUnchangedWithItsTypeAndAnETag) {
  auto server = start_server();
  auto client = client_of(*server);
  for (const dashboard::Asset& asset : dashboard::assets()) {
    auto answer = client.Get(std::string(asset.path));
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 200) << asset.path;
    EXPECT_EQ(answer->body, asset.bytes);
    EXPECT_EQ(answer->get_header_value("Content-Type"), asset.content_type);
    const std::string etag = answer->get_header_value("ETag");
    ASSERT_FALSE(etag.empty());
    auto again = client.Get(std::string(asset.path), {{"If-None-Match", etag}});
    ASSERT_TRUE(again);
    EXPECT_EQ(again->status, 304);
    EXPECT_TRUE(again->body.empty());
  }
  auto root = client.Get("/");
  ASSERT_TRUE(root);
  EXPECT_EQ(root->body, client.Get("/index.html")->body);
  EXPECT_EQ(root->get_header_value("Content-Security-Policy").find("default-src 'self'"), 0u);
}

TEST(HttpServer, AnswersFromItsSourcesWithTheSinceParameter) {
  auto server = start_server();
  auto client = client_of(*server);
  EXPECT_EQ(client.Get("/api/state")->body, R"({"run":{"id":"r1"}})");
  EXPECT_EQ(client.Get("/api/state")->get_header_value("Content-Type"), "application/json");
  EXPECT_EQ(client.Get("/api/metrics")->body, "-1");
  EXPECT_EQ(client.Get("/api/metrics?since=41")->body, "41");
  EXPECT_EQ(client.Get("/api/journal")->body, "0");
  EXPECT_EQ(client.Get("/api/journal?since=18446744073709551615")->body, "18446744073709551615");
  EXPECT_EQ(client.Get("/metrics")->body, "tenax_steps_total 1\n");
  EXPECT_EQ(client.Get("/metrics")->get_header_value("Content-Type"),
            "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(client.Get("/healthz")->status, 200);
}

TEST(HttpServer, RefusesASinceThatIsNotANumber) {
  auto server = start_server();
  auto client = client_of(*server);
  for (const char* since : {"x", "1x", "", "1.5", "-1"}) {
    EXPECT_EQ(client.Get(std::string("/api/journal?since=") + since)->status, 400) << since;
  }
  EXPECT_EQ(client.Get("/api/metrics?since=99999999999999999999")->status, 400);
}

TEST(HttpServer, SaysInJsonThatAPageDoesNotExist) {
  auto server = start_server();
  auto answer = client_of(*server).Get("/nope");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 404);
  EXPECT_EQ(nlohmann::json::parse(answer->body).at("error"), "no such page: /nope");
}

TEST(HttpServer, TurnsASourcesExceptionIntoA500AndGoesOn) {
  auto sources = test_sources();
  sources.state_json = []() -> std::string { throw std::runtime_error("store closed"); };
  auto server = start_server({}, std::move(sources));
  auto client = client_of(*server);
  auto answer = client.Get("/api/state");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 500);
  EXPECT_EQ(nlohmann::json::parse(answer->body).at("error"), "store closed");
  EXPECT_EQ(client.Get("/healthz")->status, 200);
}

TEST(HttpServer, SendsABodyOfManyMegabytesWhole) {
  auto sources = test_sources();
  std::string large;
  for (int i = 0; large.size() < (20u << 20); ++i) large += std::to_string(i);
  sources.metrics_json = [&](std::int64_t) { return large; };
  auto server = start_server({}, std::move(sources));
  // A browser offers every compression; the server must not spend the run's CPU on it.
  auto answer = client_of(*server).Get("/api/metrics", {{"Accept-Encoding", "gzip, br"}});
  ASSERT_TRUE(answer);
  EXPECT_FALSE(answer->has_header("Content-Encoding"));
  EXPECT_TRUE(answer->body == large);
}

TEST(HttpServer, NamesTheAddressAndTheKeyWhenThePortIsInUse) {
  auto first = start_server();
  auto second = HttpServer::start({.port = first->port()}, test_sources());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kInUse);
  EXPECT_NE(second.error().message.find("127.0.0.1:" + std::to_string(first->port())),
            std::string::npos);
  EXPECT_NE(second.error().message.find("dashboard.port"), std::string::npos);
}

TEST(HttpServer, TakesThePortOfAServerThatEnded) {
  auto first = start_server();
  const int port = first->port();
  ASSERT_EQ(client_of(*first).Get("/healthz")->status, 200);
  first.reset();
  auto second = HttpServer::start({.port = port}, test_sources());
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ((*second)->port(), port);
}

TEST(HttpServer, RefusesAHostBeyondLoopbackUnlessToldSoAndThenNeedsAToken) {
  auto refused = HttpServer::start({.host = "0.0.0.0"}, test_sources());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  refused = HttpServer::start({.host = "0.0.0.0", .allow_remote = true}, test_sources());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
}

TEST(HttpServer, ARemoteServerAnswersNobodyWithoutTheToken) {
  auto server = start_server({.host = "0.0.0.0", .control_token = "s3cret", .allow_remote = true});
  auto client = client_of(*server);
  for (const char* path : {"/", "/api/state", "/events", "/metrics", "/?token=wrong"}) {
    EXPECT_EQ(client.Get(path)->status, 401) << path;
  }
  EXPECT_EQ(client.Get("/api/state", {{"X-Tenax-Token", "s3cret"}})->status, 200);
  EXPECT_EQ(client.Get("/api/state", {{"Authorization", "Bearer s3cret"}})->status, 200);
  auto login = client.Get("/?token=s3cret");
  EXPECT_EQ(login->status, 303);
  EXPECT_EQ(login->get_header_value("Location"), "/");
  const std::string cookie = login->get_header_value("Set-Cookie");
  EXPECT_NE(cookie.find("HttpOnly"), std::string::npos);
  EXPECT_NE(cookie.find("SameSite=Strict"), std::string::npos);
  const std::string pair = cookie.substr(0, cookie.find(';'));
  EXPECT_EQ(client.Get("/", {{"Cookie", pair}})->status, 200);
  // The cookie opens the page, but does not stop the run.
  EXPECT_EQ(
      client.Post("/api/stop", {{"Cookie", pair}}, R"({"kind":"now"})", "application/json")->status,
      403);
}

TEST(HttpServer, RefusesTheHostHeaderOfAReboundDnsName) {
  auto server = start_server();
  auto client = client_of(*server);
  EXPECT_EQ(client.Get("/api/state", {{"Host", "evil.example"}})->status, 403);
  EXPECT_EQ(client.Get("/api/state", {{"Host", "localhost:1234"}})->status, 200);
  const std::string answer = raw_request(server->port(), "GET /api/state HTTP/1.1\r\n\r\n");
  EXPECT_EQ(answer.find("HTTP/1.1 403"), 0u) << answer;
}

TEST(HttpServer, NeverTakesARefusedRequestsBodyForAnotherRequest) {
  auto server = start_server();
  const std::string inner = "GET /api/state HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const std::string answer = raw_request(server->port(),
                                         "POST /api/stop HTTP/1.1\r\nHost: evil.example\r\n"
                                         "Content-Length: " +
                                             std::to_string(inner.size()) + "\r\n\r\n" + inner);
  EXPECT_EQ(answer.find("\"run\""), std::string::npos) << answer;
}

struct StopCase {
  const char* description;
  httplib::Headers headers;
  std::string body;
  int status;
};

TEST(HttpServer, StopsTheRunOnlyForTheTokenFromTheSameSiteWithAKnownKind) {
  std::vector<std::string> kinds;
  auto sources = test_sources();
  sources.stop = [&](std::string kind) {
    kinds.push_back(std::move(kind));
    return Status();
  };
  auto server = start_server({.control_token = "s3cret"}, std::move(sources));
  auto client = client_of(*server);
  const std::string port = std::to_string(server->port());
  const std::vector<StopCase> cases = {
      {"no token", {}, R"({"kind":"now"})", 403},
      {"wrong token", {{"X-Tenax-Token", "s3creT"}}, R"({"kind":"now"})", 403},
      {"another site",
       {{"X-Tenax-Token", "s3cret"}, {"Origin", "http://evil.example"}},
       R"({"kind":"now"})",
       403},
      {"unknown kind", {{"X-Tenax-Token", "s3cret"}}, R"({"kind":"later"})", 400},
      {"not JSON", {{"X-Tenax-Token", "s3cret"}}, "kind=now", 400},
      {"not an object", {{"X-Tenax-Token", "s3cret"}}, "[1]", 400},
      {"kind is a number", {{"X-Tenax-Token", "s3cret"}}, R"({"kind":1})", 400},
      {"too long", {{"X-Tenax-Token", "s3cret"}}, std::string(1 << 20, ' '), 413},
  };
  for (const StopCase& c : cases) {
    auto answer = client.Post("/api/stop", c.headers, c.body, "application/json");
    if (c.status == 413 && !answer) continue;  // the connection may end before the body is sent
    ASSERT_TRUE(answer) << c.description;
    EXPECT_EQ(answer->status, c.status) << c.description;
  }
  EXPECT_EQ(client.Get("/api/stop", {{"X-Tenax-Token", "s3cret"}})->status, 404);
  EXPECT_TRUE(kinds.empty());
  EXPECT_EQ(
      client
          .Post("/api/stop", {{"X-Tenax-Token", "s3cret"}, {"Origin", "http://127.0.0.1:" + port}},
                R"({"kind":"graceful"})", "application/json")
          ->status,
      202);
  EXPECT_EQ(
      client
          .Post("/api/stop", {{"X-Tenax-Token", "s3cret"}}, R"({"kind":"now"})", "application/json")
          ->status,
      202);
  EXPECT_EQ(kinds, (std::vector<std::string>{"graceful", "now"}));
}

TEST(HttpServer, AnEmptyControlTokenStopsNothing) {
  auto server = start_server();
  auto client = client_of(*server);
  EXPECT_EQ(client.Post("/api/stop", R"({"kind":"now"})", "application/json")->status, 403);
  EXPECT_EQ(
      client.Post("/api/stop", {{"X-Tenax-Token", ""}}, R"({"kind":"now"})", "application/json")
          ->status,
      403);
}

TEST(HttpServer, ChangesTheWorkersOnlyForTheToken) {
  std::vector<std::string> asked;
  auto sources = test_sources();
  sources.control = [&](const std::string& action, const nlohmann::json& body) -> Status {
    asked.push_back(action + " " + body.dump());
    if (action == "scale") return make_error(ErrorCode::kInvalidArgument, "too many");
    return {};
  };
  auto server = start_server({.control_token = "s3cret"}, std::move(sources));
  auto client = client_of(*server);
  const httplib::Headers token = {{"X-Tenax-Token", "s3cret"}};
  const auto post = [&](const std::string& path, const httplib::Headers& headers,
                        const std::string& body) {
    return client.Post(path, headers, body, "application/json");
  };
  EXPECT_EQ(post("/api/control/drain", {}, R"({"agent":1})")->status, 403);
  EXPECT_EQ(post("/api/control/drain", token, "agent 1")->status, 400);
  EXPECT_TRUE(asked.empty());
  EXPECT_EQ(post("/api/control/drain", token, R"({"agent":1})")->status, 202);
  const auto refused = post("/api/control/scale", token, R"({"dp":9})");
  EXPECT_EQ(refused->status, 409);
  EXPECT_EQ(nlohmann::json::parse(refused->body).at("error"), "too many");
  EXPECT_EQ(asked, (std::vector<std::string>{R"(drain {"agent":1})", R"(scale {"dp":9})"}));
}

TEST(HttpServer, PassesTheErrorOfARefusedStopOn) {
  auto sources = test_sources();
  sources.stop = [](const std::string&) -> Status {
    return make_error(ErrorCode::kInvalidArgument, "the run has finished");
  };
  auto server = start_server({.control_token = "s3cret"}, std::move(sources));
  auto answer = client_of(*server).Post("/api/stop", {{"X-Tenax-Token", "s3cret"}},
                                        R"({"kind":"now"})", "application/json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 409);
  EXPECT_EQ(nlohmann::json::parse(answer->body).at("error"), "the run has finished");
}

}  // namespace
}  // namespace tenax::actors
