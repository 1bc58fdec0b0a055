#include "protocol/pipeline.hpp"

#include <gtest/gtest.h>

namespace weightcast::protocol {
namespace {

TEST(Pipeline, HandsOutNoMoreThanItsCredit) {
  Pipeline pipeline(5, 2);

  EXPECT_EQ(pipeline.next(), 0u);
  EXPECT_EQ(pipeline.next(), 1u);
  EXPECT_FALSE(pipeline.next());
  EXPECT_EQ(pipeline.in_flight(), 2u);

  EXPECT_TRUE(pipeline.completed(1, Status::ok()));
  EXPECT_EQ(pipeline.next(), 2u);
  EXPECT_FALSE(pipeline.next());
}

TEST(Pipeline, EndsWhenAllHaveCompletedInAnyOrder) {
  Pipeline pipeline(2, 2);
  pipeline.next();
  pipeline.next();

  EXPECT_TRUE(pipeline.completed(1, Status::ok()));
  EXPECT_FALSE(pipeline.ended());
  EXPECT_TRUE(pipeline.completed(0, Status::ok()));

  EXPECT_TRUE(pipeline.ended());
  EXPECT_TRUE(pipeline.status().is_ok());
}

TEST(Pipeline, NothingToMoveHasEnded) {
  Pipeline pipeline(0, 4);

  EXPECT_FALSE(pipeline.next());
  EXPECT_TRUE(pipeline.ended());
}

TEST(Pipeline, AfterAFailureStartsNoMoreAndWaitsForWhatIsUnderWay) {
  Pipeline pipeline(4, 2);
  pipeline.next();
  pipeline.next();

  pipeline.completed(0, Status(Code::kMismatch, "first"));

  EXPECT_FALSE(pipeline.next());
  EXPECT_FALSE(pipeline.ended()) << "bucket 1's destination is still in use";
  pipeline.completed(1, Status(Code::kStale, "second"));
  EXPECT_TRUE(pipeline.ended());
  EXPECT_EQ(pipeline.status().code(), Code::kMismatch) << "the first failure counts";
}

TEST(Pipeline, CancelStartsNoMore) {
  Pipeline pipeline(4, 1);
  pipeline.next();

  pipeline.cancel();

  EXPECT_FALSE(pipeline.ended());
  pipeline.completed(0, Status::ok());
  EXPECT_FALSE(pipeline.next());
  EXPECT_TRUE(pipeline.ended());
  EXPECT_EQ(pipeline.status().code(), Code::kCancelled);
}

TEST(Pipeline, StrayCompletionsAreIgnored) {
  Pipeline pipeline(3, 1);
  pipeline.next();

  EXPECT_FALSE(pipeline.completed(1, Status::ok())) << "never handed out";
  EXPECT_FALSE(pipeline.completed(9, Status::ok())) << "no such bucket";
  EXPECT_TRUE(pipeline.completed(0, Status::ok()));
  EXPECT_FALSE(pipeline.completed(0, Status(Code::kStale, "again"))) << "its end came already";

  EXPECT_EQ(pipeline.in_flight(), 0u);
  EXPECT_TRUE(pipeline.status().is_ok());
}

}  // namespace
}  // namespace weightcast::protocol
