#include "staging/object_name.hpp"

#include <gtest/gtest.h>

namespace weightcast::staging {
namespace {

const ObjectOwner kOwner{"job-1", "actor_a", {1700000000000000, 42}, 3, 18446744073709551615ULL};

TEST(ObjectName, SlotAndAnchorAreReadBackAsWritten) {
  const std::string prefix = owner_prefix(kOwner);

  const auto slot = parse_object_name(slot_name(prefix, 7));
  const auto anchor = parse_object_name(anchor_name(prefix));

  ASSERT_TRUE(slot.has_value());
  EXPECT_EQ(slot->uid, ::geteuid());
  EXPECT_EQ(slot->owner.job, kOwner.job);
  EXPECT_EQ(slot->owner.policy, kOwner.policy);
  EXPECT_EQ(slot->owner.run, kOwner.run);
  EXPECT_EQ(slot->owner.rank, kOwner.rank);
  EXPECT_EQ(slot->owner.incarnation, kOwner.incarnation);
  EXPECT_EQ(slot->slot, 7U);
  ASSERT_TRUE(anchor.has_value());
  EXPECT_FALSE(anchor->slot.has_value());
  EXPECT_FALSE(anchor->is_board);
  EXPECT_EQ(prefix_of(slot_name(prefix, 7)), prefix);
}

TEST(ObjectName, ABoardIsReadBackAsWritten) {
  const auto board = parse_object_name(board_name(owner_prefix(kOwner)));

  ASSERT_TRUE(board.has_value());
  EXPECT_TRUE(board->is_board);
  EXPECT_FALSE(board->slot.has_value());
  EXPECT_EQ(board->owner.run, kOwner.run);
}

TEST(ObjectName, TheLongestNameFitsIntoAFileName) {
  const ObjectOwner longest{std::string(64, 'j'), std::string(64, 'p'), {~0ULL, ~0U}, ~0U, ~0ULL};

  EXPECT_LE(slot_name(owner_prefix(longest), kMaxSlots - 1).size(), 255U);
  EXPECT_LE(anchor_name(owner_prefix(longest)).size(), 255U);
}

TEST(ObjectName, NothingButTheExactFormIsAccepted) {
  EXPECT_TRUE(parse_object_name("weightcast.0.j.p.5-6.r0.1.s0").has_value());
  for (const char* name : {
           "",
           ".",
           "weightcast",
           "weightcast.0.j.p.5-6.r0.1",
           "weightcast.0.j.p.5-6.r0.1.",
           "weightcast.0.j.p.5-6.r0.1.s",
           "weightcast.0.j.p.5-6.r0.1.s00",
           "weightcast.0.j.p.5-6.r0.1.s-1",
           "weightcast.0.j.p.5-6.r0.1.s1024",
           "weightcast.0.j.p.5-6.r0.1.s0.x",
           "weightcast.0.j.p.5-6.r0.1.anchors",
           "weightcast.0.j.p.5-6.r0.1.boards",
           "weightcast.0.j.p.5-6.r0.1.s0 ",
           "Weightcast.0.j.p.5-6.r0.1.s0",
           "weightcast..j.p.5-6.r0.1.s0",
           "weightcast.0..p.5-6.r0.1.s0",
           "weightcast.0.j..5-6.r0.1.s0",
           "weightcast.0.j/.p.5-6.r0.1.s0",
           "weightcast.+0.j.p.5-6.r0.1.s0",
           "weightcast.0.j.p.5.r0.1.s0",
           "weightcast.0.j.p.5-6-7.r0.1.s0",
           "weightcast.0.j.p.-5-6.r0.1.s0",
           "weightcast.0.j.p.5-4294967296.r0.1.s0",
           "weightcast.0.j.p.5-6.0.1.s0",
           "weightcast.0.j.p.5-6.r0.x.s0",
           "weightcast.0.j.p.5-6.r0.18446744073709551616.s0",
       }) {
    EXPECT_FALSE(parse_object_name(name).has_value()) << name;
  }
}

TEST(ObjectName, WordsAreShortAndPlain) {
  EXPECT_TRUE(is_name_word("Az09_-"));
  EXPECT_TRUE(is_name_word(std::string(64, 'x')));
  EXPECT_FALSE(is_name_word(std::string(65, 'x')));
  EXPECT_FALSE(is_name_word(""));
  EXPECT_FALSE(is_name_word("a.b"));
  EXPECT_FALSE(is_name_word("a/b"));
  EXPECT_FALSE(is_name_word("\xc3\xa4"));
}

}  // namespace
}  // namespace weightcast::staging
