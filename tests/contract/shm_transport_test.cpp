// The shm transport under the contract of all transports, and what is its own.
#include "transport/shm/shm_transport.hpp"

#include <sys/mount.h>

#include <filesystem>

#include "contract/transport_contract.hpp"
#include "contract/transport_endurance.hpp"
#include "contract/transport_strips.hpp"
#include "staging/object_name.hpp"
#include "support/child_process.hpp"
#include "support/small_shm.hpp"
#include "transport/shm/slot_store.hpp"

namespace weightcast::transport {
namespace {

class ShmHarness {
 public:
  static constexpr bool kAsksAPeer = false;
  ShmHarness() { begin(); }
  ~ShmHarness() {
    slab_.reset();
    staging::sweep(job_);
    EXPECT_TRUE(test::shm_objects("." + job_ + ".").empty()) << "left behind in /dev/shm";
  }

  Transport& transport() { return transport_; }

  std::optional<SegmentAddress> publish(std::uint32_t slot, std::uint64_t number,
                                        std::uint64_t bytes) {
    if (!slab_->try_lock(slot)) return std::nullopt;
    const Version version{kRun, number};
    const auto generation = slab_->begin_write(slot);
    test::fill_pattern(slab_->payload(slot).first(bytes), number);
    slab_->seal(slot, version, bytes);
    slab_->unlock(slot);
    return SegmentAddress{slab_->object_name(slot), version, generation, bytes};
  }

  bool can_overwrite(std::uint32_t slot) {
    const bool can = slab_->try_lock(slot);
    if (can) slab_->unlock(slot);
    return can;
  }

  void restart() {
    slab_.reset();
    begin();
  }

 private:
  static constexpr Run kRun{1700000000000000, 3};

  void begin() {
    auto slab =
        staging::Slab::create({{job_, "policy", kRun, 0, ++incarnation_}, kSlots, kSlotBytes});
    ASSERT_TRUE(slab.is_ok()) << slab.status().to_string();
    slab_ = std::move(*slab);
  }

  const std::string job_ = test::unique_job();
  std::uint64_t incarnation_ = 0;
  std::unique_ptr<staging::Slab> slab_;
  ShmTransport transport_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Shm, TransportContract, ShmHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Shm, TransportEndurance, ShmHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(Shm, TransportStrips, ShmHarness);

class ShmTransportTest : public test::ShmTest {
 protected:
  SegmentAddress address(const staging::Slab& slab, std::uint64_t number,
                         std::uint64_t generation) const {
    return {slab.object_name(0), version(number), generation, 4096};
  }
};

TEST_F(ShmTransportTest, NamesThatAreNoSlotsAreRefused) {
  auto lane = ShmTransport().open_lane({});
  ASSERT_TRUE(lane.is_ok());

  for (const std::string name :
       {"", "/etc/passwd", "../../etc/passwd", "weightcast.0.j.p.1-1.r0.1.anchor"}) {
    const auto segment = (*lane)->acquire({name, version(1), 1, 4096});
    ASSERT_FALSE(segment.is_ok());
    EXPECT_EQ(segment.status().code(), Code::kInvalid) << name;
  }
}

TEST_F(ShmTransportTest, ALaneThatOnlyShowsStartsNoThread) {
  const auto threads = [] {
    const std::filesystem::directory_iterator all("/proc/self/task");
    return std::distance(begin(all), end(all));
  };
  const auto slab = make_slab(4096);
  const auto generation = publish(*slab, 0, 1, 4096);
  const auto before = threads();
  auto lane = ShmTransport().open_lane({2, 4});
  ASSERT_TRUE(lane.is_ok());

  const auto segment = (*lane)->acquire(address(*slab, 1, generation));
  ASSERT_TRUE(segment.is_ok());
  EXPECT_EQ((*segment)->view().size(), 4096U);
  EXPECT_EQ(threads(), before);
  std::vector<std::byte> space(1);
  ASSERT_TRUE((*lane)->submit(*segment, {1, 0, space, {}}).is_ok());
  EXPECT_EQ(threads(), before + 2);
  take(**lane, 1);
}

TEST_F(ShmTransportTest, ASlabMadeAnewUnderTheSameNameIsFound) {
  auto lane = ShmTransport().open_lane({});
  ASSERT_TRUE(lane.is_ok());
  for (std::uint64_t number = 1; number <= 3; ++number) {
    const auto slab = make_slab(4096 * number);
    const auto generation = publish(*slab, 0, number, 4096);
    const auto segment = (*lane)->acquire(address(*slab, number, generation));
    ASSERT_TRUE(segment.is_ok()) << segment.status().to_string();
    EXPECT_EQ(test::first_difference((*segment)->view(), number), 4096U);
  }
}

TEST_F(ShmTransportTest, AKilledSourcesVersionStaysWholeWhileItIsHeld) {
  test::ChildProcess source([&](const test::Talk& talk) {
    const auto slab = make_slab(4096);
    publish(*slab, 0, 1, 4096);
    talk.say(slab->object_name(0));
    talk.hear();
    return 0;
  });
  auto lane = ShmTransport().open_lane({});
  ASSERT_TRUE(lane.is_ok());
  auto segment = (*lane)->acquire({source.hear(), version(1), 1, 4096});
  ASSERT_TRUE(segment.is_ok()) << segment.status().to_string();
  source.kill();

  EXPECT_EQ(staging::sweep(job).held, 1U);
  EXPECT_EQ(test::first_difference((*segment)->view(), 1), 4096U);
  segment = Status(Code::kCancelled, "let go");
  staging::sweep(job);
  EXPECT_TRUE(objects().empty());
}

TEST_F(ShmTransportTest, AStoreHoldsSlotsByNameUnderTheReadersLock) {
  const auto slab = make_slab(4096);
  const auto generation = publish(*slab, 0, 1, 4096);
  SlotStore store(staging::owner_prefix(owner()) + ".");

  auto held = store.hold(address(*slab, 1, generation));
  ASSERT_TRUE(held.is_ok()) << held.status().to_string();
  auto again = store.hold(address(*slab, 1, generation));
  ASSERT_TRUE(again.is_ok());
  EXPECT_EQ(test::first_difference((*held)->view(), 1), 4096U);
  EXPECT_EQ(publish(*slab, 0, 2, 4096), 0U);
  held = Status(Code::kCancelled, "let go");
  EXPECT_EQ(publish(*slab, 0, 2, 4096), 0U) << "the second one holds it still";
  again = Status(Code::kCancelled, "let go");

  EXPECT_EQ(publish(*slab, 0, 2, 4096), generation + 1);
  EXPECT_EQ(store.hold(address(*slab, 1, generation)).status().code(), Code::kStale);
  EXPECT_TRUE(store.hold(address(*slab, 2, generation + 1)).is_ok());
}

TEST_F(ShmTransportTest, AStoreGivesOutNothingElse) {
  const auto slab = make_slab(4096);
  const auto generation = publish(*slab, 0, 1, 4096);
  SlotStore store(staging::owner_prefix(owner(2)) + ".");

  SegmentAddress other = address(*slab, 1, generation);
  EXPECT_EQ(store.hold(other).status().code(), Code::kNotFound) << "another incarnation's";
  for (const std::string name : {"", "/etc/passwd", "../x"}) {
    other.object = name;
    EXPECT_EQ(store.hold(other).status().code(), Code::kNotFound) << name;
  }
  other.object = staging::owner_prefix(owner(2)) + ".s0";
  EXPECT_EQ(store.hold(other).status().code(), Code::kNotFound) << "there is none";
}

TEST_F(ShmTransportTest, WithoutAWritableSharedMemoryItIsNotViable) {
  test::ChildProcess child([](const test::Talk& talk) {
    if (const auto why = test::enter_small_shm("size=1m", MS_RDONLY); !why.empty()) {
      talk.say("not permitted: " + why);
      return 2;
    }
    const Status status = ShmTransport().viable();
    talk.say(status.code() == Code::kDenied ? "fine" : status.to_string());
    return 0;
  });
  const std::string said = child.hear();
  const int code = child.wait();
  if (code == 2) GTEST_SKIP() << said;
  EXPECT_EQ(said, "fine");
}

}  // namespace
}  // namespace weightcast::transport
