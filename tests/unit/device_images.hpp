// A share on the host, in a device's memory and elsewhere, and an image of it on a device.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "codec/digest.hpp"
#include "contract/memory_transport.hpp"
#include "subscriber/device_memory.hpp"
#include "support/fake_cuda.hpp"

namespace weightcast::subscriber {

using driver::FakeCounts;
using driver::FakeCuda;

inline const Version kVersion{{1, 1}, 7};
inline constexpr std::uint64_t kSlot = 1 << 20;

enum class Kind { kRegistered, kDevice, kElsewhere };

/// Host pages, registered for the device.
class Registered {
 public:
  explicit Registered(FakeCuda& cuda)
      : cuda_(cuda),
        data_(static_cast<std::byte*>(::mmap(nullptr, kSlot, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    EXPECT_TRUE(cuda_.register_host(data_, kSlot));
  }
  ~Registered() {
    cuda_.unregister_host(data_, kSlot);
    ::munmap(data_, kSlot);
  }
  std::byte* data() { return data_; }

 private:
  FakeCuda& cuda_;
  std::byte* data_;
};

class PlainSegment : public transport::Segment {
 public:
  PlainSegment(Kind kind, std::span<std::byte> bytes) : kind_(kind), bytes_(bytes) {}
  std::span<std::byte> view() noexcept override {
    return kind_ == Kind::kDevice ? std::span<std::byte>() : bytes_;
  }
  std::span<const std::byte> registered_view() noexcept override {
    return kind_ == Kind::kRegistered ? bytes_ : std::span<std::byte>();
  }
  std::span<const std::byte> device_view() noexcept override {
    return kind_ == Kind::kDevice ? bytes_ : std::span<std::byte>();
  }

 private:
  Kind kind_;
  std::span<std::byte> bytes_;
};

class DeviceImageTest : public ::testing::Test {
 protected:
  explicit DeviceImageTest(driver::FakeOptions options = {.piece_bytes = 32 << 10})
      : cuda(std::make_shared<FakeCuda>(std::move(options))) {
    auto opened = DeviceMemory::open(cuda, 0);
    EXPECT_TRUE(opened) << opened.status().to_string();
    memory = std::move(*opened);
    device_slot = static_cast<std::byte*>(*cuda->allocate(0, kSlot));
    registered = std::make_unique<Registered>(*cuda);
    add_share();
  }
  ~DeviceImageTest() override {
    buffer.reset();
    lane.reset();
    memory.reset();
    registered.reset();
    cuda->free(0, device_slot);
    EXPECT_EQ(cuda->held(), FakeCounts{});
    EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
  }

  /// A share of two whole tensors and one of whose rows an engine may want the right half.
  void add_share() {
    std::mt19937 random(5);
    payload.resize(700000);
    for (auto& byte : payload) byte = static_cast<std::byte>(random());
    plan::Share share;
    share.object = "object";
    share.generation = 3;
    std::uint64_t offset = 0;
    for (const auto& [name, shape] :
         std::vector<std::pair<std::string, std::vector<std::int64_t>>>{
             {"a", {100003}}, {"wide", {300, 1000}}, {"b", {200001}}}) {
      plan::ShareEntry entry;
      entry.info = {name, {}, DType::kU8, shape, false};
      entry.offset = offset;
      entry.digest = codec::digest(payload.data() + offset, entry.info.bytes(), 0);
      offset = (offset + entry.info.bytes() + 63) / 64 * 64;
      share.payload_bytes = entry.offset + entry.info.bytes();
      share.entries.push_back(std::move(entry));
    }
    manifest.shares.push_back(std::move(share));
  }
  static Layout layout() {
    return {{"b", {200001}, {{"b"}}},
            {"half", {300, 501}, {{"wide", {0, 499}, {300, 501}}}},
            {"a", {100003}, {{"a"}}}};
  }

  void plan(const Layout& layout, std::uint64_t bucket_bytes = 64 << 10) {
    auto planned = plan::plan_image(manifest, layout, bucket_bytes);
    ASSERT_TRUE(planned) << planned.status().to_string();
    image_plan = std::move(*planned);
    if (buffer) return;
    auto allocated = memory->allocate(kSlot);
    ASSERT_TRUE(allocated);
    buffer = std::move(*allocated);
  }
  std::span<std::byte> image() { return buffer->bytes().first(image_plan.image_bytes); }

  Result<OpenShare> open_share(Kind kind) {
    OpenShare share;
    if (kind == Kind::kElsewhere) {
      const transport::SegmentAddress address{
          "object", kVersion,
          board->put("object", kVersion, payload.size(),
                     [&](std::span<std::byte> to) {
                       std::copy(payload.begin(), payload.end(), to.begin());
                     }),
          payload.size()};
      if (!lane) lane = std::make_unique<transport::MemoryLane>(board, transport::LaneOptions{});
      auto segment = lane->acquire(address);
      if (!segment) return segment.status();
      share.segment = *segment;
      share.lane = lane.get();
      return share;
    }
    std::byte* const at = kind == Kind::kDevice ? device_slot : registered->data();
    std::memcpy(at, payload.data(), payload.size());
    share.segment = std::make_shared<PlainSegment>(kind, std::span(at, payload.size()));
    return share;
  }

  Status fetch(Kind kind, const std::vector<char>* there = nullptr) {
    std::vector<OpenShare> shares;
    auto share = open_share(kind);
    if (!share) return share.status();
    shares.push_back(std::move(*share));
    Fetch what{kVersion, manifest, image_plan, image(), shares, placed, there};
    return memory->fetch(what, 4, [this] { return cancel.load(); });
  }

  /// Whether the image has the tensors' bytes.
  void expect_image(const Layout& wanted) {
    const auto& entries = manifest.shares[0].entries;
    for (const plan::ImageTensor& tensor : image_plan.tensors) {
      const std::byte* const at = image().data() + tensor.offset;
      if (tensor.info.name == "half") {
        for (std::size_t row = 0; row < 300; ++row) {
          const std::byte* const source = payload.data() + entries[1].offset + row * 1000 + 499;
          ASSERT_EQ(std::memcmp(at + row * 501, source, 501), 0) << row;
        }
        continue;
      }
      const auto entry = std::find_if(entries.begin(), entries.end(), [&](const auto& one) {
        return one.info.name == tensor.info.name;
      });
      ASSERT_NE(entry, entries.end());
      EXPECT_EQ(std::memcmp(at, payload.data() + entry->offset, entry->info.bytes()), 0)
          << tensor.info.name << (wanted.empty() ? "" : " by the layout");
    }
  }

  std::shared_ptr<FakeCuda> cuda;
  std::shared_ptr<DeviceMemory> memory;
  std::shared_ptr<transport::MemoryBoard> board = std::make_shared<transport::MemoryBoard>();
  std::unique_ptr<transport::MemoryLane> lane;
  std::byte* device_slot = nullptr;
  std::unique_ptr<Registered> registered;
  std::vector<std::byte> payload;
  plan::Manifest manifest;
  plan::ImagePlan image_plan;
  std::unique_ptr<ImageBuffer> buffer;
  std::atomic<std::uint64_t> placed{0};
  std::atomic<bool> cancel{false};
};

inline constexpr Kind kKinds[] = {Kind::kRegistered, Kind::kDevice, Kind::kElsewhere};

}  // namespace weightcast::subscriber
