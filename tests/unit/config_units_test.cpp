#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>

#include "config/nearest.hpp"
#include "config/place.hpp"
#include "config/units.hpp"

namespace weightcast::config {
namespace {

using namespace std::chrono_literals;

TEST(UnitsTest, SizesAreBytesOrHaveAUnit) {
  EXPECT_EQ(parse_size("0"), 0u);
  EXPECT_EQ(parse_size("4096"), 4096u);
  EXPECT_EQ(parse_size("7B"), 7u);
  EXPECT_EQ(parse_size("1KB"), 1000u);
  EXPECT_EQ(parse_size("1KiB"), 1024u);
  EXPECT_EQ(parse_size("512MiB"), 512u << 20);
  EXPECT_EQ(parse_size("1GB"), 1'000'000'000u);
  EXPECT_EQ(parse_size("3GiB"), std::uint64_t{3} << 30);
  EXPECT_EQ(parse_size("2TB"), 2'000'000'000'000u);
  EXPECT_EQ(parse_size("2TiB"), std::uint64_t{2} << 40);
}

TEST(UnitsTest, DurationsHaveAUnit) {
  EXPECT_EQ(parse_duration("0"), 0ns);
  EXPECT_EQ(parse_duration("5ns"), 5ns);
  EXPECT_EQ(parse_duration("5us"), 5us);
  EXPECT_EQ(parse_duration("250ms"), 250ms);
  EXPECT_EQ(parse_duration("2s"), 2s);
  EXPECT_EQ(parse_duration("1m"), 1min);
  EXPECT_EQ(parse_duration("24h"), 24h);
}

TEST(UnitsTest, OtherTextsAreRefused) {
  for (const char* text : {"", "-1", "+1", " 1", "1 ", "1.5GiB", "1gb", "1M", "MiB", "0x10", "1e3",
                           "1 KiB", "18446744073709551616", "99999999TiB", "16777216TiB"}) {
    EXPECT_FALSE(parse_size(text)) << text;
  }
  for (const char* text : {"", "1", "-1s", "1.5s", "1sec", "1S", "s", "1s2ms",
                           "9223372036854775808ns", "2562048h", "18446744073709551616ns"}) {
    EXPECT_FALSE(parse_duration(text)) << text;
  }
  for (const char* text : {"", "-1", "1x", "0x1", "1.0", "18446744073709551616"}) {
    EXPECT_FALSE(parse_count(text)) << text;
  }
  for (const char* text : {"", "yes", "TRUE", "2", "on"}) EXPECT_FALSE(parse_truth(text)) << text;
}

TEST(UnitsTest, TheGreatestThatFitIsTaken) {
  EXPECT_EQ(parse_count("18446744073709551615"), ~std::uint64_t{0});
  EXPECT_EQ(parse_size("16777215TiB"), std::uint64_t{16777215} << 40);
  EXPECT_EQ(parse_duration("9223372036854775807ns"), Duration::max());
  EXPECT_EQ(parse_duration("2562047h"), Duration(2562047h));
}

TEST(UnitsTest, WhatIsShownIsReadBackAsItWas) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t number = random() >> random() % 64 << random() % 40;
    EXPECT_EQ(parse_size(show_size(number)), number) << show_size(number);
    const Duration duration(static_cast<Duration::rep>(number >> 1));
    EXPECT_EQ(parse_duration(show_duration(duration)), duration) << show_duration(duration);
  }
  EXPECT_EQ(show_size(16 * 1024), "16KiB");
  EXPECT_EQ(show_size(1000), "1000");
  EXPECT_EQ(show_duration(90s), "90s");
  EXPECT_EQ(show_duration(60s), "1m");
  EXPECT_EQ(show_duration(-1ms), "-1ms");
  EXPECT_EQ(show_duration(Duration::min()), "-9223372036854775808ns");
}

TEST(PlaceTest, HostAndPortAreToldApart) {
  struct Case {
    const char* text;
    const char* host;
    std::uint16_t port;
  };
  for (const Case& good :
       {Case{"trainer-0:29577", "trainer-0", 29577}, Case{"10.0.0.1:1", "10.0.0.1", 1},
        Case{"[fd00::1]:65535", "fd00::1", 65535}, Case{"a_b.example:0", "a_b.example", 0}}) {
    const auto place = parse_place(good.text);
    ASSERT_TRUE(place) << good.text;
    EXPECT_EQ(place->host, good.host);
    EXPECT_EQ(place->port, good.port);
    EXPECT_EQ(show_place(place->host, place->port), good.text);
  }
  for (const char* text :
       {"", "host", "host:", ":1", "host:65536", "host:-1", "host:x", "fd00::1:1", "[]:1",
        "[host]:1", "tcp://host:1", "a b:1", "host:1 ", "*:1"}) {
    EXPECT_FALSE(parse_place(text)) << text;
  }
  EXPECT_FALSE(parse_place(std::string(256, 'h') + ":1"));
}

TEST(PlaceTest, LoopbackIsThisHostAlone) {
  for (const char* host : {"localhost", "127.0.0.1", "127.9.9.9", "::1"})
    EXPECT_TRUE(is_loopback(host)) << host;
  for (const char* host : {"0.0.0.0", "127.evil.example", "10.0.0.1", "trainer", "::"}) {
    EXPECT_FALSE(is_loopback(host)) << host;
  }
}

TEST(NearestTest, AWordThatIsNearIsFoundAndNoOther) {
  const std::vector<std::string> known = {"slots", "slot_bytes", "memory_budget", "job"};
  EXPECT_EQ(nearest("slot", known), "slots");
  EXPECT_EQ(nearest("solts", known), "slots");
  EXPECT_EQ(nearest("slotbytes", known), "slot_bytes");
  EXPECT_EQ(nearest("memroy_bugdet", known), "memory_budget");
  EXPECT_EQ(nearest("jop", known), "job");
  EXPECT_EQ(nearest("colour", known), "");
  EXPECT_EQ(nearest("", known), "");
  EXPECT_EQ(nearest("xy", known), "");
  EXPECT_EQ(nearest(std::string(100'000, 's'), known), "");
}

}  // namespace
}  // namespace weightcast::config
