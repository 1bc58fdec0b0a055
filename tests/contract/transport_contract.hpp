// What every transport must do, whatever carries its bytes:
//
//   INSTANTIATE_TYPED_TEST_SUITE_P(Shm, TransportContract, ShmHarness);
#pragma once

#include <algorithm>
#include <atomic>
#include <map>

#include "contract/transport_harness.hpp"

namespace weightcast::transport {

template <class Harness>
class TransportContract : public TransportTest<Harness> {};

TYPED_TEST_SUITE_P(TransportContract);

TYPED_TEST_P(TransportContract, IsViableAndNamed) {
  EXPECT_TRUE(this->harness.transport().viable().is_ok());
  EXPECT_FALSE(this->harness.transport().name().empty());
}

TYPED_TEST_P(TransportContract, BadLaneOptionsAreRefused) {
  for (const LaneOptions& options : {LaneOptions{0, 8}, LaneOptions{1, 0}}) {
    const auto opened = this->harness.transport().open_lane(options);
    ASSERT_FALSE(opened.is_ok());
    EXPECT_EQ(opened.status().code(), Code::kInvalid);
  }
}

TYPED_TEST_P(TransportContract, BytesArriveExactly) {
  const auto lane = this->lane({2, 64});
  const auto segment = this->acquire(*lane, this->publish(0, 1));
  ASSERT_TRUE(segment);
  struct Range {
    std::uint64_t offset;
    std::size_t size;
  };
  const std::vector<Range> ranges{{0, 0},      {0, 1},         {kSlotBytes, 0},
                                  {1, 3},      {4095, 2},      {kSlotBytes - 1, 1},
                                  {7, 262144}, {13, 262145},   {0, kSlotBytes},
                                  {3, 524289}, {262143, 4097}, {kSlotBytes - 300000, 300000}};
  constexpr std::size_t kGuard = 64;
  std::vector<std::vector<std::byte>> buffers;
  for (const auto& range : ranges) buffers.emplace_back(range.size + 2 * kGuard, std::byte{0xab});

  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const auto destination = std::span(buffers[i]).subspan(kGuard, ranges[i].size);
    ASSERT_TRUE(lane->submit(segment, {i, ranges[i].offset, destination, {}}).is_ok());
  }
  for (const auto& completion : take(*lane, ranges.size())) {
    EXPECT_TRUE(completion.status.is_ok()) << completion.status.to_string();
  }

  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const std::span<const std::byte> all(buffers[i]);
    const auto bytes = all.subspan(kGuard, ranges[i].size);
    EXPECT_EQ(test::first_difference(bytes, 1, ranges[i].offset), bytes.size()) << i;
    for (const auto guard : {all.first(kGuard), all.last(kGuard)}) {
      EXPECT_EQ(std::count(guard.begin(), guard.end(), std::byte{0xab}), 64) << i;
    }
  }
}

TYPED_TEST_P(TransportContract, EachBucketHasOneCompletion) {
  for (std::uint32_t in_flight : {1U, 2U, 7U, 64U}) {
    const auto lane = this->lane({2, in_flight});
    const auto segment = this->acquire(*lane, this->publish(0, in_flight));
    ASSERT_TRUE(segment);
    constexpr std::uint64_t kBuckets = 200;
    std::vector<std::byte> space(in_flight * 1000);
    std::map<std::uint64_t, int> seen;
    std::uint64_t submitted = 0;
    while (seen.size() < kBuckets) {
      std::uint32_t flying = 0;
      for (; flying < in_flight && submitted < kBuckets; ++flying, ++submitted) {
        const auto destination = std::span(space).subspan(flying * 1000, 1000);
        ASSERT_TRUE(lane->submit(segment, {submitted, submitted * 11, destination, {}}).is_ok());
      }
      for (const auto& completion : take(*lane, flying)) {
        EXPECT_TRUE(completion.status.is_ok());
        ++seen[completion.id];
      }
      ASSERT_FALSE(this->HasFailure());
    }

    EXPECT_TRUE(lane->close(within(std::chrono::seconds(60))).is_ok());
    std::array<Completion, 4> none;
    EXPECT_EQ(lane->poll(none), 0U);
    for (const auto& [id, count] : seen) EXPECT_EQ(count, 1) << id;
    EXPECT_EQ(seen.rbegin()->first, kBuckets - 1);
  }
}

TYPED_TEST_P(TransportContract, PlaceIsHandedTheBytesPieceByPiece) {
  const auto lane = this->lane();
  const auto segment = this->acquire(*lane, this->publish(0, 3));
  ASSERT_TRUE(segment);
  std::vector<std::byte> space(600000, std::byte{0xab});
  std::size_t expected_at = 0;  // written on the lane's thread, read after the completion
  bool right = true;

  ASSERT_TRUE(lane->submit(segment, {1, 77, space,
                                     [&](std::size_t at, std::span<const std::byte> source) {
                                       const bool last = at + source.size() == space.size();
                                       right = right && at == expected_at &&
                                               (last || source.size() % 4096 == 0) &&
                                               test::first_difference(source, 3, 77 + at) ==
                                                   source.size();
                                       expected_at = at + source.size();
                                     }})
                  .is_ok());
  take(*lane, 1);

  EXPECT_TRUE(right);
  EXPECT_EQ(expected_at, space.size());
  EXPECT_EQ(std::count(space.begin(), space.end(), std::byte{0xab}), 600000)
      << "with place() set, placing is its business alone";
}

TYPED_TEST_P(TransportContract, TheDescriptorTellsOfCompletions) {
  const auto lane = this->lane();
  const auto segment = this->acquire(*lane, this->publish(0, 3));
  ASSERT_TRUE(segment);
  std::vector<std::byte> space(10);
  ASSERT_GE(lane->event_fd(), 0);
  EXPECT_FALSE(readable_now(lane->event_fd()));

  for (std::uint64_t id : {1, 2}) {
    ASSERT_TRUE(lane->submit(segment, {id, 0, std::span(space).subspan(id, 1), {}}).is_ok());
  }
  ASSERT_TRUE(lane->close(within(std::chrono::seconds(60))).is_ok());

  std::array<Completion, 1> one;
  EXPECT_TRUE(readable_now(lane->event_fd()));
  EXPECT_EQ(lane->poll(one), 1U);
  EXPECT_TRUE(readable_now(lane->event_fd()));
  EXPECT_EQ(lane->poll(one), 1U);
  EXPECT_FALSE(readable_now(lane->event_fd()));
  EXPECT_EQ(lane->poll(one), 0U);
}

TYPED_TEST_P(TransportContract, WhatTheSourceDoesNotHoldIsStale) {
  const auto lane = this->lane();
  const SegmentAddress right = this->publish(0, 5, 1000);
  const auto but = [&](auto change) {
    SegmentAddress address = right;
    change(address);
    return address;
  };

  EXPECT_EQ(this->acquire_code(*lane, but([](auto& a) { --a.version.number; })), Code::kStale);
  EXPECT_EQ(this->acquire_code(*lane, but([](auto& a) { ++a.version.run.tie; })), Code::kStale);
  EXPECT_EQ(this->acquire_code(*lane, but([](auto& a) { ++a.generation; })), Code::kStale);
  EXPECT_EQ(this->acquire_code(*lane, but([](auto& a) { ++a.payload_bytes; })), Code::kStale);
  EXPECT_EQ(this->acquire_code(*lane, but([](auto& a) { --a.payload_bytes; })), Code::kStale);
  EXPECT_EQ(this->acquire_code(*lane, right), Code::kOk);
  EXPECT_TRUE(this->is_free(0)) << "a refused segment is held";

  this->publish(0, 6, 1000);
  EXPECT_EQ(this->acquire_code(*lane, right), Code::kStale);
}

TYPED_TEST_P(TransportContract, ASourceThatIsGoneIsNotFound) {
  const SegmentAddress address = this->publish(0, 5);
  this->harness.restart();
  const auto lane = this->lane();

  EXPECT_EQ(this->acquire_code(*lane, address), Code::kNotFound);
}

TYPED_TEST_P(TransportContract, RangesOutsideAreRefused) {
  const auto lane = this->lane();
  const auto segment = this->acquire(*lane, this->publish(0, 5, 1000));
  ASSERT_TRUE(segment);
  std::vector<std::byte> space(2000, std::byte{0xab});
  const auto code = [&](std::uint64_t offset, std::size_t size) {
    return lane->submit(segment, {1, offset, std::span(space).first(size), {}}).code();
  };

  EXPECT_EQ(code(0, 1001), Code::kInvalid);
  EXPECT_EQ(code(1000, 1), Code::kInvalid);
  EXPECT_EQ(code(1001, 0), Code::kInvalid);
  EXPECT_EQ(code(~std::uint64_t{0}, 2), Code::kInvalid);
  EXPECT_EQ(lane->submit(nullptr, {1, 0, std::span(space).first(1), {}}).code(), Code::kInvalid);

  EXPECT_TRUE(lane->close(within(std::chrono::seconds(60))).is_ok());
  EXPECT_FALSE(readable_now(lane->event_fd())) << "a refused bucket has a completion";
  EXPECT_EQ(std::count(space.begin(), space.end(), std::byte{0xab}), 2000);
}

TYPED_TEST_P(TransportContract, NoMoreThanAgreedAreInFlight) {
  Gate gate;
  std::vector<std::byte> space(100);
  const auto lane = this->lane({1, 3});
  const auto segment = this->acquire(*lane, this->publish(0, 5));
  ASSERT_TRUE(segment);
  const auto bucket = [&](std::uint64_t id) {
    return Bucket{id, id, std::span(space).subspan(id, 1), [&](auto, auto) { gate.pass(); }};
  };

  for (std::uint64_t id : {0, 1, 2}) ASSERT_TRUE(lane->submit(segment, bucket(id)).is_ok());
  EXPECT_EQ(lane->submit(segment, bucket(3)).code(), Code::kExhausted);
  gate.open();
  take(*lane, 3);
  for (std::uint64_t id : {4, 5, 6}) EXPECT_TRUE(lane->submit(segment, bucket(id)).is_ok());
  take(*lane, 3);
}

TYPED_TEST_P(TransportContract, CloseWaitsAndThenRefuses) {
  Gate gate;
  std::vector<std::byte> space(100);
  const auto lane = this->lane();
  const auto segment = this->acquire(*lane, this->publish(0, 5));
  ASSERT_TRUE(segment);
  const auto bucket = [&](std::uint64_t id) {
    return Bucket{id, 0, std::span(space).subspan(id, 1), [&](auto, auto) { gate.pass(); }};
  };
  for (std::uint64_t id : {0, 1, 2}) ASSERT_TRUE(lane->submit(segment, bucket(id)).is_ok());

  EXPECT_EQ(lane->close(at_once()).code(), Code::kDeadline);
  EXPECT_FALSE(lane->submit(segment, bucket(3)).is_ok());
  gate.open();
  EXPECT_TRUE(lane->close(within(std::chrono::seconds(60))).is_ok());
  EXPECT_FALSE(lane->submit(segment, bucket(4)).is_ok());

  for (const auto& completion : take(*lane, 3)) EXPECT_TRUE(completion.status.is_ok());
}

TYPED_TEST_P(TransportContract, AbortCancelsWhatHasNotBegun) {
  Gate gate;
  std::vector<std::byte> space(100);
  const auto lane = this->lane({1, 64});
  const auto segment = this->acquire(*lane, this->publish(0, 5));
  ASSERT_TRUE(segment);
  for (std::uint64_t id = 0; id < 20; ++id) {
    ASSERT_TRUE(lane->submit(segment, {id, 0, std::span(space).subspan(id, 1),
                                       [&](auto, auto) { gate.pass(); }})
                    .is_ok());
  }
  ASSERT_TRUE(gate.wait_for_arrivals(1));

  lane->abort();  // returns although a bucket is held up
  std::map<std::uint64_t, int> seen;
  for (const auto& completion : take(*lane, 19)) {
    EXPECT_EQ(completion.status.code(), Code::kCancelled);
    ++seen[completion.id];
  }
  EXPECT_EQ(lane->close(at_once()).code(), Code::kDeadline) << "one is still in flight";
  gate.open();
  for (const auto& completion : take(*lane, 1)) ++seen[completion.id];

  EXPECT_TRUE(lane->close(within(std::chrono::seconds(60))).is_ok());
  EXPECT_EQ(seen.size(), 20U);
  EXPECT_FALSE(lane->submit(segment, {99, 0, std::span(space).first(1), {}}).is_ok());
  lane->abort();
  EXPECT_FALSE(readable_now(lane->event_fd()));
}

TYPED_TEST_P(TransportContract, ALaneMayGoWithBucketsInFlight) {
  std::vector<std::byte> space(kSlotBytes);
  for (int round = 0; round < 20; ++round) {
    auto lane = this->lane({2, 64});
    auto segment = this->acquire(*lane, this->publish(0, 5 + static_cast<unsigned>(round)));
    ASSERT_TRUE(segment);
    for (std::uint64_t id = 0; id < 30; ++id) {
      const auto destination = std::span(space).subspan(id * 20000, 20000);
      ASSERT_TRUE(lane->submit(segment, {id, 0, destination, {}}).is_ok());
    }
    segment.reset();
    lane.reset();
    EXPECT_TRUE(this->is_free(0)) << "somebody still holds the segment";
  }
}

TYPED_TEST_P(TransportContract, AHeldSegmentIsNeverOverwritten) {
  Gate gate;
  std::vector<std::byte> space(100);
  const auto lane = this->lane();
  auto segment = this->acquire(*lane, this->publish(0, 5));
  ASSERT_TRUE(segment);
  EXPECT_TRUE(this->is_held(0));
  EXPECT_TRUE(this->is_free(1));
  ASSERT_TRUE(
      lane->submit(segment, {1, 0, std::span(space).first(1), [&](auto, auto) { gate.pass(); }})
          .is_ok());

  segment.reset();
  EXPECT_TRUE(this->is_held(0)) << "a bucket in flight holds its segment";
  gate.open();
  take(*lane, 1);
  EXPECT_TRUE(this->is_free(0));
}

TYPED_TEST_P(TransportContract, HoldersOfOneVersionAreCounted) {
  const auto lane = this->lane();
  const SegmentAddress address = this->publish(0, 5);
  auto first = this->acquire(*lane, address);
  auto second = this->acquire(*lane, address);
  ASSERT_TRUE(first && second);

  first.reset();
  EXPECT_TRUE(this->is_held(0));
  second.reset();
  EXPECT_TRUE(this->is_free(0));
}

TYPED_TEST_P(TransportContract, TwoLanesHoldEachForThemselves) {
  const auto one = this->lane();
  const auto other = this->lane();
  const SegmentAddress address = this->publish(0, 5);
  auto first = this->acquire(*one, address);
  auto second = this->acquire(*other, address);
  ASSERT_TRUE(first && second);

  first.reset();
  EXPECT_TRUE(this->is_held(0));
  second.reset();
  EXPECT_TRUE(this->is_free(0));
}

TYPED_TEST_P(TransportContract, ASegmentOutlivesItsLaneAndItsSource) {
  auto lane = this->lane();
  const auto segment = this->acquire(*lane, this->publish(0, 5));
  ASSERT_TRUE(segment);
  EXPECT_TRUE(this->is_held(0));
  const bool shows = !segment->view().empty() || !segment->device_view().empty();

  lane.reset();
  if (shows) {
    EXPECT_FALSE(this->harness.can_overwrite(0));
  } else {
    EXPECT_TRUE(this->is_free(0)) << "nobody can read it any more";
  }
  this->harness.restart();

  // A device's memory is looked at as well: that of these tests is the host's.
  const auto bytes = segment->device_view().empty() ? segment->view() : segment->device_view();
  EXPECT_EQ(bytes.empty(), !shows);
  EXPECT_EQ(test::first_difference(bytes, 5), bytes.size());
}

TYPED_TEST_P(TransportContract, AViewShowsThePayloadPrivately) {
  const auto lane = this->lane();
  const SegmentAddress address = this->publish(0, 5, 70001);
  const auto segment = this->acquire(*lane, address);
  ASSERT_TRUE(segment);
  const auto bytes = segment->view();
  if (bytes.empty()) GTEST_SKIP() << "this transport shows nothing in place";
  ASSERT_EQ(bytes.size(), 70001U);
  EXPECT_EQ(test::first_difference(bytes, 5), bytes.size());

  std::fill(bytes.begin(), bytes.end(), std::byte{0x77});

  const auto other = this->lane();
  const auto same = this->acquire(*other, address);
  ASSERT_TRUE(same);
  EXPECT_EQ(test::first_difference(same->view(), 5), 70001U);
}

TYPED_TEST_P(TransportContract, WritesIntoAViewDoNotReachTheNextVersion) {
  const auto lane = this->lane();
  std::vector<std::byte> space(kSlotBytes);
  for (std::uint64_t number = 1; number < 5; ++number) {
    const auto segment = this->acquire(*lane, this->publish(0, number));
    ASSERT_TRUE(segment);
    ASSERT_TRUE(lane->submit(segment, {number, 0, space, {}}).is_ok());
    take(*lane, 1);
    EXPECT_EQ(test::first_difference(space, number), space.size()) << number;
    const auto bytes = segment->view();
    std::fill(bytes.begin(), bytes.end(), std::byte{0x77});
  }
}

REGISTER_TYPED_TEST_SUITE_P(TransportContract, IsViableAndNamed, BadLaneOptionsAreRefused,
                            BytesArriveExactly, EachBucketHasOneCompletion,
                            PlaceIsHandedTheBytesPieceByPiece, TheDescriptorTellsOfCompletions,
                            WhatTheSourceDoesNotHoldIsStale, ASourceThatIsGoneIsNotFound,
                            RangesOutsideAreRefused, NoMoreThanAgreedAreInFlight,
                            CloseWaitsAndThenRefuses, AbortCancelsWhatHasNotBegun,
                            ALaneMayGoWithBucketsInFlight, AHeldSegmentIsNeverOverwritten,
                            HoldersOfOneVersionAreCounted, TwoLanesHoldEachForThemselves,
                            ASegmentOutlivesItsLaneAndItsSource, AViewShowsThePayloadPrivately,
                            WritesIntoAViewDoNotReachTheNextVersion);

}  // namespace weightcast::transport
