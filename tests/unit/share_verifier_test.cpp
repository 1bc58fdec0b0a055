#include "subscriber/verify.hpp"

#include <gtest/gtest.h>

#include <random>

#include "codec/digest.hpp"

namespace weightcast::subscriber {
namespace {

/// Three tensors with gaps between them, listed out of their order in the payload.
class ShareVerifierTest : public ::testing::Test {
 protected:
  ShareVerifierTest() : payload(1024) {
    std::mt19937 random(7);
    for (auto& byte : payload) byte = static_cast<std::byte>(random());
    add("late", 640, 300);
    add("early", 0, 77);
    add("middle", 128, 448);
    share.payload_bytes = payload.size();
  }

  void add(const std::string& name, std::uint64_t offset, std::int64_t bytes) {
    plan::ShareEntry entry;
    entry.info = {name, {}, DType::kU8, {bytes}, false};
    entry.offset = offset;
    entry.digest = codec::digest_reference(payload.data() + offset, static_cast<std::size_t>(bytes), 0);
    share.entries.push_back(entry);
  }

  std::vector<std::byte> payload;
  plan::Share share;
};

TEST_F(ShareVerifierTest, AcceptsRangesInAnyOrder) {
  ShareVerifier verifier(share);
  for (const std::uint64_t offset : {512u, 0u, 896u, 192u, 128u, 64u}) {
    const std::uint64_t end = offset == 512 ? 896 : offset == 896 ? 1024 : offset == 192 ? 512 : offset + 64;
    verifier.add(offset, std::span(payload).subspan(offset, end - offset));
  }
  EXPECT_TRUE(verifier.check());
}

TEST_F(ShareVerifierTest, PlacesTheTensorsBytes) {
  std::vector<std::byte> destination(payload.size());
  ShareVerifier verifier(share);
  verifier.place(0, destination.data(), std::span(payload).first(256));
  verifier.place(256, destination.data() + 256, std::span(payload).subspan(256));
  EXPECT_TRUE(verifier.check());
  for (const auto& entry : share.entries) {
    EXPECT_TRUE(std::equal(destination.begin() + static_cast<long>(entry.offset),
                           destination.begin() + static_cast<long>(entry.offset + entry.info.bytes()),
                           payload.begin() + static_cast<long>(entry.offset)))
        << entry.info.name;
  }
}

TEST_F(ShareVerifierTest, NamesTheTensorThatDiffers) {
  for (const std::size_t at : {std::size_t{3}, std::size_t{130}, std::size_t{939}}) {
    std::vector<std::byte> wrong = payload;
    wrong[at] ^= std::byte{4};
    ShareVerifier verifier(share);
    verifier.add(0, wrong);
    const Status status = verifier.check();
    ASSERT_EQ(status.code(), Code::kMismatch) << at;
    const char* name = at < 128 ? "early" : at < 640 ? "middle" : "late";
    EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
  }
}

TEST_F(ShareVerifierTest, MissesNoRangeThatWasLeftOut) {
  ShareVerifier verifier(share);
  verifier.add(0, std::span(payload).first(640));
  EXPECT_EQ(verifier.check().code(), Code::kMismatch);
}

TEST_F(ShareVerifierTest, LooksPastGaps) {
  std::vector<std::byte> other = payload;
  other[100] ^= std::byte{1};
  other[1000] ^= std::byte{1};
  ShareVerifier verifier(share);
  verifier.add(0, other);
  EXPECT_TRUE(verifier.check());
}

}  // namespace
}  // namespace weightcast::subscriber
