// Images in a device's memory: every way for bytes to come there, and every way for that to fail.
#include <algorithm>

#include "unit/device_images.hpp"

namespace weightcast::subscriber {
namespace {

using DeviceMemoryTest = DeviceImageTest;

TEST_F(DeviceMemoryTest, BringsWholeSharesAndLayoutsFromEverywhere) {
  for (const Layout& wanted : {Layout{}, layout()}) {
    plan(wanted);
    for (const Kind kind : kKinds) {
      std::memset(image().data(), 0, image().size());
      placed = 0;
      const Status status = fetch(kind);
      ASSERT_TRUE(status) << static_cast<int>(kind) << ": " << status.to_string();
      std::uint64_t bytes = 0;
      for (const auto& bucket : image_plan.buckets) bytes += bucket.bytes;
      EXPECT_EQ(placed, bytes) << static_cast<int>(kind);
      expect_image(wanted);
    }
  }
  EXPECT_EQ(cuda->pageable_copies(), 0u);
}

TEST_F(DeviceMemoryTest, TakesNothingFromTheSecondVersionOn) {
  plan(layout());
  for (const Kind kind : kKinds) ASSERT_TRUE(fetch(kind));
  const FakeCounts before = cuda->held();
  const auto allocated = cuda->calls("allocate") + cuda->calls("allocate_host") +
                         cuda->calls("create_event") + cuda->calls("create_stream") +
                         cuda->calls("make_digests");
  for (int i = 0; i < 20; ++i) {
    for (const Kind kind : kKinds) ASSERT_TRUE(fetch(kind));
  }
  EXPECT_EQ(cuda->held(), before);
  EXPECT_EQ(allocated, cuda->calls("allocate") + cuda->calls("allocate_host") +
                           cuda->calls("create_event") + cuda->calls("create_stream") +
                           cuda->calls("make_digests"));
}

TEST_F(DeviceMemoryTest, AWrongByteOfAWholeTensorIsFoundAndNamed) {
  plan({});
  for (const Kind kind : kKinds) {
    const auto at = manifest.shares[0].entries[2].offset + 200000;
    payload[at] ^= std::byte{1};
    const Status status = fetch(kind);
    payload[at] ^= std::byte{1};
    EXPECT_EQ(status.code(), Code::kMismatch) << static_cast<int>(kind);
    EXPECT_NE(status.message().find("'b'"), std::string::npos) << status.to_string();
    EXPECT_TRUE(fetch(kind));
  }
}

TEST_F(DeviceMemoryTest, AWrongByteOfASliceIsFoundAndNamed) {
  plan(layout());
  const auto half = std::find_if(image_plan.tensors.begin(), image_plan.tensors.end(),
                                 [](const auto& tensor) { return tensor.info.name == "half"; });
  for (const Kind kind : kKinds) {
    // Read ahead, it is said to be, but it is not.
    std::vector<char> there(image_plan.buckets.size(), 0);
    ASSERT_TRUE(fetch(kind));
    image()[half->offset + 777] ^= std::byte{4};
    for (std::size_t i = 0; i < there.size(); ++i) {
      for (const auto& strip : image_plan.buckets[i].strips) {
        const auto end = strip.target + (strip.count - 1) * strip.target_stride + strip.bytes;
        if (strip.target <= half->offset + 777 && half->offset + 777 < end) there[i] = 1;
      }
    }
    const Status status = fetch(kind, &there);
    if (kind == Kind::kElsewhere) {
      EXPECT_TRUE(status) << "what comes over a lane is brought in any case";
      continue;
    }
    EXPECT_EQ(status.code(), Code::kMismatch) << static_cast<int>(kind);
    EXPECT_NE(status.message().find("'half'"), std::string::npos) << status.to_string();
  }
}

TEST_F(DeviceMemoryTest, CancellingLeavesNothingUnderWay) {
  plan({}, 4096);
  for (const Kind kind : kKinds) {
    cancel = true;
    EXPECT_EQ(fetch(kind).code(), Code::kCancelled) << static_cast<int>(kind);
    EXPECT_EQ(cuda->pending(), 0u);
    cancel = false;
    lane.reset();
    EXPECT_TRUE(fetch(kind)) << static_cast<int>(kind);
  }
}

TEST_F(DeviceMemoryTest, EveryErrorOfTheDeviceEndsTheFetchAndTheNextOneWorks) {
  plan(layout());
  for (const Kind kind : kKinds) {
    ASSERT_TRUE(fetch(kind));
    for (const char* const call : {"copy", "record", "done", "digest"}) {
      const auto before = cuda->calls(call);
      ASSERT_TRUE(fetch(kind));
      const auto calls = cuda->calls(call) - before;
      ASSERT_GE(calls, 1u) << call;
      for (std::uint64_t nth = 1; nth <= std::min<std::uint64_t>(calls, 2); ++nth) {
        cuda->fail(call, Status(Code::kInternal, "injected"), nth);
        const Status status = fetch(kind);
        EXPECT_EQ(status.code(), Code::kInternal)
            << static_cast<int>(kind) << " " << call << " " << nth << ": " << status.to_string();
        EXPECT_EQ(cuda->pending(), 0u) << call;
        ASSERT_TRUE(fetch(kind)) << call;
      }
    }
  }
  expect_image(layout());
}

TEST_F(DeviceMemoryTest, AFailedOpenLeavesNothing) {
  const FakeCounts before = cuda->held();
  for (const char* const call : {"device_count", "properties", "create_stream", "create_event",
                                 "make_digests"}) {
    for (const std::uint64_t nth : {1, 2, 8}) {
      const auto calls = cuda->calls(call);
      cuda->fail(call, Status(Code::kExhausted, "injected"), nth);
      auto opened = DeviceMemory::open(cuda, 0);
      if (cuda->calls(call) - calls >= nth) {
        EXPECT_EQ(opened.status().code(), Code::kExhausted) << call << " " << nth;
      }
      opened = Status(Code::kCancelled, "let go");
      EXPECT_EQ(cuda->held(), before) << call << " " << nth;
      while (cuda->calls(call) - calls < nth) (void)DeviceMemory::open(cuda, 0);  // uses it up
    }
  }
  EXPECT_EQ(DeviceMemory::open(cuda, 1).status().code(), Code::kInvalid);
  EXPECT_EQ(DeviceMemory::open(cuda, -1).status().code(), Code::kInvalid);
}

TEST_F(DeviceMemoryTest, AFailedBufferLeavesNothing) {
  const FakeCounts before = cuda->held();
  cuda->fail("create_event", Status(Code::kExhausted, "injected"), 5);
  EXPECT_EQ(memory->allocate(4096).status().code(), Code::kExhausted);
  cuda->set_device_bytes(0, kSlot + 100);
  const auto refused = memory->allocate(4096);
  EXPECT_EQ(refused.status().code(), Code::kExhausted);
  EXPECT_NE(refused.status().message().find("4096"), std::string::npos);
  EXPECT_EQ(cuda->held(), before);
}

TEST_F(DeviceMemoryTest, TheBudgetIsTheDevices) {
  cuda->set_device_bytes(0, kSlot + 1600);
  EXPECT_EQ(memory->budget(0, 0)->bytes, 1500u);
  EXPECT_EQ(memory->budget(0, 100)->bytes, 1600u) << "what it has itself counts";
  EXPECT_EQ(memory->budget(1000, 0)->bytes, 1000u);
  EXPECT_EQ(memory->budget(1000, 0)->source, "memory_budget");
  EXPECT_EQ(memory->budget(5000, 0)->bytes, 1500u);
  EXPECT_NE(memory->budget(5000, 0)->source.find("device 0"), std::string::npos);
}

// ---- in place -----------------------------------------------------------------------------------

TEST_F(DeviceMemoryTest, CopiesInPlaceAndLooksAtWhatLiesThere) {
  for (const Layout& wanted : {Layout{}, layout()}) {
    plan(wanted);
    ASSERT_TRUE(fetch(Kind::kRegistered));
    auto other = memory->allocate(image_plan.image_bytes);
    ASSERT_TRUE(other);
    const auto copy = [&] {
      return memory->copy({kVersion, manifest, image_plan, image(), (*other)->bytes()});
    };
    std::memcpy((*other)->bytes().data(), image().data(), image().size());
    std::memset(image().data(), 0, image().size());
    ASSERT_TRUE(copy());
    expect_image(wanted);
    for (const char* const call : {"copy", "record", "done", "digest"}) {
      cuda->fail(call, Status(Code::kInternal, "injected"));
      EXPECT_EQ(copy().code(), Code::kInternal) << call;
      EXPECT_EQ(cuda->pending(), 0u);
    }
    (*other)->bytes()[100] ^= std::byte{1};  // spoiled where it waited
    EXPECT_EQ(copy().code(), Code::kMismatch);
  }
}

}  // namespace
}  // namespace weightcast::subscriber
