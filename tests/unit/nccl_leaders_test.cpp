#include "plan/nccl_leaders.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "support/seeded.hpp"

namespace weightcast::plan {
namespace {

TEST(NcclLeadersTest, WithoutAPlaceEveryoneLeadsItself) {
  const std::vector<NcclCandidate> all{{"b", ""}, {"a", ""}};
  const auto seats = choose_leaders(all, 8);
  EXPECT_EQ(seats, (std::vector<NcclSeat>{{0, 0}, {1, 0}}));
}

TEST(NcclLeadersTest, TheFirstByNameLeadsItsPlaceWhateverTheOrderOfAsking) {
  const std::vector<NcclCandidate> all{{"c", "x"}, {"a", "x"}, {"d", "y"}, {"b", "x"}};
  const auto seats = choose_leaders(all, 8);
  EXPECT_EQ(seats, (std::vector<NcclSeat>{{1, 1}, {1, 0}, {2, 0}, {1, 0}}));
}

TEST(NcclLeadersTest, WhoIsInACommunicatorStaysTheLeader) {
  const std::vector<NcclCandidate> all{{"a", "x"}, {"b", "x", true}, {"c", "x", true}};
  const auto seats = choose_leaders(all, 8);
  EXPECT_EQ(seats, (std::vector<NcclSeat>{{1, 1}, {1, 0}, {1, 0}}));
}

TEST(NcclLeadersTest, WithoutASeatOneWaits) {
  const std::vector<NcclCandidate> all{{"a", "x"}, {"b", "x"}, {"c", "x"}};
  const auto seats = choose_leaders(all, 1);
  EXPECT_EQ(seats[1], (NcclSeat{0, 0}));
  EXPECT_EQ(seats[2].leader, kNoLeader);
}

TEST(NcclLeadersTest, OfManyEnginesEachPlaceHasOneLeaderAndEverySeatOneEngine) {
  auto random = test::seeded("NcclLeadersTest.OfManyEngines");
  for (int round = 0; round < 50; ++round) {
    const std::size_t count = 1 + random() % 256;
    const std::size_t hosts = 1 + random() % 64;
    std::vector<NcclCandidate> all;
    for (std::size_t i = 0; i < count; ++i) {
      all.push_back({"engine" + std::to_string(i), "host" + std::to_string(random() % hosts),
                     random() % 4 == 0});
    }
    std::shuffle(all.begin(), all.end(), random);
    const auto seats = choose_leaders(all, 63);
    std::map<std::string, std::set<std::uint32_t>> leaders;
    std::set<std::pair<std::uint32_t, std::uint32_t>> taken;
    for (std::size_t i = 0; i < count; ++i) {
      if (seats[i].leader == kNoLeader) continue;
      ASSERT_LT(seats[i].leader, count);
      EXPECT_EQ(all[seats[i].leader].place, all[i].place);
      EXPECT_EQ(seats[seats[i].leader].leader, seats[i].leader) << "a leader has no leader";
      leaders[all[i].place].insert(seats[i].leader);
      if (seats[i].leader != i) {
        EXPECT_TRUE(taken.emplace(seats[i].leader, seats[i].seat).second);
        EXPECT_LT(seats[i].seat, 63u);
      }
    }
    for (const auto& [place, its] : leaders) EXPECT_EQ(its.size(), 1u) << place;
  }
}

}  // namespace
}  // namespace weightcast::plan
