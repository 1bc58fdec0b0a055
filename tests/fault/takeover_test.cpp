// Two trainers of one job: the second is refused, or takes over where it is told to.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <memory>

#include "fault/job.hpp"

namespace weightcast::test {
namespace {

using Process = std::unique_ptr<FaultProcess>;

class Takeover : public ::testing::Test {
 protected:
  void start() {
    job.start_rank(0);
    job.start_rank(1);
    job.start_engine("a");
    job.start_engine("b");
    ASSERT_TRUE(job.versions_flow(2)) << job.why();
  }

  /// The ranks of the former trainer leave the lockstep, and a new trainer takes their place.
  void replace_trainer() {
    former_run = job.rank(0).run;
    former_0 = job.release_rank(0);
    former_1 = job.release_rank(1);
    job.next_launch();
    job.start_rank(0, true);
    job.start_rank(1);
  }

  bool engines_follow_the_new_run() {
    return job.train_until([&] {
      if (former_0->running()) push_on();
      return !job.rank(0).run.empty() && job.rank(0).run != former_run && job.oldest() > 0;
    });
  }

  /// Lets the former trainer train on, whoever listens.
  void push_on() {
    for (FaultProcess* rank : {former_0.get(), former_1.get()}) {
      rank->look();
      if (rank->point >= rank->told) rank->say("step " + std::to_string(++rank->told));
    }
  }

  void end_former() {
    for (FaultProcess* rank : {former_0.get(), former_1.get()}) {
      rank->may_die = true;
      rank->say("end");
      ASSERT_TRUE(job.train_until([&] {
        rank->look();
        return rank->state() == FaultProcess::State::kDead;
      })) << job.why();
      EXPECT_EQ(rank->exit_status(), 0);
    }
  }

  FaultJob job{{}};
  std::string former_run;
  Process former_0;
  Process former_1;
};

TEST_F(Takeover, ASecondTrainerIsRefusedWhileTheFirstLives) {
  ASSERT_NO_FATAL_FAILURE(start());

  const Process second = job.make_rank(0);
  ASSERT_TRUE(job.train_until([&] {
    second->look();
    return second->state() == FaultProcess::State::kDead;
  })) << job.why();

  ASSERT_TRUE(WIFEXITED(second->exit_status()));
  EXPECT_EQ(WEXITSTATUS(second->exit_status()), 3);
  EXPECT_TRUE(second->logged("refused exists: another trainer"));
  EXPECT_TRUE(second->logged("choose another job name, or take over"));
  EXPECT_TRUE(job.versions_flow(2)) << job.why();
  EXPECT_EQ(job.finish(), "");
}

TEST_F(Takeover, AStoppedTrainerIsReplacedAndPublishesNoMoreWhenItGoesOn) {
  ASSERT_NO_FATAL_FAILURE(start());
  for (std::uint32_t rank : {0u, 1u}) {
    job.rank(rank).signal(SIGSTOP);
    ASSERT_TRUE(job.train_until([&] {
      return job.rank(rank).state() == FaultProcess::State::kStopped;
    })) << job.why();
  }
  replace_trainer();
  ASSERT_TRUE(engines_follow_the_new_run()) << job.why();

  former_0->signal(SIGCONT);
  former_1->signal(SIGCONT);
  ASSERT_TRUE(job.train_until([&] {
    former_0->look();
    former_1->look();
    if (former_0->running() && former_1->running()) push_on();
    return former_0->logged("event=superseded");
  })) << job.why();
  // A point's report tells what was published by then; the one under way may be older than the end.
  const std::uint64_t settled = former_0->point + 3;
  ASSERT_TRUE(job.train_until([&] {
    push_on();
    return former_0->point >= settled;
  })) << job.why();
  const std::uint64_t published = former_0->published;
  const std::uint64_t until = former_0->point + 20;
  ASSERT_TRUE(job.train_until([&] {
    push_on();
    return former_0->point >= until;
  })) << job.why();

  EXPECT_EQ(former_0->published, published) << "it went on to publish";
  EXPECT_NE(former_0->blocked.find("has been replaced by"), std::string::npos)
      << former_0->blocked;
  EXPECT_TRUE(job.versions_flow(3)) << job.why();
  ASSERT_NO_FATAL_FAILURE(end_former());
  EXPECT_TRUE(job.versions_flow(2)) << job.why();
  EXPECT_EQ(job.finish(), "");
}

TEST_F(Takeover, ALivingTrainerIsReplacedAndItsEnginesFollow) {
  ASSERT_NO_FATAL_FAILURE(start());

  replace_trainer();
  ASSERT_TRUE(engines_follow_the_new_run()) << job.why();

  ASSERT_TRUE(job.train_until([&] {
    push_on();
    return former_0->logged("event=superseded");
  })) << job.why();
  EXPECT_TRUE(job.versions_flow(3)) << job.why();
  ASSERT_NO_FATAL_FAILURE(end_former());
  EXPECT_EQ(job.finish(), "");
}

}  // namespace
}  // namespace weightcast::test
