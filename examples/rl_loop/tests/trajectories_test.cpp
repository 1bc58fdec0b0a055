#include "trajectories.hpp"

#include <stdlib.h>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <zmq.hpp>

#include "example_segment.hpp"

namespace rl_loop {
namespace {

using namespace std::chrono_literals;

class TrajectoriesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "rl_loop_test.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static Clock::time_point soon() { return Clock::now() + 10s; }
  static Clock::time_point now() { return Clock::now(); }

  std::string directory_;
};

TEST_F(TrajectoriesTest, SendsToTheRanksInTurn) {
  SegmentCollector first(directory_, 0);
  SegmentCollector second(directory_, 1);
  TrajectorySender sender(directory_, 2);

  for (int i = 0; i < 4; ++i) ASSERT_TRUE(sender.send(encode(example_segment({1, 5})), soon()));

  EXPECT_EQ(first.collect({1, 5}, 2, soon()), 2U);
  EXPECT_EQ(second.collect({1, 5}, 2, soon()), 2U);
}

TEST_F(TrajectoriesTest, PassesOverARankThatIsNotThere) {
  SegmentCollector second(directory_, 1);
  TrajectorySender sender(directory_, 2);

  ASSERT_TRUE(sender.send(encode(example_segment({1, 5})), Clock::now() + 2s));

  EXPECT_EQ(second.collect({1, 5}, 1, soon()), 1U);
}

TEST_F(TrajectoriesTest, GivesUpAtTheDeadlineWhereNobodyListens) {
  TrajectorySender sender(directory_, 2);

  EXPECT_FALSE(sender.send(encode(example_segment({1, 5})), Clock::now() + 20ms));
}

TEST_F(TrajectoriesTest, DropsWhatIsMoreThanOneVersionOld) {
  SegmentCollector collector(directory_, 0);
  TrajectorySender sender(directory_, 1);
  for (const WeightTag tag : {WeightTag(1, 3), WeightTag(1, 4), WeightTag(1, 5), WeightTag(2, 5)}) {
    ASSERT_TRUE(sender.send(encode(example_segment(tag)), soon()));
  }
  // Of the newest version and last, so that the four before it have been read when it has.
  ASSERT_TRUE(sender.send(encode(example_segment({1, 5})), soon()));

  ASSERT_EQ(collector.collect({1, 5}, 3, soon()), 3U);

  EXPECT_EQ(collector.counts().stale, 2U);
  EXPECT_EQ(collector.counts().accepted, 3U);
}

TEST_F(TrajectoriesTest, HandsOutTheNewestFirstAndKeepsTheRest) {
  SegmentCollector collector(directory_, 0);
  TrajectorySender sender(directory_, 1);
  for (const WeightTag tag : {WeightTag(1, 4), WeightTag(1, 5), WeightTag(1, 4)}) {
    ASSERT_TRUE(sender.send(encode(example_segment(tag)), soon()));
  }
  ASSERT_EQ(collector.collect({1, 5}, 3, soon()), 3U);

  const std::vector<Segment> taken = collector.take(2);

  ASSERT_EQ(taken.size(), 2U);
  EXPECT_EQ(taken[0].tag.number, 5U);
  EXPECT_EQ(taken[1].tag.number, 4U);
  EXPECT_EQ(collector.collect({1, 5}, 1, now()), 1U);
  EXPECT_EQ(collector.collect({1, 6}, 1, now()), 0U);
  EXPECT_EQ(collector.counts().stale, 1U);
}

TEST_F(TrajectoriesTest, GathersTheReturnsOfFinishedEpisodes) {
  SegmentCollector collector(directory_, 0);
  TrajectorySender sender(directory_, 1);
  ASSERT_TRUE(sender.send(encode(example_segment({1, 5})), soon()));
  ASSERT_EQ(collector.collect({1, 5}, 1, soon()), 1U);

  EXPECT_EQ(collector.take_episode_returns(), (std::vector<float>{17.0F, 23.0F}));
  EXPECT_TRUE(collector.take_episode_returns().empty());
  ASSERT_EQ(collector.versions_seen().size(), 5U);
  EXPECT_EQ(collector.versions_seen()[4], 5U);
}

TEST_F(TrajectoriesTest, CountsAndRefusesWhatIsNoSegment) {
  SegmentCollector collector(directory_, 0);
  zmq::context_t context(1);
  zmq::socket_t stranger(context, zmq::socket_type::push);
  stranger.set(zmq::sockopt::linger, 0);
  stranger.connect(trajectory_endpoint(directory_, 0));
  const std::string nonsense = "no segment";
  ASSERT_TRUE(stranger.send(zmq::buffer(nonsense), zmq::send_flags::none));
  const auto good = encode(example_segment({1, 5}));
  ASSERT_TRUE(stranger.send(zmq::buffer(good), zmq::send_flags::none));
  const auto other_shape = encode(example_segment({1, 5}, 2, 2));
  ASSERT_TRUE(stranger.send(zmq::buffer(other_shape), zmq::send_flags::none));
  ASSERT_TRUE(stranger.send(zmq::buffer(good), zmq::send_flags::none));

  EXPECT_EQ(collector.collect({1, 5}, 2, soon()), 2U);

  EXPECT_EQ(collector.counts().malformed, 2U);
}

}  // namespace
}  // namespace rl_loop
