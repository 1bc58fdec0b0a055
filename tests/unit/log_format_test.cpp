// Lines of events: quoted where they must be, the same in JSON, and not to be forged by a value.
#include <gtest/gtest.h>

#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "base/log_format.hpp"

namespace weightcast::base {
namespace {

using nlohmann::json;

constexpr std::chrono::system_clock::time_point kTime{std::chrono::milliseconds(1'700'000'000'042)};

json json_of(const LogFields& fields) {
  return json::parse(log_json(kTime, LogLevel::kWarn, "test", fields));
}

/// Each byte, and what could end a quotation early.
std::vector<std::string> hostile_texts() {
  std::vector<std::string> texts = {"",          " ",        "\" level=error x=\"", "a\\\" b",
                                    "\nevent=x", "\\",       "tab\there",           "ends in \\",
                                    "=",         "a=b",      "\xff\xfe",            "\xc3\xa4",
                                    "\xed\xa0\x80", "\xf0\x9f\x98\x80", "\xc0\xaf", "\xe2\x82"};
  for (int c = 0; c < 256; ++c) texts.push_back("x" + std::string(1, static_cast<char>(c)) + "y");
  return texts;
}

TEST(LogFormatTest, TextIsQuotedOnlyWhereItMustBe) {
  EXPECT_EQ(log_text("stall", {{"policy", "actor"},
                               {"point", std::uint64_t{7}},
                               {"lost", -1},
                               {"why", "no grant"},
                               {"empty", ""}}),
            "event=stall policy=actor point=7 lost=-1 why=\"no grant\" empty=\"\"");
}

TEST(LogFormatTest, JsonHasTimeLevelEventAndTypedValues) {
  const std::string line =
      log_json(kTime, LogLevel::kWarn, "stall",
               {{"point", std::numeric_limits<std::uint64_t>::max()}, {"lost", -1}, {"id", "42"}});
  EXPECT_EQ(line,
            R"({"time":"2023-11-14T22:13:20.042Z","level":"warn","event":"stall",)"
            R"("point":18446744073709551615,"lost":-1,"id":"42"})");
}

TEST(LogFormatTest, NoValueBreaksALineOrForgesAKey) {
  for (const std::string& text : hostile_texts()) {
    SCOPED_TRACE(testing::PrintToString(text));
    const LogFields fields = {{"why", text}, {"last", 5}};
    const std::string line = log_text("test", fields);
    const std::string object = log_json(kTime, LogLevel::kWarn, "test", fields);
    for (const std::string& made : {line, object}) {
      for (const char c : made) EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    }
    const json from_fields = json_of(fields);
    EXPECT_EQ(from_fields.size(), 5u);
    EXPECT_EQ(from_fields.at("last"), 5);
    // What is read out of the line again is what was put in.
    const json from_text = json::parse(log_json_of_text(kTime, LogLevel::kWarn, line));
    EXPECT_EQ(from_text, from_fields);
  }
}

TEST(LogFormatTest, TextsThatAreUtf8ComeThroughJsonUnchanged) {
  for (const std::string text : {"\xc3\xa4", "\xf0\x9f\x98\x80", "plain", "\x7f", "a\nb\t\"\\"}) {
    EXPECT_EQ(json_of({{"why", text}}).at("why"), text);
  }
  EXPECT_EQ(json_of({{"why", "a\xff!"}}).at("why"), "a\xef\xbf\xbd!");
}

TEST(LogFormatTest, LinesOfOthersBecomeObjectsToo) {
  const auto of = [](const std::string& line) {
    return json::parse(log_json_of_text(kTime, LogLevel::kInfo, line));
  };
  const json known = of("event=x n=-12 text=\"1\" word=007 big=123456789012345678901");
  EXPECT_EQ(known.at("event"), "x");
  EXPECT_EQ(known.at("n"), -12);
  EXPECT_EQ(known.at("text"), "1");
  EXPECT_EQ(known.at("word"), "007");
  EXPECT_EQ(known.at("big"), "123456789012345678901");
  for (const std::string line : {"", "words of a user", "event", "=x", "event=\"no end",
                                 "event=\"bad \\u00zz\"", "event=x \"y", "n=1 event=x",
                                 "event=\"x\"y=1", "event=\"\\"}) {
    SCOPED_TRACE(line);
    EXPECT_EQ(of(line).at("event"), "line");
    EXPECT_EQ(of(line).at("text"), line);
  }
}

TEST(LogTest, TheFormatOfTheMomentReachesTheSink) {
  std::vector<std::string> lines;
  set_log_sink([&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  set_log_level(LogLevel::kInfo);
  log(LogLevel::kInfo, "first", {{"n", 1}});
  set_log_format(LogFormat::kJson);
  log(LogLevel::kWarn, "second", {{"n", 2}});
  log_line(LogLevel::kError, "event=third n=3");
  log(LogLevel::kDebug, "unseen", {});
  set_log_format(LogFormat::kText);
  log_line(LogLevel::kInfo, "event=fourth");
  set_log_sink({});

  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], "event=first n=1");
  EXPECT_EQ(json::parse(lines[1]).at("n"), 2);
  EXPECT_EQ(json::parse(lines[1]).at("level"), "warn");
  EXPECT_EQ(json::parse(lines[2]).at("event"), "third");
  EXPECT_EQ(json::parse(lines[2]).at("n"), 3);
  EXPECT_EQ(lines[3], "event=fourth");
}

}  // namespace
}  // namespace weightcast::base
