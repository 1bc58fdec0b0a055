#include "subscriber/in_place.hpp"

#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "base/failpoint.hpp"
#include "subscriber/host_memory.hpp"

namespace weightcast::subscriber {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kBytes = 3 * 1024 * 1024 + 17;

/// Serves and withdraws as a subscriber does, and notes it.
class FakeHost : public StagerHost {
 public:
  void happened(StageEvent) override {}
  void serve(std::shared_ptr<Image> image) override { resume(std::move(image)); }
  void pause(std::string) override {
    const std::lock_guard lock(mutex);
    ++pauses;
    paused = true;
    changed.notify_all();
  }
  void resume(std::shared_ptr<Image> image) override {
    const std::lock_guard lock(mutex);
    paused = false;
    if (image) current = std::move(image);
    changed.notify_all();
  }
  std::shared_ptr<Image> withdraw(std::string) override {
    const std::lock_guard lock(mutex);
    paused = false;
    return std::exchange(current, nullptr);
  }
  bool wait_until(const std::function<bool()>& done) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, 30s, done);
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::shared_ptr<Image> current;
  bool paused = false;
  int pauses = 0;
};

class NotingApplier : public Applier {
 public:
  Status begin(const Version&, const std::vector<TensorInfo>&) override {
    note('b');
    return Status::ok();
  }
  Status place(const std::shared_ptr<PolicyImage>& image) override {
    note('p');
    if (failures > 0) {
      --failures;
      return Status(Code::kExhausted, "no memory for a replica");
    }
    kept = image;
    return Status::ok();
  }
  void commit(const Version&) noexcept override { note('c'); }
  void rollback(const Version&) noexcept override {
    note('r');
    kept.reset();
  }
  void suspend(const Version&) noexcept override {
    note('s');
    kept.reset();
  }

  /// A letter for each call so far.
  std::string calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  int failures = 0;
  std::shared_ptr<PolicyImage> kept;

 private:
  void note(char call) {
    const std::lock_guard lock(mutex_);
    calls_ += call;
  }
  mutable std::mutex mutex_;
  std::string calls_;
};

class InPlaceTest : public ::testing::Test {
 protected:
  InPlaceTest() {
    in_place.emplace(
        InPlace::Options{50ms, 2, 20ms}, applier, room, leases, host,
        [this](Incoming& incoming, std::span<std::byte> bytes) {
          std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(incoming.version.number));
          return fetched;
        },
        [this](std::uint64_t op) { return cancelled_op.load() >= op; });
  }

  Incoming incoming(std::uint64_t number, Activation activation = Activation::kStaged) {
    Incoming made;
    made.op = number;
    made.version = {{1, 1}, number};
    made.activation = activation;
    made.plan.tensors.push_back({{"t", {}, DType::kU8, {static_cast<std::int64_t>(kBytes)}, false}, 0});
    made.plan.image_bytes = kBytes;
    if (activation == Activation::kStaged) {
      made.staged = *room->buffer(kBytes);
      const auto bytes = made.staged->bytes().first(kBytes);
      std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(number));
    }
    return made;
  }
  /// Takes it in and serves it.
  Status take_in(Incoming what) {
    auto image = in_place->take_in(what);
    if (!image) return image.status();
    applier->commit((*image)->version());
    host.serve(std::move(*image));
    return Status::ok();
  }
  static const void* address_of(const PolicyImage& image) { return image.tensors()[0].data; }
  static bool all_are(const PolicyImage& image, std::uint64_t number) {
    const auto* bytes = static_cast<const std::byte*>(image.tensors()[0].data);
    return std::all_of(bytes, bytes + kBytes,
                       [&](std::byte byte) { return byte == static_cast<std::byte>(number); });
  }

  std::shared_ptr<ImageRoom> room = std::make_shared<ImageRoom>("job-of-in-place-test");
  std::shared_ptr<LeaseBook> leases = std::make_shared<LeaseBook>(room);
  std::shared_ptr<NotingApplier> applier = std::make_shared<NotingApplier>();
  FakeHost host;
  Status fetched;
  std::atomic<std::uint64_t> cancelled_op{0};
  std::optional<InPlace> in_place;
};

TEST_F(InPlaceTest, EveryVersionLiesWhereTheFirstDid) {
  for (const Activation activation : {Activation::kStaged, Activation::kSerial}) {
    ASSERT_TRUE(take_in(incoming(1, activation)));
    const void* const address = address_of(*host.current);
    for (std::uint64_t number = 2; number <= 5; ++number) {
      ASSERT_TRUE(take_in(incoming(number, activation)));
      EXPECT_EQ(address_of(*host.current), address);
      EXPECT_TRUE(all_are(*host.current, number));
    }
    host.withdraw("");
    applier->kept.reset();
    EXPECT_EQ(room->images(), 0u);
  }
}

TEST_F(InPlaceTest, TheApplierLetsGoBeforeAndPlacesAfter) {
  ASSERT_TRUE(take_in(incoming(1)));
  ASSERT_TRUE(take_in(incoming(2)));
  EXPECT_EQ(applier->calls(), "pcspc");
}

TEST_F(InPlaceTest, WaitsForLeasesAndLetsOthersGoOnMeanwhile) {
  ASSERT_TRUE(take_in(incoming(1)));
  host.pauses = 0;
  auto ticket = leases->open({{1, 1}, 1}, Clock::now());
  auto lease = host.current;

  auto done = std::async(std::launch::async, [&] { return take_in(incoming(2)); });
  ASSERT_TRUE(host.wait_until([&] { return host.pauses == 1 && !host.paused; }))
      << "past lease_deadline leases go on";
  EXPECT_TRUE(all_are(*lease, 1));
  auto later = leases->open({{1, 1}, 1}, Clock::now() + 1h);
  lease.reset();
  ticket.reset();
  ASSERT_TRUE(host.wait_until([&] { return host.pauses >= 2; })) << "it is tried again";
  EXPECT_TRUE(in_place->overdue());
  later.reset();

  const Status status = done.get();
  EXPECT_TRUE(status) << status.to_string();
  EXPECT_TRUE(all_are(*host.current, 2));
  EXPECT_FALSE(in_place->overdue());
}

TEST_F(InPlaceTest, ATensorThatOutlivesItsLeaseKeepsItsBytesAndTheFormerVersionServed) {
  ASSERT_TRUE(take_in(incoming(1)));
  host.pauses = 0;
  std::shared_ptr<Image> kept = host.current;

  auto done = std::async(std::launch::async, [&] { return take_in(incoming(2)); });
  ASSERT_TRUE(host.wait_until([&] { return host.pauses == 2 && host.current == kept; }));
  EXPECT_TRUE(all_are(*kept, 1));
  EXPECT_EQ(applier->calls().substr(0, 7), "pcsrbpc") << "the former version was put back";
  kept.reset();

  const Status status = done.get();
  EXPECT_TRUE(status) << status.to_string();
  EXPECT_TRUE(all_are(*host.current, 2));
}

TEST_F(InPlaceTest, CancellingEndsADrainAndLeavesWhatIsServed) {
  ASSERT_TRUE(take_in(incoming(1)));
  host.pauses = 0;
  auto ticket = leases->open({{1, 1}, 1}, Clock::now());
  auto done = std::async(std::launch::async, [&] { return take_in(incoming(2)); });
  ASSERT_TRUE(host.wait_until([&] { return host.pauses == 1; }));

  cancelled_op = 2;
  room->notify();

  EXPECT_EQ(done.get().code(), Code::kCancelled);
  EXPECT_TRUE(in_place->left_alone());
  EXPECT_FALSE(host.paused);
  EXPECT_TRUE(all_are(*host.current, 1));
  ticket.reset();
  ASSERT_TRUE(take_in(incoming(3)));
  EXPECT_FALSE(in_place->left_alone());
  EXPECT_TRUE(all_are(*host.current, 3));
}

TEST_F(InPlaceTest, APlaceThatFailsIsTriedAgainAndThenGivenUp) {
  ASSERT_TRUE(take_in(incoming(1)));
  const std::size_t before = applier->calls().size();
  applier->failures = 2;
  ASSERT_TRUE(take_in(incoming(2)));
  EXPECT_EQ(applier->calls().substr(before), "sprbprbpc");
  EXPECT_TRUE(all_are(*host.current, 2));

  applier->failures = 100;
  const Status status = take_in(incoming(3));
  EXPECT_EQ(status.code(), Code::kExhausted);
  EXPECT_EQ(host.current, nullptr) << "what lies there is not what was served";
  EXPECT_EQ(room->images(), 0u);

  applier->failures = 0;
  ASSERT_TRUE(take_in(incoming(4)));
  EXPECT_TRUE(all_are(*host.current, 4));
}

TEST_F(InPlaceTest, AFetchThatFailsLeavesNothingServed) {
  ASSERT_TRUE(take_in(incoming(1, Activation::kSerial)));
  fetched = Status(Code::kMismatch, "spoiled");
  EXPECT_EQ(take_in(incoming(2, Activation::kSerial)).code(), Code::kMismatch);
  EXPECT_EQ(host.current, nullptr);

  fetched = Status::ok();
  ASSERT_TRUE(take_in(incoming(2, Activation::kSerial)));
  EXPECT_TRUE(all_are(*host.current, 2));
}

TEST_F(InPlaceTest, OtherTensorsMoveAndNoMemoryIsKeptForThose) {
  ASSERT_TRUE(take_in(incoming(1)));
  Incoming more = incoming(2);
  more.plan.tensors[0].info.name = "renamed";
  ASSERT_TRUE(take_in(std::move(more)));
  EXPECT_EQ(host.current->tensors()[0].info.name, "renamed");
  EXPECT_TRUE(all_are(*host.current, 2));
  EXPECT_EQ(room->taken(), 2 * kBytes);
}

// ---- the copy -------------------------------------------------------------------------------

std::byte* spoiled = nullptr;  ///< flipped where the failpoint is passed, while it is not null
int spoilings = 0;

void spoil(const char* name, unsigned long long) {
  if (std::string(name) != "engine.copying" || spoiled == nullptr || spoilings == 0) return;
  --spoilings;
  *spoiled ^= std::byte{1};
}

class CopyInPlace : public InPlaceTest {
 protected:
  CopyInPlace() { base::failpoint_handler() = spoil; }
  ~CopyInPlace() override {
    base::failpoint_handler() = nullptr;
    spoiled = nullptr;
  }
};

TEST_F(CopyInPlace, IsSeenWhereItWentWrong) {
  std::vector<std::byte> from(1000, std::byte{7}), to(1000);
  EXPECT_TRUE(copy_and_compare(to, from, 1, 1));
  EXPECT_EQ(from, to);
  spoiled = &to[500];
  spoilings = 1;
  EXPECT_EQ(copy_and_compare(to, from, 1, 1).code(), Code::kMismatch);
}

TEST_F(CopyInPlace, RollsForwardFromTheStagedCopy) {
  ASSERT_TRUE(take_in(incoming(1)));
  spoiled = static_cast<std::byte*>(host.current->tensors()[0].data);
  spoilings = 1;
  ASSERT_TRUE(take_in(incoming(2)));
  EXPECT_TRUE(all_are(*host.current, 2));
  EXPECT_EQ(spoilings, 0);
}

TEST_F(CopyInPlace, IsGivenUpWhereItGoesWrongEachTime) {
  ASSERT_TRUE(take_in(incoming(1)));
  spoiled = static_cast<std::byte*>(host.current->tensors()[0].data);
  spoilings = 1000;
  EXPECT_EQ(take_in(incoming(2)).code(), Code::kMismatch);
  EXPECT_EQ(host.current, nullptr);
  spoilings = 0;
  ASSERT_TRUE(take_in(incoming(3)));
  EXPECT_TRUE(all_are(*host.current, 3));
}

}  // namespace
}  // namespace weightcast::subscriber
