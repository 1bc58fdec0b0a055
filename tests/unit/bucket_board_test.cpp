#include "staging/bucket_board.hpp"

#include <cstring>
#include <fstream>
#include <vector>

#include "staging/object_name.hpp"
#include "staging/sweep.hpp"
#include "support/child_process.hpp"
#include "support/seeded.hpp"
#include "support/shm_fixture.hpp"

namespace weightcast::staging {
namespace {

using test::ChildProcess;
using test::Talk;
using State = BoardSeat::State;

class BucketBoardTest : public test::ShmTest {
 protected:
  std::unique_ptr<BucketBoard> make_board(std::uint64_t incarnation = 1) const {
    auto board = BucketBoard::create(owner_prefix(owner(incarnation)));
    EXPECT_TRUE(board) << board.status().to_string();
    return board ? std::move(*board) : nullptr;
  }
  static BoardRing ring(std::uint8_t mark) {
    BoardRing one{{}, 4096, 4};
    one.memory.bytes.fill(static_cast<std::byte>(mark));
    return one;
  }
  /// A child that has opened a flow, says its board's name and waits.
  std::function<int(const Talk&)> leader_of(const BoardFlow& flow) const {
    return [this, flow](const Talk& talk) {
      const auto board = make_board();
      board->show(ring(1));
      board->open(flow);
      talk.say(board->name());
      talk.hear();
      return 0;
    };
  }
  static std::unique_ptr<BoardSeat> sit(const std::string& name, const BoardFlow& flow,
                                        std::uint32_t seat = 0) {
    auto opened = BoardSeat::open(name, flow, seat);
    EXPECT_TRUE(opened) << opened.status().to_string();
    return opened ? std::move(*opened) : nullptr;
  }
};

TEST_F(BucketBoardTest, ASeatSeesItsFlowAndTheLeaderWhatWasTaken) {
  const auto board = make_board();
  const BoardFlow flow{10, 3, 2, 2};
  const auto one = sit(board->name(), flow, 0);
  const auto other = sit(board->name(), flow, 1);
  EXPECT_EQ(one->look(), State::kEarly);
  board->show(ring(7));
  EXPECT_EQ(one->look(), State::kEarly) << "a ring is no flow";

  board->open(flow);
  ASSERT_EQ(one->look(), State::kOpen);
  EXPECT_EQ(one->ring().memory, ring(7).memory);
  EXPECT_EQ(one->ring().bucket_bytes, 4096u);
  EXPECT_EQ(one->ring().buckets, 4u);
  EXPECT_EQ(one->first(), 2u);
  EXPECT_EQ(one->whole(), 2u) << "nothing has come";

  board->set_whole(4);
  EXPECT_EQ(one->whole(), 4u);
  EXPECT_EQ(board->behind(2), 2u);
  EXPECT_TRUE(one->take(2));
  EXPECT_EQ(board->behind(2), 1u);
  ASSERT_EQ(other->look(), State::kOpen);
  EXPECT_TRUE(other->take(2));
  EXPECT_EQ(board->behind(2), 0u);
  EXPECT_EQ(board->behind(3), 2u);
}

TEST_F(BucketBoardTest, WhoIsPutOutFindsThatAndCountsNothingAnyMore) {
  const auto board = make_board();
  const BoardFlow flow{10, 3, 0, 2};
  board->show(ring(1));
  board->open(flow);
  board->set_whole(2);
  const auto quick = sit(board->name(), flow, 0);
  const auto slow = sit(board->name(), flow, 1);
  ASSERT_EQ(quick->look(), State::kOpen);
  ASSERT_EQ(slow->look(), State::kOpen);
  EXPECT_TRUE(quick->take(0));

  EXPECT_EQ(board->put_out_behind(0), 1u);

  EXPECT_EQ(board->behind(0), 0u);
  EXPECT_FALSE(slow->take(0));
  EXPECT_EQ(slow->look(), State::kOver);
  EXPECT_STREQ(slow->why(), "the leader did not wait any longer");
  EXPECT_EQ(quick->look(), State::kOpen);
  EXPECT_TRUE(quick->take(1));
}

TEST_F(BucketBoardTest, WhatComesLateOfAFlowThatIsOverChangesNothingInTheNext) {
  const auto board = make_board();
  board->show(ring(1));
  const BoardFlow before{10, 3, 0, 1};
  const BoardFlow after{10, 4, 0, 1};
  board->open(before);
  board->set_whole(3);
  const auto late = sit(board->name(), before);
  ASSERT_EQ(late->look(), State::kOpen);
  EXPECT_TRUE(late->take(0));

  // It stops after its last look; the leader goes on to the next flow.
  board->open(after);
  board->set_whole(3);
  const auto present = sit(board->name(), after);
  ASSERT_EQ(present->look(), State::kOpen);

  EXPECT_FALSE(late->take(2)) << "the leader would write over what another one reads";
  late->leave();
  EXPECT_EQ(board->behind(0), 1u);
  EXPECT_EQ(present->look(), State::kOpen);
  EXPECT_TRUE(present->take(0));
}

TEST_F(BucketBoardTest, NothingIsTakenOnceTheFlowIsClosed) {
  const auto board = make_board();
  board->show(ring(1));
  const BoardFlow flow{10, 3, 0, 1};
  board->open(flow);
  board->set_whole(1);
  const auto seat = sit(board->name(), flow);
  ASSERT_EQ(seat->look(), State::kOpen);
  board->close();
  EXPECT_FALSE(seat->take(0)) << "the ring may be in use again";
}

TEST_F(BucketBoardTest, AFlowThatIsOverIsToldFromOneThatIsToCome) {
  const auto board = make_board();
  board->show(ring(1));
  const BoardFlow before{10, 3, 0, 1};
  const BoardFlow after{10, 4, 0, 1};
  const BoardFlow later{11, 1, 0, 1};
  board->open(before);
  const auto in_time = sit(board->name(), before);
  ASSERT_EQ(in_time->look(), State::kOpen);
  board->close();

  EXPECT_EQ(in_time->look(), State::kOver);
  EXPECT_FALSE(in_time->take(0));
  EXPECT_EQ(sit(board->name(), before)->look(), State::kOver) << "it came too late";
  const auto early = sit(board->name(), after);
  const auto very_early = sit(board->name(), later);
  EXPECT_EQ(early->look(), State::kEarly);
  EXPECT_EQ(very_early->look(), State::kEarly);

  board->open(later);
  EXPECT_EQ(very_early->look(), State::kOpen);
  EXPECT_EQ(early->look(), State::kEarly) << "what is open is not closed";
  board->close();
  EXPECT_EQ(early->look(), State::kOver);
  EXPECT_EQ(sit(board->name(), before)->look(), State::kOver);
}

TEST_F(BucketBoardTest, ASeatBeyondThoseOfTheFlowIsNone) {
  const auto board = make_board();
  board->show(ring(1));
  const BoardFlow flow{10, 3, 0, 1};
  board->open(flow);
  EXPECT_EQ(sit(board->name(), flow, 1)->look(), State::kEarly);
  EXPECT_EQ(BoardSeat::open(board->name(), flow, kBoardSeats).status().code(), Code::kInvalid);
}

TEST_F(BucketBoardTest, OnlyNamesOfBoardsOfThisUserAreOpened) {
  const BoardFlow flow{10, 3, 0, 1};
  const std::string prefix = owner_prefix(owner());
  for (const std::string& name :
       {std::string(), std::string("../etc/passwd"), slot_name(prefix, 0), anchor_name(prefix),
        std::string("weightcast.4294967294.j.p.5-6.r0.1.board")}) {
    EXPECT_EQ(BoardSeat::open(name, flow, 0).status().code(), Code::kInvalid) << name;
  }
  EXPECT_EQ(BoardSeat::open(board_name(prefix), flow, 0).status().code(), Code::kNotFound);
}

TEST_F(BucketBoardTest, SomethingElseOfThatNameIsRefused) {
  const BoardFlow flow{10, 3, 0, 1};
  const std::string name = board_name(owner_prefix(owner()));
  const std::string path = "/dev/shm/" + name;
  for (const std::size_t bytes : {0u, 100u, 4096u, 8192u}) {
    std::ofstream(path, std::ios::trunc) << std::string(bytes, '\0');
    EXPECT_EQ(BoardSeat::open(name, flow, 0).status().code(), Code::kMismatch) << bytes;
  }
  ::unlink(path.c_str());
}

TEST_F(BucketBoardTest, AnyBytesAtAllAreLookedAtWithoutHarm) {
  const auto board = make_board();
  const BoardFlow flow{1, 1, 0, 1};
  auto object = open_object(board->name(), boost::interprocess::read_write);
  ASSERT_TRUE(object);
  auto page = map_object(*object, boost::interprocess::read_write, 0, 4096);
  ASSERT_TRUE(page);
  auto random = test::seeded("BucketBoardTest.AnyBytes");
  std::size_t open = 0;
  for (int i = 0; i < 2000; ++i) {
    auto* const words = static_cast<std::uint64_t*>(page->get_address());
    // But for the format, which is looked at once.
    for (std::size_t w = 1; w < 512; ++w) words[w] = random() % 4 == 0 ? random() : random() % 3;
    // Of half of them it is the flow that is asked for.
    for (std::size_t w = 1; w < 4 && i % 2 == 0; ++w) words[w] = 1;
    for (std::size_t w = 19; w < 19 + kBoardSeats && i % 2 == 0; ++w) {
      words[w] = std::uint64_t{1} << 32 | (words[4] & 0xffffffff);
    }
    const auto seat = sit(board->name(), flow, static_cast<std::uint32_t>(random() % kBoardSeats));
    for (int look = 0; look < 3; ++look) {
      if (seat->look() != State::kOpen) continue;
      ++open;
      EXPECT_NE(seat->ring().bucket_bytes, 0u);
      EXPECT_NE(seat->ring().buckets, 0u);
      (void)seat->whole();
      (void)seat->take(static_cast<std::uint32_t>(random()));
    }
  }
  EXPECT_GT(open, 0u);
}

TEST_F(BucketBoardTest, TheLeadersDeathShowsAtOnceAndIsSweptAway) {
  const BoardFlow flow{10, 3, 0, 1};
  ChildProcess leader(leader_of(flow));
  const auto seat = sit(leader.hear(), flow);
  ASSERT_EQ(seat->look(), State::kOpen);
  EXPECT_EQ(sweep(job).removed, 0u);
  EXPECT_EQ(survey(job).at(0).is_alive, true);

  leader.kill();

  EXPECT_EQ(seat->look(), State::kOver);
  EXPECT_STREQ(seat->why(), "the leader is gone");
  const auto remains = survey(job);
  ASSERT_EQ(remains.size(), 1u);
  EXPECT_TRUE(remains[0].is_board);
  EXPECT_FALSE(remains[0].is_alive);
  EXPECT_EQ(sweep(job).removed, 1u);
}

TEST_F(BucketBoardTest, AStoppedLeaderIsNotGone) {
  const BoardFlow flow{10, 3, 0, 1};
  ChildProcess leader(leader_of(flow));
  const auto seat = sit(leader.hear(), flow);
  leader.stop();
  EXPECT_EQ(seat->look(), State::kOpen);
  leader.go_on();
  leader.hang_up();
  EXPECT_EQ(leader.wait(), 0);
  EXPECT_EQ(seat->look(), State::kOver);
}

}  // namespace
}  // namespace weightcast::staging
