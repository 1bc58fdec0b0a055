// The table of metrics, what is counted, and the text that comes of it.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <thread>

#include <weightcast/version.hpp>

#include "base/code_counts.hpp"
#include "base/log.hpp"
#include "base/stage_stats.hpp"
#include "base/trace.hpp"
#include "config/metrics_target.hpp"
#include "metrics/outlet.hpp"
#include "metrics/use.hpp"
#include "support/private_place.hpp"
#include "support/prometheus_text.hpp"

namespace weightcast::metrics {
namespace {

using test::read_prometheus;

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(FamiliesTest, KeepToTheConventions) {
  std::set<std::string> names;
  for (std::size_t i = 0; i < kFamilies.size(); ++i) {
    const Family& its = kFamilies[i];
    SCOPED_TRACE(its.name);
    EXPECT_EQ(static_cast<std::size_t>(its.id), i) << "the table is in the order of Id";
    EXPECT_TRUE(names.insert(its.name).second);
    EXPECT_TRUE(std::regex_match(its.name, std::regex("weightcast(_[a-z]+)+")));
    EXPECT_EQ(its.kind == Kind::kCounter, std::string(its.name).ends_with("_total"));
    EXPECT_TRUE(std::string(its.help).ends_with("."));
    if (its.kind == Kind::kHistogram) {
      EXPECT_TRUE(std::regex_match(its.name, std::regex(".*_(seconds|versions)")));
    }
    EXPECT_NE(std::string(its.label), "job") << "is the scraper's own";
    EXPECT_NE(std::string(its.label), "le");
  }
}

TEST(FamiliesTest, AreWhatTheDocumentSays) {
  std::string expected = "| metric | kind | of | label | meaning |\n|---|---|---|---|---|\n";
  const char* const owners[] = {"process", "publisher", "rank 0", "subscriber"};
  for (const Family& its : kFamilies) {
    const std::string label = *its.label == '\0' ? "" : "`" + std::string(its.label) + "`";
    expected += "| `" + std::string(its.name) + "` | " + std::string(kind_name(its.kind)) + " | " +
                owners[static_cast<std::size_t>(its.of)] + " | " + label + " | " + its.help +
                " |\n";
  }
  const std::string document = text_of(WEIGHTCAST_SOURCE_ROOT "/docs/metrics.md");
  EXPECT_NE(document.find(expected), std::string::npos) << "it should have:\n" << expected;
}

TEST(HistogramTest, CountsEachValueInItsRange) {
  static constexpr std::array<std::int64_t, 3> kBounds = {0, 10, 20};
  base::Histogram histogram{kBounds};
  for (const std::int64_t value : {-1, 0, 1, 10, 11, 20, 21, 1000}) histogram.observe(value);
  EXPECT_EQ(histogram.count(0), 2u);
  EXPECT_EQ(histogram.count(1), 2u);
  EXPECT_EQ(histogram.count(2), 2u);
  EXPECT_EQ(histogram.count(3), 2u);
  EXPECT_EQ(histogram.sum(), 1062);
}

TEST(HistogramTest, LosesNothingWhereManyThreadsCount) {
  base::Histogram histogram{base::kDurationBounds};
  base::CodeCounts codes;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        histogram.observe(100'000);
        codes.add(Code::kStale);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(histogram.count(1), 4000u);
  EXPECT_EQ(codes.of(Code::kStale), 4000u);
  EXPECT_EQ(codes.total(), 4000u);
}

TEST(StageStatsTest, CountSpansWhileSomebodyWantsThem) {
  const auto count_of = [](std::string_view track) {
    const auto at = std::find(base::kStages.begin(), base::kStages.end(), track);
    const auto& stats = base::stage_stats(static_cast<std::size_t>(at - base::kStages.begin()));
    std::uint64_t count = 0;
    for (std::size_t i = 0; i <= base::kDurationBounds.size(); ++i) count += stats.durations.count(i);
    return std::pair(count, stats.bytes.load());
  };
  const auto span = [](std::string_view track) {
    const Clock::time_point begin{std::chrono::seconds(1)};
    base::trace_span(track, "test", begin, begin + std::chrono::milliseconds(3), {.bytes = 10});
  };
  const auto [before, bytes_before] = count_of("h2d");
  const auto others = count_of("other").first;
  span("h2d");
  EXPECT_EQ(count_of("h2d").first, before) << "nobody wants them";
  base::count_stages(true);
  base::count_stages(true);
  span("h2d");
  span("no stage of that name");
  base::count_stages(false);
  span("h2d");
  base::count_stages(false);
  span("h2d");
  EXPECT_EQ(count_of("h2d"), std::pair(before + 2, bytes_before + 20));
  EXPECT_EQ(count_of("other").first, others + 1);
  EXPECT_FALSE(base::tracing());
}

TEST(StageStatsTest, KnowEveryTrackOfTheSources) {
  static const std::regex kTrack(R"re((?:TraceScope \w+\(|trace_span\()\s*(?:[^"();]*\? *)?"(\w+)"(?: : "(\w+)")?)re");
  std::set<std::string> tracks;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           WEIGHTCAST_SOURCE_ROOT "/src")) {
    if (entry.path().extension() != ".cpp") continue;
    const std::string text = text_of(entry.path());
    for (auto it = std::sregex_iterator(text.begin(), text.end(), kTrack);
         it != std::sregex_iterator(); ++it) {
      tracks.insert((*it)[1]);
      if ((*it)[2].matched) tracks.insert((*it)[2]);
    }
  }
  EXPECT_GE(tracks.size(), 13u) << "the test finds them";
  for (const std::string& track : tracks) {
    EXPECT_NE(std::find(base::kStages.begin(), base::kStages.end(), track), base::kStages.end())
        << "kStages lacks " << track;
  }
}

TEST(MetricsTargetTest, TellsPlacesFromFiles) {
  const auto place = [](const std::string& text) {
    const auto target = config::parse_metrics_target(text);
    if (!target || !std::holds_alternative<config::Place>(*target)) return std::string("none");
    const auto& its = std::get<config::Place>(*target);
    return config::show_place(its.host, its.port);
  };
  EXPECT_EQ(place("9464"), "127.0.0.1:9464");
  EXPECT_EQ(place("0"), "127.0.0.1:0");
  EXPECT_EQ(place("0.0.0.0:80"), "0.0.0.0:80");
  EXPECT_EQ(place("localhost:1"), "127.0.0.1:1");
  EXPECT_EQ(place("[::1]:9464"), "[::1]:9464");
  for (const std::string bad : {"65536", "-1", "host.example:80", "1.2.3:80", "127.0.0.1", "9464x",
                                ":80", "metrics.prom", "/tmp/metrics.txt", "/tmp/.prom",
                                "/tmp/%x.prom", " ", "[::1:80"}) {
    EXPECT_FALSE(config::parse_metrics_target(bad)) << bad;
  }
  const auto file = config::parse_metrics_target("./%n-%p.prom");
  ASSERT_TRUE(file);
  EXPECT_EQ(std::get<std::string>(*file), "./%n-%p.prom");
}

TEST(SamplesTest, OfTwoMembersWithOneNameTheFirstCounts) {
  Samples samples;
  samples.begin_member("job", "policy", "a");
  samples.add(Id::kApplied, 1);
  samples.begin_member("job", "policy", "a");
  samples.add(Id::kApplied, 2);
  samples.begin_member("job", "policy", "b");
  samples.add(Id::kApplied, 3);
  ASSERT_EQ(samples.of(Id::kApplied).size(), 2u);
  EXPECT_EQ(samples.of(Id::kApplied)[0].value, 1);
  EXPECT_EQ(samples.of(Id::kApplied)[1].value, 3);
}

#if WEIGHTCAST_HAS_METRICS

TEST(PrometheusTextTest, KeepsTheRulesOfTheFormat) {
  static constexpr std::array<std::int64_t, 2> kBounds = {1'000'000, 250'000'000};
  base::Histogram histogram{kBounds};
  for (const std::int64_t value : {500'000L, 2'000'000L, 3'000'000'000L}) histogram.observe(value);
  Samples samples;
  samples.begin_member("a\"b\\c\nd", "policy", "one");
  samples.add(Id::kLeaseSeconds, histogram, 1e9);
  samples.add(Id::kPoints, 12345678901.0, "captured");
  samples.begin_process();
  samples.add(Id::kBuild, 1, "0.1.0");

  const auto text = read_prometheus(prometheus_text(samples));
  const std::string member = R"(trainer_job="a\"b\\c\nd",policy="policy",member="one")";
  EXPECT_EQ(text.of("weightcast_publisher_points_total{" + member + ",outcome=\"captured\"}"),
            12345678901.0);
  EXPECT_EQ(text.of("weightcast_subscriber_lease_seconds_count{" + member + "}"), 3);
  EXPECT_NEAR(text.of("weightcast_subscriber_lease_seconds_sum{" + member + "}"), 3.0025, 1e-9);
  EXPECT_EQ(text.of("weightcast_subscriber_lease_seconds_bucket{" + member + ",le=\"0.25\"}"), 2);
  EXPECT_EQ(text.of("weightcast_build_info{version=\"0.1.0\"}"), 1);
  EXPECT_EQ(text.types.size(), 3u) << "families without samples are left out";
  EXPECT_EQ(text.helps.at("weightcast_build_info"), family(Id::kBuild).help);
}

TEST(MetricsFileTest, IsWholeAtOnceAndHasWhatWasCountedLast) {
  const test::PrivatePlace place;
  const std::string pattern = place.path() + "/%n.prom";
  const std::string path = place.path() + "/worker.prom";
  double applied = 1;
  {
    auto use = Use::open(pattern, "worker");
    ASSERT_TRUE(use) << use.status().to_string();
    EXPECT_EQ(where(), path);
    EXPECT_TRUE(read_prometheus(text_of(path)).has("weightcast_build_info{version=\"" +
                                                   std::string(library_version()) + "\"}"))
        << "it is there when open() returns";
    use->watch([&](Samples& samples) {
      samples.begin_member("job", "policy", "worker");
      samples.add(Id::kApplied, applied);
    });
    applied = 7;
  }
  const auto text = read_prometheus(text_of(path));
  EXPECT_EQ(text.sum("weightcast_subscriber_applied_total"), 7);
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0644u) << "node_exporter is another user";
  const auto files = std::distance(std::filesystem::directory_iterator(place.path()), {});
  EXPECT_EQ(files, 1) << "nothing is left beside it";
  EXPECT_EQ(where(), "");
}

TEST(MetricsFileTest, ADirectoryThatIsNotThereIsAnErrorThatNamesTheOption) {
  const test::PrivatePlace place;
  const auto use = Use::open(place.path() + "/none/x.prom", "worker");
  ASSERT_FALSE(use);
  EXPECT_EQ(use.status().code(), Code::kNotFound);
  EXPECT_NE(use.status().message().find("option metrics"), std::string::npos);
  EXPECT_EQ(where(), "");
}

TEST(UseTest, TheLastMemberCloses) {
  const test::PrivatePlace place;
  auto first = Use::open(place.path() + "/a.prom", "a");
  auto second = Use::open(place.path() + "/b.prom", "b");
  ASSERT_TRUE(first && second);
  EXPECT_EQ(where(), place.path() + "/a.prom") << "one place a process";
  *first = {};
  EXPECT_EQ(where(), place.path() + "/a.prom");
  EXPECT_TRUE(base::tracing());
  *second = {};
  EXPECT_EQ(where(), "");
  EXPECT_FALSE(base::tracing());
}

#else

TEST(UseTest, ABuildWithoutTheLibraryRefusesTheOption) {
  for (const std::string target : {"0", "/tmp/x.prom"}) {
    const auto use = Use::open(target, "worker");
    ASSERT_FALSE(use);
    EXPECT_EQ(use.status().code(), Code::kUnavailable);
    for (const char* part : {"option metrics", "prometheus-cpp", "-Dmetrics=enabled"}) {
      EXPECT_NE(use.status().message().find(part), std::string::npos) << use.status().message();
    }
  }
}

#endif

TEST(UseTest, WhoAsksForNoneOpensNothing) {
  auto use = Use::open("", "worker");
  ASSERT_TRUE(use);
  EXPECT_FALSE(static_cast<bool>(*use));
  use->watch([](Samples&) { ADD_FAILURE() << "nobody looks"; });
  EXPECT_EQ(where(), "");
  EXPECT_EQ(collect_all().of(Id::kApplied).size(), 0u);
}

}  // namespace
}  // namespace weightcast::metrics
