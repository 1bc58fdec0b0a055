#include "staging/sweep.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <fstream>

#include "staging/slot_reader.hpp"
#include "support/child_process.hpp"
#include "support/shm_fixture.hpp"

namespace weightcast::staging {
namespace {

using test::ChildProcess;
using test::Talk;

class SweepTest : public test::ShmTest {
 protected:
  /// A child that owns a slab of two slots, the first with version 1 in generation 1.
  std::function<int(const Talk&)> owner_of_slab(std::uint64_t incarnation = 1) const {
    return [this, incarnation](const Talk& talk) {
      const auto slab = make_slab(4096, 2, incarnation);
      publish(*slab, 0, 1, 4096);
      talk.say(slab->object_name(0));
      talk.hear();
      return 0;
    };
  }
};

TEST_F(SweepTest, TakesWhatADeadOwnerLeftAndNothingOfALivingOne) {
  ChildProcess doomed(owner_of_slab());
  ASSERT_NE(doomed.hear(), "");
  const auto alive = make_slab(4096, 2, 2);
  doomed.kill();
  ASSERT_EQ(objects().size(), 6U);

  const SweepReport report = sweep(job);

  EXPECT_EQ(report.removed, 3U);
  EXPECT_EQ(report.held, 0U);
  EXPECT_EQ(report.alive, 3U);
  EXPECT_EQ(objects().size(), 3U);
  EXPECT_EQ(sweep(job).removed, 0U);
}

TEST_F(SweepTest, AStoppedOwnerLives) {
  ChildProcess stopped(owner_of_slab());
  ASSERT_NE(stopped.hear(), "");
  stopped.stop();

  const SweepReport report = sweep(job);

  EXPECT_EQ(report.removed, 0U);
  EXPECT_EQ(report.alive, 3U);
  stopped.go_on();
  stopped.hang_up();
  EXPECT_EQ(stopped.wait(), 0);
  EXPECT_TRUE(objects().empty());
}

TEST_F(SweepTest, WhatAReaderHoldsStaysUntilItLetsGo) {
  ChildProcess doomed(owner_of_slab());
  auto reader = SlotReader::open(doomed.hear());
  ASSERT_TRUE(reader.is_ok());
  auto lock = (*reader)->lock(version(1), 1, 4096);
  ASSERT_TRUE(lock.is_ok()) << lock.status().to_string();
  doomed.kill();

  const SweepReport first = sweep(job);
  const SweepReport again = sweep(job);

  EXPECT_EQ(first.removed, 1U);
  EXPECT_EQ(first.held, 1U);
  EXPECT_EQ(again.removed, 0U);
  EXPECT_EQ(again.held, 1U);
  EXPECT_EQ(test::first_difference((*reader)->payload(), 1), 4096U);
  lock = Result<SlotLock>(SlotLock());
  EXPECT_EQ(sweep(job).removed, 2U);
  EXPECT_TRUE(objects().empty());
}

TEST_F(SweepTest, AKilledHolderHoldsNothing) {
  ChildProcess doomed(owner_of_slab());
  const std::string name = doomed.hear();
  ChildProcess holder([&](const Talk& talk) {
    auto reader = SlotReader::open(name);
    if (!reader.is_ok()) return 1;
    const auto lock = (*reader)->lock(version(1), 1, 4096);
    talk.say(lock.is_ok() ? "locked" : "refused");
    talk.hear();
    return 0;
  });
  ASSERT_EQ(holder.hear(), "locked");
  doomed.kill();
  holder.stop();
  EXPECT_EQ(sweep(job).held, 1U);
  holder.kill();

  const SweepReport report = sweep(job);

  EXPECT_EQ(report.held, 0U);
  EXPECT_TRUE(objects().empty());
}

TEST_F(SweepTest, SlotsWithoutAnAnchorGoUnlessTheyAreHeld) {
  ChildProcess doomed(owner_of_slab());
  auto reader = SlotReader::open(doomed.hear());
  ASSERT_TRUE(reader.is_ok());
  auto lock = (*reader)->lock(version(1), 1, 4096);
  ASSERT_TRUE(lock.is_ok());
  doomed.kill();
  for (const auto& name : objects()) {
    if (name.ends_with(".anchor")) ::unlink(("/dev/shm/" + name).c_str());
  }
  ASSERT_EQ(objects().size(), 2U);

  const SweepReport report = sweep(job);

  EXPECT_EQ(report.removed, 1U);
  EXPECT_EQ(report.held, 1U);
  lock = Result<SlotLock>(SlotLock());
  EXPECT_EQ(sweep(job).removed, 1U);
}

TEST_F(SweepTest, OtherJobsAndOtherNamesAreLeftAlone) {
  const std::string uid = std::to_string(::geteuid());
  const std::string other = test::unique_job();
  const std::vector<std::string> names{
      "weightcast." + uid + "." + other + "." + job + ".1-1.r0.1.s0",  // another job
      "weightcast." + uid + "." + job + ".p.1-1.r0.1.s00",             // no name of ours
      "weightcast." + uid + "1." + job + ".p.1-1.r0.1.s0",             // another user
      "weightcast-" + uid + "." + job + ".p.1-1.r0.1.s0"};
  for (const auto& name : names) std::ofstream("/dev/shm/" + name) << "x";

  const SweepReport report = sweep(job);

  EXPECT_EQ(report.removed, 0U);
  for (const auto& name : names) {
    const std::string path = "/dev/shm/" + name;
    EXPECT_EQ(::access(path.c_str(), F_OK), 0) << name;
    ::unlink(path.c_str());
  }
}

TEST_F(SweepTest, AnotherUsersLeftoverUnderOurNameIsLeftAlone) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a file away";
  const std::string path = "/dev/shm/weightcast.0." + job + ".p.1-1.r0.1.s0";
  std::ofstream(path) << "x";
  ASSERT_EQ(::chown(path.c_str(), 65534, 65534), 0);

  EXPECT_EQ(sweep(job).removed, 0U);
  EXPECT_EQ(::unlink(path.c_str()), 0);
}

TEST_F(SweepTest, SweepsBesideOwnersThatStartNeverTakeFromThem) {
  ChildProcess sweeper([&](const Talk& talk) {
    talk.say("sweeping");
    for (bool more = true; more;) {
      sweep(job);
      pollfd in{talk.in(), POLLIN, 0};
      more = ::poll(&in, 1, 0) == 0;
    }
    return 0;
  });
  ASSERT_EQ(sweeper.hear(), "sweeping");

  for (std::uint64_t i = 1; i <= 300; ++i) {
    auto slab = make_slab(4096, 2, i);
    ASSERT_TRUE(slab) << "round " << i;
    ASSERT_EQ(objects().size(), 3U) << "round " << i;
    ASSERT_TRUE(SlotReader::open(slab->object_name(1)).is_ok()) << "round " << i;
  }
  sweeper.say("enough");
  EXPECT_EQ(sweeper.wait(), 0);
}

}  // namespace
}  // namespace weightcast::staging
