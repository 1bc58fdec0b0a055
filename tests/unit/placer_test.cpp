#include "subscriber/placer.hpp"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "codec/digest.hpp"

namespace weightcast::subscriber {
namespace {

/// A share of two tensors: "whole" lies as it is in the image, beside the right half of "wide" (16
/// rows of 40 bytes, of which the last 20 are wanted).
class ImagePlacerTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kWhole = 1003;
  static constexpr std::uint64_t kWide = 1024;  ///< where "wide" begins in the payload
  static constexpr std::uint64_t kRows = 16;
  static constexpr std::uint64_t kHalf = 20;

  ImagePlacerTest() : payload(kWide + kRows * 2 * kHalf), image(2048, std::byte{0}) {
    std::mt19937 random(11);
    for (auto& byte : payload) byte = static_cast<std::byte>(random());
    plan::Share share;
    share.payload_bytes = payload.size();
    share.entries.push_back(entry("whole", 0, {static_cast<std::int64_t>(kWhole)}));
    share.entries.push_back(entry("wide", kWide, {16, 40}));
    manifest.shares.push_back(share);
    plan.tensors.push_back({share.entries[0].info, kTarget});
    plan.tensors.push_back({{"half", {}, DType::kU8, {16, 20}, false}, kHalfTarget});
    plan.image_bytes = image.size();
    plan.whole.push_back({0, 0, kTarget});
  }
  static constexpr std::uint64_t kTarget = 64;
  static constexpr std::uint64_t kHalfTarget = 1216;

  plan::ShareEntry entry(const std::string& name, std::uint64_t offset,
                         std::vector<std::int64_t> shape) const {
    plan::ShareEntry made;
    made.info = {name, {}, DType::kU8, std::move(shape), false};
    made.offset = offset;
    made.digest = codec::digest_reference(payload.data() + offset, made.info.bytes(), 0);
    return made;
  }
  void add_bucket(std::vector<plan::CopyStrip> strips) {
    plan::PlannedBucket bucket;
    for (const auto& strip : strips) bucket.bytes += strip.bytes * strip.count;
    bucket.strips = std::move(strips);
    plan.buckets.push_back(bucket);
  }
  plan::CopyStrip half() const { return {kWide + kHalf, kHalfTarget, kHalf, kRows, 2 * kHalf, kHalf}; }

  std::vector<std::byte> bytes_of(const plan::PlannedBucket& bucket) const {
    std::vector<std::byte> bytes;
    for (const plan::CopyStrip& strip : bucket.strips) {
      for (std::uint64_t run = 0; run < strip.count; ++run) {
        const auto from = payload.begin() + static_cast<long>(strip.source + run * strip.source_stride);
        bytes.insert(bytes.end(), from, from + static_cast<long>(strip.bytes));
      }
    }
    return bytes;
  }
  /// Places all buckets in pieces of `piece` bytes.
  void place_all(ImagePlacer& placer, std::size_t piece) const {
    for (std::size_t i = 0; i < plan.buckets.size(); ++i) {
      const auto bytes = bytes_of(plan.buckets[i]);
      for (std::size_t at = 0; at < bytes.size(); at += piece) {
        placer.place(i, at, std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
      }
    }
  }
  void expect_placed(std::size_t piece) const {
    EXPECT_TRUE(std::equal(payload.begin(), payload.begin() + kWhole, image.begin() + kTarget)) << piece;
    for (std::uint64_t row = 0; row < kRows; ++row) {
      const auto from = payload.begin() + static_cast<long>(kWide + kHalf + row * 2 * kHalf);
      EXPECT_TRUE(std::equal(from, from + kHalf,
                             image.begin() + static_cast<long>(kHalfTarget + row * kHalf)))
          << "row " << row << ", pieces of " << piece;
    }
  }

  std::vector<std::byte> payload;
  std::vector<std::byte> image;
  plan::Manifest manifest;
  plan::ImagePlan plan;
};

TEST_F(ImagePlacerTest, PlacesAndVerifiesHoweverThePiecesAreCut) {
  add_bucket({{0, kTarget, 512}});
  add_bucket({{512, kTarget + 512, kWhole - 512}, half()});
  for (const std::size_t piece : {1u, 3u, 7u, 8u, 20u, 64u, 500u, 4096u}) {
    std::fill(image.begin(), image.end(), std::byte{0});
    ImagePlacer placer(manifest, plan, image);
    place_all(placer, piece);
    EXPECT_TRUE(placer.check()) << piece << ": " << placer.check().to_string();
    expect_placed(piece);
  }
}

TEST_F(ImagePlacerTest, VerifiesWhatIsCutWithinAWord) {
  add_bucket({{0, kTarget, 333}});
  add_bucket({{333, kTarget + 333, kWhole - 333}});
  add_bucket({half()});
  ImagePlacer placer(manifest, plan, image);
  place_all(placer, 100);
  EXPECT_TRUE(placer.check()) << placer.check().to_string();
  expect_placed(100);

  image[kTarget + 5] ^= std::byte{1};
  EXPECT_EQ(placer.check().code(), Code::kMismatch) << "its digest is taken at the end";
}

TEST_F(ImagePlacerTest, NamesTheTensorThatCameSpoiledOrNotAtAll) {
  add_bucket({{0, kTarget, kWhole}});
  {
    ImagePlacer placer(manifest, plan, image);
    auto bytes = bytes_of(plan.buckets[0]);
    bytes[700] ^= std::byte{16};
    placer.place(0, 0, bytes);
    ASSERT_EQ(placer.check().code(), Code::kMismatch);
    EXPECT_NE(placer.check().message().find("'whole'"), std::string::npos);
  }
  ImagePlacer placer(manifest, plan, image);
  const auto bytes = bytes_of(plan.buckets[0]);
  placer.place(0, 0, std::span(bytes).first(800));
  EXPECT_EQ(placer.check().code(), Code::kMismatch);
}

TEST_F(ImagePlacerTest, TakesARunOverSeveralTensorsAndTheGapsBetween) {
  // As where a share is copied as it lies: both tensors and the gap in one strip.
  plan.whole.push_back({0, 1, kTarget + kWide});
  add_bucket({{0, kTarget, payload.size()}});
  ImagePlacer placer(manifest, plan, image);
  place_all(placer, 256);
  EXPECT_TRUE(placer.check()) << placer.check().to_string();
  EXPECT_TRUE(std::equal(payload.begin(), payload.end(), image.begin() + kTarget));
}

TEST_F(ImagePlacerTest, TakesBucketsFromManyThreads) {
  for (std::uint64_t at = 0; at < kWhole; at += 128) {
    add_bucket({{at, kTarget + at, std::min<std::uint64_t>(128, kWhole - at)}});
  }
  add_bucket({half()});
  ImagePlacer placer(manifest, plan, image);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < plan.buckets.size(); ++i) {
    threads.emplace_back([&, i] { placer.place(i, 0, bytes_of(plan.buckets[i])); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(placer.check()) << placer.check().to_string();
  expect_placed(0);
}

}  // namespace
}  // namespace weightcast::subscriber
