// Images in a device's memory: every way for bytes to come there, and every way for that to fail.
#include "subscriber/device_memory.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <random>
#include <thread>

#include "codec/digest.hpp"
#include "contract/memory_transport.hpp"
#include "subscriber/device_buffer.hpp"
#include "subscriber/image.hpp"
#include "support/fake_cuda.hpp"

namespace weightcast::subscriber {
namespace {

using driver::FakeCounts;
using driver::FakeCuda;

const Version kVersion{{1, 1}, 7};
constexpr std::uint64_t kSlot = 1 << 20;

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

class PlainDraft : public transport::Draft {
 public:
  PlainDraft(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::optional<std::uint64_t> written() noexcept override {
    const std::int64_t now = watermark;
    if (now < 0) return std::nullopt;
    return static_cast<std::uint64_t>(now);
  }
  std::span<const std::byte> registered_view() noexcept override { return bytes_; }
  std::atomic<std::int64_t> watermark{0};

 private:
  std::span<const std::byte> bytes_;
};

class DeviceMemoryTest : public ::testing::Test {
 protected:
  explicit DeviceMemoryTest(driver::FakeOptions options = {.piece_bytes = 32 << 10})
      : cuda(std::make_shared<FakeCuda>(std::move(options))) {
    auto opened = DeviceMemory::open(cuda, 0);
    EXPECT_TRUE(opened) << opened.status().to_string();
    memory = std::move(*opened);
    device_slot = static_cast<std::byte*>(*cuda->allocate(0, kSlot));
    registered = std::make_unique<Registered>(*cuda);
    add_share();
  }
  ~DeviceMemoryTest() override {
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
                     [&](std::span<std::byte> to) { std::copy(payload.begin(), payload.end(), to.begin()); }),
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
          ASSERT_EQ(std::memcmp(at + row * 501, payload.data() + entries[1].offset + row * 1000 + 499, 501), 0)
              << row;
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

constexpr Kind kKinds[] = {Kind::kRegistered, Kind::kDevice, Kind::kElsewhere};

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
      for (const std::uint64_t nth : {1, 2}) {
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
  for (const char* const call : {"device_count", "properties", "create_stream", "create_event", "make_digests"}) {
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

// ---- leases -------------------------------------------------------------------------------------

TEST_F(DeviceMemoryTest, ABufferIsNotWrittenToWhileWorkReadsIt) {
  plan({});
  const auto stream = *cuda->create_stream(0, false);
  const auto other = *cuda->create_stream(0, false);
  cuda->hold_stream(0, stream);
  bool has_read = false;
  cuda->enqueue(0, stream, [&] { has_read = true; });
  buffer->read_by(stream);
  buffer->read_by(other);
  bool give_up = false;
  EXPECT_EQ(buffer->wait_for_readers([&] { return std::exchange(give_up, true); }).code(),
            Code::kCancelled);
  EXPECT_FALSE(has_read);
  cuda->resume_stream(0, stream);
  EXPECT_TRUE(buffer->wait_for_readers({}));
  EXPECT_TRUE(has_read);
  EXPECT_EQ(cuda->calls("synchronize"), 0u);

  has_read = false;
  cuda->enqueue(0, stream, [&] { has_read = true; });
  buffer->read_by_any();
  EXPECT_TRUE(buffer->wait_for_readers({}));
  EXPECT_TRUE(has_read) << "of a lease that ended plainly";
  EXPECT_EQ(cuda->calls("synchronize"), 1u);

  has_read = false;
  cuda->enqueue(0, stream, [&] { has_read = true; });
  cuda->fail("record", Status(Code::kInternal, "injected"));
  buffer->read_by(stream);
  EXPECT_TRUE(buffer->wait_for_readers({}));
  EXPECT_TRUE(has_read) << "nobody knows what could not be recorded";
  cuda->destroy_stream(0, stream);
  cuda->destroy_stream(0, other);
}

TEST_F(DeviceMemoryTest, MoreStreamsThanItRemembersAreAllWaitedFor) {
  plan({});
  std::vector<driver::Stream> streams;
  std::size_t read = 0;
  for (std::size_t i = 0; i < DeviceBuffer::kStreams + 3; ++i) {
    streams.push_back(*cuda->create_stream(0, false));
    cuda->enqueue(0, streams.back(), [&] { ++read; });
    buffer->read_by(streams.back());
    buffer->read_by(streams.back());
  }
  EXPECT_TRUE(buffer->wait_for_readers({}));
  EXPECT_EQ(read, streams.size());
  for (const auto stream : streams) cuda->destroy_stream(0, stream);
}

TEST_F(DeviceMemoryTest, ARoomLendsABufferAgainOnceItsReadersAreOver) {
  auto room = std::make_shared<ImageRoom>("job-of-device-memory-test", memory);
  const auto stream = *cuda->create_stream(0, false);
  bool has_read = false;
  {
    auto first = room->buffer(1000);
    ASSERT_TRUE(first);
    cuda->enqueue(0, stream, [&] { has_read = true; });
    (*first)->read_by(stream);
  }
  EXPECT_FALSE(has_read) << "letting go waits for nothing";
  {
    auto again = room->buffer(1000);
    ASSERT_TRUE(again);
    EXPECT_TRUE(has_read);
    has_read = false;
    cuda->enqueue(0, stream, [&] { has_read = true; });
    (*again)->read_by(stream);
  }
  room.reset();
  EXPECT_TRUE(has_read) << "memory that is still read is not freed";
  cuda->destroy_stream(0, stream);
}

// ---- behind the writers -------------------------------------------------------------------------

class FollowTest : public DeviceMemoryTest {
 protected:
  FollowTest() { plan({}, 64 << 10); }
  Status follow(Duration patience = std::chrono::seconds(30)) {
    return memory->follow({image_plan, image(), drafts, there, patience},
                          [this] { return stop && stop(); });
  }
  std::uint64_t buckets_there() const {
    return static_cast<std::uint64_t>(std::count(there.begin(), there.end(), 1));
  }
  void write(std::uint64_t from, std::uint64_t to) {
    std::memcpy(registered->data() + from, payload.data() + from, to - from);
  }

  std::shared_ptr<PlainDraft> draft =
      std::make_shared<PlainDraft>(std::span<const std::byte>(registered->data(), payload.size()));
  std::vector<std::shared_ptr<transport::Draft>> drafts{draft};
  std::vector<char> there = std::vector<char>(64, 0);
  std::function<bool()> stop;
};

TEST_F(FollowTest, ReadsNothingBeforeItIsWritten) {
  there.assign(image_plan.buckets.size(), 0);
  std::memset(registered->data(), 0xee, payload.size());
  std::uint64_t mark = 0;
  std::uint64_t looks = 0;
  // The writer goes on a little each time that the reader looks for orders.
  stop = [&] {
    if (++looks % 3 == 0 && mark < payload.size()) {
      const std::uint64_t next = std::min<std::uint64_t>(mark + 50000, payload.size());
      write(mark, next);
      mark = next;
      draft->watermark = static_cast<std::int64_t>(mark);
    }
    return false;
  };
  ASSERT_TRUE(follow());
  EXPECT_EQ(buckets_there(), image_plan.buckets.size());
  EXPECT_EQ(cuda->pending(), 0u);
  expect_image({});
  // And what follows has nothing left to copy.
  const auto copied = cuda->calls("copy");
  EXPECT_TRUE(fetch(Kind::kRegistered, &there));
  EXPECT_EQ(cuda->calls("copy"), copied);
}

TEST_F(FollowTest, EndsWithTheGeneration) {
  there.assign(image_plan.buckets.size(), 0);
  write(0, payload.size());
  draft->watermark = 200000;
  stop = [&] {
    if (buckets_there() == 3) draft->watermark = -1;
    return false;
  };
  EXPECT_EQ(follow().code(), Code::kStale);
  EXPECT_EQ(cuda->pending(), 0u);
}

TEST_F(FollowTest, EndsForAnOrderAndForAWriterThatStopped) {
  there.assign(image_plan.buckets.size(), 0);
  write(0, payload.size());
  draft->watermark = 200000;
  stop = [&] { return buckets_there() == 2; };
  EXPECT_TRUE(follow());
  EXPECT_EQ(buckets_there(), 2u);
  stop = {};
  EXPECT_TRUE(follow(std::chrono::milliseconds(1)));
  EXPECT_EQ(buckets_there(), 3u);
  EXPECT_EQ(cuda->pending(), 0u);
  EXPECT_TRUE(fetch(Kind::kRegistered, &there)) << "copies what is left";
  expect_image({});
}

TEST_F(FollowTest, ErrorsOfTheDeviceLeaveNothingUnderWay) {
  write(0, payload.size());
  draft->watermark = static_cast<std::int64_t>(payload.size());
  for (const char* const call : {"copy", "record", "done"}) {
    there.assign(image_plan.buckets.size(), 0);
    cuda->fail(call, Status(Code::kInternal, "injected"), 2);
    EXPECT_EQ(follow().code(), Code::kInternal) << call;
    EXPECT_EQ(cuda->pending(), 0u);
  }
}

}  // namespace
}  // namespace weightcast::subscriber
