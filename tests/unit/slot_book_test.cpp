#include "protocol/slot_book.hpp"

#include <gtest/gtest.h>

#include <set>

namespace weightcast::protocol {
namespace {

/// Locks that remember who holds them.
class FakeLocks final : public SlotLocks {
 public:
  bool try_lock(std::uint32_t slot) override {
    if (read.contains(slot)) return false;
    locked.insert(slot);
    return true;
  }
  void unlock(std::uint32_t slot) override { locked.erase(slot); }

  std::set<std::uint32_t> read;
  std::set<std::uint32_t> locked;
};

const auto kNothing = [](std::uint64_t, std::uint64_t) { return false; };
const auto kEverything = [](std::uint64_t, std::uint64_t) { return true; };

TEST(SlotBook, ReservesOneSlotAndHoldsItLocked) {
  FakeLocks locks;
  SlotBook book(3, locks);

  EXPECT_TRUE(book.reserve());
  EXPECT_TRUE(book.reserve());

  EXPECT_TRUE(book.reserved());
  EXPECT_EQ(locks.locked.size(), 1u);
}

TEST(SlotBook, PassesOverSlotsThatAreRead) {
  FakeLocks locks;
  locks.read = {0, 1};
  SlotBook book(3, locks);

  ASSERT_TRUE(book.reserve());

  EXPECT_EQ(book.begin_write(1), 2u);
}

TEST(SlotBook, HasNoneWhileAllAreRead) {
  FakeLocks locks;
  locks.read = {0, 1};
  SlotBook book(2, locks);

  EXPECT_FALSE(book.reserve());
  locks.read.erase(1);
  EXPECT_TRUE(book.reserve());
}

TEST(SlotBook, SealedSlotsAreUnlockedAndStayUntilReleased) {
  FakeLocks locks;
  SlotBook book(2, locks);
  ASSERT_TRUE(book.reserve());
  const std::uint32_t first = book.begin_write(1);
  EXPECT_EQ(book.writing(), first);

  book.seal(first, 10);

  EXPECT_FALSE(book.writing());
  EXPECT_TRUE(locks.locked.empty());
  EXPECT_EQ(book.count_sealed(), 1u);
  book.release_unless(kEverything);
  ASSERT_TRUE(book.reserve());
  EXPECT_NE(book.begin_write(2), first);
  EXPECT_FALSE(book.reserve()) << "one is sealed, one is being written";
}

TEST(SlotBook, ReleaseAsksByGrantAndPoint) {
  FakeLocks locks;
  SlotBook book(3, locks);
  for (const std::uint64_t grant : {1u, 2u}) {
    ASSERT_TRUE(book.reserve());
    book.seal(book.begin_write(grant), grant * 10);
  }

  book.release_unless([](std::uint64_t grant, std::uint64_t point) {
    return grant == 2 && point == 20;
  });

  EXPECT_EQ(book.count_sealed(), 1u);
}

TEST(SlotBook, WhatIsBeingWrittenIsNeverReleased) {
  FakeLocks locks;
  SlotBook book(1, locks);
  ASSERT_TRUE(book.reserve());
  const std::uint32_t slot = book.begin_write(1);

  book.release_unless(kNothing);

  EXPECT_EQ(book.writing(), slot);
  EXPECT_FALSE(book.reserve());
  EXPECT_TRUE(locks.locked.contains(slot));
}

TEST(SlotBook, AbandonedSlotsAreFreeAtOnce) {
  FakeLocks locks;
  SlotBook book(1, locks);
  ASSERT_TRUE(book.reserve());
  book.abandon(book.begin_write(1));

  EXPECT_TRUE(locks.locked.empty());
  EXPECT_TRUE(book.reserve());
}

}  // namespace
}  // namespace weightcast::protocol
