#include "subscriber/image_store.hpp"

#include <gtest/gtest.h>

namespace weightcast::subscriber {
namespace {

const Version kVersion{{7, 1}, 3};

/// Two shares of two tensors each, put together in an image as they are.
class ImageStoreTest : public ::testing::Test {
 protected:
  ImageStoreTest() {
    for (std::uint32_t rank = 0; rank < 2; ++rank) {
      plan::Share share;
      share.rank = rank;
      share.object = "object-" + std::to_string(rank);
      share.generation = 10 + rank;
      share.payload_bytes = 128 + 40;
      for (std::uint32_t i = 0; i < 2; ++i) {
        plan::ShareEntry entry;
        entry.info = {"t" + std::to_string(2 * rank + i), {}, DType::kU8, {40}, false};
        entry.offset = i * 128;
        share.entries.push_back(entry);
        const std::uint64_t target = rank * 256 + entry.offset;
        plan.tensors.push_back({entry.info, target});
        plan.whole.push_back({rank, i, target});
      }
      manifest.shares.push_back(share);
    }
    plan.image_bytes = 512;
  }

  std::shared_ptr<Image> make_image(const Version& version = kVersion) {
    EXPECT_TRUE(room->try_enter());
    auto image = std::make_shared<Image>(room, version);
    auto buffer = room->buffer(plan.image_bytes);
    EXPECT_TRUE(buffer);
    const auto bytes = (*buffer)->bytes().first(plan.image_bytes);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 3);
    image->fill(plan, std::move(*buffer));
    image->offer(shares_within(manifest, plan, bytes));
    return image;
  }
  static transport::SegmentAddress address(std::uint32_t rank) {
    return {"object-" + std::to_string(rank), kVersion, 10 + rank, 128 + 40};
  }

  plan::Manifest manifest;
  plan::ImagePlan plan;
  std::shared_ptr<ImageRoom> room = std::make_shared<ImageRoom>("job-of-image-store-test");
  std::shared_ptr<LeaseBook> leases = std::make_shared<LeaseBook>(room);
  ImageStore store{leases};
};

TEST_F(ImageStoreTest, LendsTheSharesOfWhatIsServed) {
  const auto image = make_image();
  store.serve(image);
  for (const std::uint32_t rank : {0u, 1u}) {
    auto segment = store.hold(address(rank));
    ASSERT_TRUE(segment) << segment.status().to_string();
    const auto view = (*segment)->view();
    ASSERT_EQ(view.size(), 128u + 40);
    EXPECT_EQ(view.data(), static_cast<std::byte*>(image->find(rank == 0 ? "t0" : "t2")->data));
    EXPECT_EQ(view.data() + 128, static_cast<std::byte*>(image->find(rank == 0 ? "t1" : "t3")->data));
    EXPECT_EQ(leases->count(), 1u) << "a joiner's hold counts as a lease";
  }
  EXPECT_EQ(leases->count(), 0u);
}

TEST_F(ImageStoreTest, ASegmentHoldsItsImage) {
  auto image = make_image();
  store.serve(image);
  auto segment = store.hold(address(0));
  ASSERT_TRUE(segment);

  const std::weak_ptr<Image> watched = image;
  image.reset();
  EXPECT_FALSE(watched.expired());
  EXPECT_EQ((*segment)->view()[5], static_cast<std::byte>(15));

  *segment = nullptr;
  EXPECT_TRUE(watched.expired());
  EXPECT_EQ(room->images(), 0u);
}

TEST_F(ImageStoreTest, RefusesWhatItDoesNotServe) {
  EXPECT_EQ(store.hold(address(0)).status().code(), Code::kStale) << "nothing yet";
  const auto image = make_image();
  store.serve(image);

  auto other = address(0);
  ++other.version.number;
  EXPECT_EQ(store.hold(other).status().code(), Code::kStale);
  other = address(0);
  ++other.generation;
  EXPECT_EQ(store.hold(other).status().code(), Code::kNotFound);
  other = address(0);
  ++other.payload_bytes;
  EXPECT_EQ(store.hold(other).status().code(), Code::kNotFound);
  EXPECT_EQ(leases->count(), 0u);

  store.serve({});
  EXPECT_EQ(store.hold(address(0)).status().code(), Code::kStale);
}

TEST_F(ImageStoreTest, AShareThatLiesOtherwiseIsNotLent) {
  std::vector<std::byte> bytes(512);
  EXPECT_EQ(shares_within(manifest, plan, bytes).size(), 2u);

  plan::ImagePlan moved = plan;
  moved.whole[1].target += 64;
  ASSERT_EQ(shares_within(manifest, moved, bytes).size(), 1u);
  EXPECT_EQ(shares_within(manifest, moved, bytes)[0].object, "object-1");

  plan::ImagePlan sharded = plan;
  sharded.whole.pop_back();
  ASSERT_EQ(shares_within(manifest, sharded, bytes).size(), 1u);
  EXPECT_EQ(shares_within(manifest, sharded, bytes)[0].object, "object-0");

  EXPECT_EQ(shares_within(manifest, plan, std::span(bytes).first(300)).size(), 1u);
}

}  // namespace
}  // namespace weightcast::subscriber
