// Memory of a device that leases' work still reads, and reading behind a version's writer.
#include "subscriber/device_buffer.hpp"

#include "subscriber/image.hpp"
#include "unit/device_images.hpp"

namespace weightcast::subscriber {
namespace {

using DeviceBufferTest = DeviceImageTest;

TEST_F(DeviceBufferTest, ABufferIsNotWrittenToWhileWorkReadsIt) {
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

TEST_F(DeviceBufferTest, MoreStreamsThanItRemembersAreAllWaitedFor) {
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

TEST_F(DeviceBufferTest, ARoomLendsABufferAgainOnceItsReadersAreOver) {
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

class FollowTest : public DeviceImageTest {
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
