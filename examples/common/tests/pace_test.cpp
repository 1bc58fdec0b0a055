#include "pace.hpp"

#include <chrono>

#include <gtest/gtest.h>

namespace rl_loop {
namespace {

using namespace std::chrono_literals;

TEST(PaceTest, AwaitsTheFirstVersion) {
  const Pace pace(2, 60s);

  EXPECT_TRUE(pace.waiting_for_first());
  EXPECT_EQ(pace.wanted(), 1U);
}

TEST(PaceTest, AwaitsTheNextVersionOnceTheQuotaIsSpent) {
  Pace pace(2, 60s);

  pace.made({1, 7});
  EXPECT_EQ(pace.wanted(), 7U);
  pace.made({1, 7});
  EXPECT_EQ(pace.wanted(), 8U);
  pace.made({1, 9});
  EXPECT_EQ(pace.wanted(), 9U);
}

TEST(PaceTest, MakesAnotherQuotaWhereNoNewerVersionComes) {
  Pace pace(1, 60s);
  pace.made({1, 7});

  pace.renew();

  EXPECT_EQ(pace.wanted(), 7U);
  EXPECT_FALSE(pace.waiting_for_first());
}

TEST(PaceTest, GivesUpWhereNothingComes) {
  EXPECT_FALSE(Pace(1, 60s).abandoned());
  EXPECT_TRUE(Pace(1, -1s).abandoned());
}

}  // namespace
}  // namespace rl_loop
