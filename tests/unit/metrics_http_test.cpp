// The endpoint, and clients that mean it ill.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <vector>

#include "metrics/outlet.hpp"
#include "support/http_get.hpp"

namespace weightcast::metrics {
namespace {

using test::HttpClient;
using test::port_of;

constexpr const char* kGet = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

int threads() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("Threads:")) return std::stoi(line.substr(8));
  }
  return 0;
}

class MetricsHttpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = serve_http({"127.0.0.1", 0}, [this] { return make(); });
    ASSERT_TRUE(opened) << opened.status().to_string();
    outlet = std::move(*opened);
    port = port_of(outlet->where());
  }
  std::string ask(const std::string& request) const { return test::http(port, request); }
  bool works() const { return ask(kGet).ends_with("\r\n\r\nthe text\n"); }

  std::function<std::string()> make = [] { return std::string("the text\n"); };
  std::unique_ptr<Outlet> outlet;
  int port = 0;
};

TEST_F(MetricsHttpTest, ServesTheTextOfTheMoment) {
  EXPECT_EQ(outlet->where(), "http://127.0.0.1:" + std::to_string(port) + "/metrics");
  const std::string answer = ask(kGet);
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_NE(answer.find("Content-Type: text/plain; version=0.0.4"), std::string::npos) << answer;
  EXPECT_TRUE(works());
  EXPECT_TRUE(ask("GET /metrics?name=x HTTP/1.0\r\n\r\n").ends_with("the text\n"));
  const std::string head = ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n")) << head;
}

TEST_F(MetricsHttpTest, RefusesWhatItDoesNotServe) {
  EXPECT_TRUE(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404 "));
  EXPECT_TRUE(ask("GET /metrics/../x HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404 "));
  EXPECT_TRUE(ask("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 405 "));
  make = []() -> std::string { throw std::runtime_error("no memory"); };
  EXPECT_TRUE(ask(kGet).starts_with("HTTP/1.1 500 "));
}

TEST_F(MetricsHttpTest, GarbageIsAnsweredOrDroppedAndHarmsNobody) {
  EXPECT_TRUE(ask("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(ask("POST /metrics HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n")
                  .starts_with("HTTP/1.1 400 "));
  // More than the bound, without an end.
  ask("GET /metrics HTTP/1.1\r\nx: " + std::string(100'000, 'a'));
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int i = 0; i < 50; ++i) {
    std::string garbage(random() % 3000, '\0');
    std::generate(garbage.begin(), garbage.end(), [&] { return static_cast<char>(random()); });
    HttpClient(port).send(i % 2 == 0 ? garbage : "GET /metrics HTTP/1.1\r\n" + garbage);
  }
  EXPECT_TRUE(works());
}

TEST_F(MetricsHttpTest, SilentClientsTakeNeitherThreadsNorMoreThanTheirPlaces) {
  const int before = threads();
  std::vector<std::unique_ptr<HttpClient>> silent;
  // The last ones find every place taken and are sent away at once; the others are heard out.
  for (int i = 0; i < 24; ++i) {
    silent.push_back(std::make_unique<HttpClient>(port));
    ASSERT_TRUE(silent.back()->connected());
    silent.back()->send("GET /met");
  }
  bool ended = false;
  EXPECT_EQ(silent.back()->read(&ended), "");
  EXPECT_TRUE(ended);
  EXPECT_EQ(threads(), before);
  silent.front()->send("rics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(silent.front()->read().ends_with("the text\n"));
  silent.clear();
  bool again = false;
  for (int i = 0; i < 1000 && !again; ++i) again = works();  // each try waits for an answer
  EXPECT_TRUE(again);
}

TEST_F(MetricsHttpTest, EndsWhileClientsAreThere) {
  HttpClient silent(port);
  silent.send("GET");
  outlet.reset();
  bool ended = false;
  silent.read(&ended);
  EXPECT_TRUE(ended);
  EXPECT_FALSE(HttpClient(port).connected());
}

TEST_F(MetricsHttpTest, APortThatIsTakenIsAnErrorThatSaysWhatToDo) {
  const auto second =
      serve_http({"127.0.0.1", static_cast<std::uint16_t>(port)}, [] { return std::string(); });
  ASSERT_FALSE(second);
  EXPECT_EQ(second.status().code(), Code::kExists);
  EXPECT_NE(second.status().message().find("127.0.0.1:" + std::to_string(port)), std::string::npos);
  EXPECT_NE(second.status().message().find("a port of its own"), std::string::npos);
  EXPECT_TRUE(works()) << "the first is not disturbed";
}

TEST_F(MetricsHttpTest, AnAddressOfAnotherHostIsRefused) {
  const auto elsewhere = serve_http({"192.0.2.1", 0}, [] { return std::string(); });
  ASSERT_FALSE(elsewhere);
  EXPECT_NE(elsewhere.status().message().find("192.0.2.1"), std::string::npos);
}

TEST_F(MetricsHttpTest, TouchesNoSignal) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("SigIgn:")) {
      EXPECT_EQ(std::stoull(line.substr(7), nullptr, 16) & (1ull << (SIGPIPE - 1)), 0u) << line;
    }
  }
}

}  // namespace
}  // namespace weightcast::metrics
