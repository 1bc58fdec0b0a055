#include "base/host.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "support/child_process.hpp"

namespace weightcast::base {
namespace {

using test::ChildProcess;
using test::Talk;

TEST(Host, ProcessesOfOneHostHaveOneIdentity) {
  const std::string own = host_identity();

  ChildProcess child([](const Talk& talk) {
    talk.say(host_identity());
    return 0;
  });

  EXPECT_EQ(child.hear(), own);
  EXPECT_EQ(host_identity(), own);
  EXPECT_GT(own.size(), 10u);
  EXPECT_LE(own.size(), 128u);
  EXPECT_TRUE(std::all_of(own.begin(), own.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.';
  })) << own;
}

TEST(Host, HostAndPortAreReadStrictly) {
  const auto parsed = [](const std::string& text) { return parse_host_port("listen", text); };
  ASSERT_TRUE(parsed("10.0.0.1:29577"));
  EXPECT_EQ(*parsed("10.0.0.1:29577"), (HostPort{"10.0.0.1", 29577}));
  EXPECT_EQ(*parsed("trainer-0.cluster_a:0"), (HostPort{"trainer-0.cluster_a", 0}));
  EXPECT_EQ(*parsed("[fe80::1%eth0]:65535"), (HostPort{"fe80::1%eth0", 65535}));
  EXPECT_EQ(*parsed("*:1"), (HostPort{"*", 1}));
  for (const char* text :
       {"", ":", ":1", "host", "host:", "host:-1", "host:+1", "host:65536", "host:1x", "host: 1",
        "::1:5", "[]:1", "[:1", "h]:1", "a b:1", "a/b:1", "a\n:1", "tcp://a:1"}) {
    const Status status = parsed(text).status();
    EXPECT_EQ(status.code(), Code::kInvalid) << text;
    EXPECT_NE(status.message().find("option listen = \"" + std::string(text) + "\""),
              std::string::npos);
  }
  EXPECT_EQ(parsed(std::string(254, 'a') + ":1").status().code(), Code::kInvalid);
  for (const char* text : {"10.0.0.1:29577", "[::1]:5"}) EXPECT_EQ(to_string(*parsed(text)), text);
}

TEST(Host, LoopbackAndAnyAddressAreTold) {
  for (const char* host : {"127.0.0.1", "127.9.9.9", "localhost", "::1"}) {
    EXPECT_TRUE(is_loopback(host)) << host;
  }
  for (const char* host : {"0.0.0.0", "*", "::", "128.0.0.1", "10.0.0.1", "localhost.example", "",
                           "127.0.0.1.example"}) {
    EXPECT_FALSE(is_loopback(host)) << host;
  }
  for (const char* host : {"0.0.0.0", "*", "::"}) EXPECT_TRUE(is_any_address(host)) << host;
  EXPECT_FALSE(is_any_address("127.0.0.1"));
}

TEST(Host, TheAddressTowardsThisHostIsItsLoopback) {
  const auto own = local_address_towards("127.0.0.1");
  ASSERT_TRUE(own) << own.status().to_string();
  EXPECT_EQ(*own, "127.0.0.1");
  const auto nowhere = local_address_towards("no such host");
  EXPECT_EQ(nowhere.status().code(), Code::kNotFound);
  EXPECT_NE(nowhere.status().message().find("option `advertise`"), std::string::npos);
}

TEST(Host, TheAdvertisedAddressIsTheMostCertainOne) {
  EXPECT_EQ(*advertised_address("gpu-7.cluster", "127.0.0.1:5"), "gpu-7.cluster");
  EXPECT_EQ(*advertised_address("::1", ""), "::1");
  EXPECT_EQ(*advertised_address("[::1]", ""), "::1");
  EXPECT_EQ(*advertised_address("", "127.0.0.1:5"), "127.0.0.1");
  EXPECT_EQ(*advertised_address("", ""), "127.0.0.1");
  EXPECT_EQ(*advertised_address("", "", "10.1.2.3:0"), "10.1.2.3");
  if (const auto any = advertised_address("", "", "0.0.0.0:0")) {  // where there is a route
    EXPECT_FALSE(is_any_address(*any));
  }
  EXPECT_EQ(advertised_address("a b", "").status().code(), Code::kInvalid);
  EXPECT_EQ(advertised_address("0.0.0.0", "").status().code(), Code::kInvalid);
  EXPECT_EQ(advertised_address("", "nonsense").status().code(), Code::kInvalid);
  EXPECT_EQ(advertised_address("", "", "nonsense").status().code(), Code::kInvalid);
}

}  // namespace
}  // namespace weightcast::base
