// Buckets of runs that lie apart, for every transport:
//
//   INSTANTIATE_TYPED_TEST_SUITE_P(Shm, TransportStrips, ShmHarness);
#pragma once

#include <algorithm>

#include "contract/transport_harness.hpp"

namespace weightcast::transport {

template <class Harness>
class TransportStrips : public TransportTest<Harness> {};

TYPED_TEST_SUITE_P(TransportStrips);

/// The bytes that strips name in a payload of the pattern of `seed`, one after the other.
inline std::vector<std::byte> expected_bytes(const std::vector<Strip>& strips, std::uint64_t seed) {
  std::vector<std::byte> bytes;
  for (const Strip& strip : strips) {
    for (std::uint64_t run = 0; run < strip.count; ++run) {
      for (std::uint64_t i = 0; i < strip.bytes; ++i) {
        bytes.push_back(test::pattern(seed, strip.offset + run * strip.stride + i));
      }
    }
  }
  return bytes;
}

/// Strips as slices of tensors make them: runs apart, adjoining, single, long, backwards.
inline std::vector<std::vector<Strip>> some_strips() {
  return {{{0, 1, 1, 0}},
          {{5, 3, 7, 11}},
          {{0, 4096, 3, 4096}},
          {{100, 64, 1000, 128}, {kSlotBytes - 1, 1, 1, 0}, {3, 300000, 2, 300001}},
          {{500000, 10, 2, 20}, {0, 10, 2, 10}, {0, 10, 2, 10}},
          {{0, kSlotBytes, 1, 0}}};
}

TYPED_TEST_P(TransportStrips, StripsArriveOneAfterTheOther) {
  const auto lane = this->lane({2, 64});
  const auto segment = this->acquire(*lane, this->publish(0, 9));
  ASSERT_TRUE(segment);
  const auto all = some_strips();
  std::vector<std::vector<std::byte>> spaces;
  for (const auto& strips : all) spaces.emplace_back(expected_bytes(strips, 9).size());

  for (std::size_t i = 0; i < all.size(); ++i) {
    Bucket bucket{.id = i, .destination = spaces[i], .place = {}, .strips = all[i]};
    EXPECT_EQ(bucket.bytes(), spaces[i].size());
    ASSERT_TRUE(lane->submit(segment, std::move(bucket)).is_ok()) << i;
  }
  for (const auto& completion : take(*lane, all.size())) {
    EXPECT_TRUE(completion.status.is_ok()) << completion.status.to_string();
  }

  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_TRUE(spaces[i] == expected_bytes(all[i], 9)) << i;
  }
}

TYPED_TEST_P(TransportStrips, StripsArePlacedInOrder) {
  const auto lane = this->lane({1, 64});
  const auto segment = this->acquire(*lane, this->publish(0, 9));
  ASSERT_TRUE(segment);
  for (const auto& strips : some_strips()) {
    std::vector<std::byte> placed;  // written on the lane's thread, read after the completion
    bool in_order = true;
    Bucket bucket{.id = 1, .destination = {}, .place = {}, .strips = strips};
    bucket.place = [&](std::size_t at, std::span<const std::byte> source) {
      in_order = in_order && at == placed.size() && !source.empty();
      placed.insert(placed.end(), source.begin(), source.end());
    };
    ASSERT_TRUE(lane->submit(segment, std::move(bucket)).is_ok());
    take(*lane, 1);

    EXPECT_TRUE(in_order);
    EXPECT_TRUE(placed == expected_bytes(strips, 9));
  }
}

TYPED_TEST_P(TransportStrips, StripsOutsideAreRefused) {
  const auto lane = this->lane();
  const auto segment = this->acquire(*lane, this->publish(0, 5, 1000));
  ASSERT_TRUE(segment);
  constexpr std::uint64_t kHuge = ~std::uint64_t{0};
  std::vector<std::byte> space(2000, std::byte{0xab});
  const auto code = [&](std::vector<Strip> strips, std::size_t size) {
    return lane->submit(segment, {1, 0, std::span(space).first(size), {}, std::move(strips)})
        .code();
  };

  for (const Strip& strip :
       {Strip{1000, 1, 1, 0}, Strip{0, 1001, 1, 0}, Strip{990, 4, 3, 4}, Strip{0, 0, 1, 0},
        Strip{0, 1, 0, 0}, Strip{0, 2, 2, 1}, Strip{kHuge, 2, 1, 0}, Strip{8, 8, kHuge, 8},
        Strip{0, 1, 3, kHuge}, Strip{0, 1, kHuge / 2, 2}}) {
    EXPECT_EQ(code({{0, 1, 1, 0}, strip}, 2), Code::kInvalid)
        << strip.offset << " " << strip.bytes << " " << strip.count << " " << strip.stride;
  }
  EXPECT_EQ(code({{0, 10, 2, 20}}, 19), Code::kInvalid) << "the destination is too small";
  EXPECT_EQ(code({{0, 10, 2, 20}}, 21), Code::kInvalid);

  EXPECT_TRUE(lane->close(within(std::chrono::seconds(60))).is_ok());
  EXPECT_FALSE(readable_now(lane->event_fd())) << "a refused bucket has a completion";
  EXPECT_EQ(std::count(space.begin(), space.end(), std::byte{0xab}), 2000);
}

REGISTER_TYPED_TEST_SUITE_P(TransportStrips, StripsArriveOneAfterTheOther, StripsArePlacedInOrder,
                            StripsOutsideAreRefused);

}  // namespace weightcast::transport
