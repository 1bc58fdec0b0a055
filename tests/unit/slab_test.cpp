#include "staging/slab.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "staging/memory_room.hpp"
#include "staging/slot_reader.hpp"
#include "support/child_process.hpp"
#include "support/shm_fixture.hpp"
#include "support/small_shm.hpp"

namespace weightcast::staging {
namespace {

using test::ChildProcess;
using test::Talk;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

class SlabTest : public test::ShmTest {
 protected:
  /// Runs `body` where /dev/shm is a small one of its own, and fails with what it returns; skips
  /// where that is not permitted.
  template <class Body>
  void in_small_shm(const std::string& options, unsigned long flags, Body body) {
    ChildProcess child([&](const Talk& talk) {
      if (const auto why = test::enter_small_shm(options, flags); !why.empty()) {
        talk.say("not permitted: " + why);
        return 2;
      }
      const std::string problem = body();
      talk.say(problem.empty() ? "fine" : problem);
      return 0;
    });
    const std::string said = child.hear();
    const int code = child.wait();
    if (code == 2) GTEST_SKIP() << said;
    EXPECT_EQ(said, "fine");
    EXPECT_EQ(code, 0);
  }

  /// "" where create() fails with this code and word, and leaves nothing.
  std::string expect_failure(const SlabOptions& options, Code code, const std::string& word) const {
    const auto slab = Slab::create(options);
    if (slab.is_ok()) return "it was created";
    if (slab.status().code() != code) return "other code: " + slab.status().to_string();
    if (slab.status().message().find(word) == std::string::npos) {
      return "no \"" + word + "\" in: " + slab.status().to_string();
    }
    return objects().empty() ? "" : "objects were left behind";
  }
};

TEST_F(SlabTest, ReservesEverythingForItsUserAlone) {
  const auto slab = make_slab(3 * 4096 + 5, 3);
  ASSERT_TRUE(slab);

  EXPECT_EQ(slab->slots(), 3U);
  EXPECT_EQ(slab->slot_bytes(), 3 * 4096U + 5);
  EXPECT_EQ(objects().size(), 4U);  // and the anchor
  for (const auto& name : objects()) {
    struct stat info {};
    ASSERT_EQ(::stat(("/dev/shm/" + name).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U) << name;
    EXPECT_GE(info.st_blocks * 512, info.st_size) << name << " is not reserved";
  }
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(slab->payload(i).size(), slab->slot_bytes());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slab->payload(i).data()) % 4096, 0U);
  }
}

TEST_F(SlabTest, DescriptorsAreNotInheritedByOtherPrograms) {
  const auto slab = make_slab(4096, 1);
  int found = 0;

  for (int fd = 0; fd < 256; ++fd) {
    std::array<char, 512> link{};
    const auto path = "/proc/self/fd/" + std::to_string(fd);
    if (::readlink(path.c_str(), link.data(), link.size() - 1) <= 0) continue;
    if (std::string(link.data()).find(job) == std::string::npos) continue;
    ++found;
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << link.data();
  }

  EXPECT_EQ(found, 2);
}

TEST_F(SlabTest, ASlotOfAnEmptyShareWorks) {
  const auto slab = make_slab(0, 1);
  ASSERT_TRUE(slab);
  const auto generation = publish(*slab, 0, 1, 0);
  auto reader = SlotReader::open(slab->object_name(0));
  ASSERT_TRUE(reader.is_ok()) << reader.status().to_string();

  EXPECT_TRUE((*reader)->payload().empty());
  EXPECT_TRUE((*reader)->lock(version(1), generation, 0).is_ok());
}

TEST_F(SlabTest, GenerationsRiseBySlot) {
  const auto slab = make_slab(4096, 2);
  ASSERT_TRUE(slab);

  EXPECT_EQ(publish(*slab, 0, 1, 10), 1U);
  EXPECT_EQ(publish(*slab, 0, 2, 10), 2U);
  EXPECT_EQ(publish(*slab, 1, 3, 10), 1U);
}

TEST_F(SlabTest, BadOptionsAreNamed) {
  EXPECT_EQ(expect_failure({{"a.b", "p", run, 0, 1}, 2, 4096}, Code::kInvalid, "job"), "");
  EXPECT_EQ(expect_failure({{job, "", run, 0, 1}, 2, 4096}, Code::kInvalid, "policy"), "");
  EXPECT_EQ(expect_failure({owner(), 0, 4096}, Code::kInvalid, "slots"), "");
  EXPECT_EQ(expect_failure({owner(), 1025, 4096}, Code::kInvalid, "slots"), "");
  EXPECT_EQ(expect_failure({owner(), 2, ~std::uint64_t{0}}, Code::kInvalid, "slot_bytes"), "");
}

TEST_F(SlabTest, MoreThanTheMachineHasIsRefusedBeforeAnythingIsReserved) {
  const SlabOptions options{owner(), 4, std::uint64_t{1} << 42};

  EXPECT_EQ(expect_failure(options, Code::kExhausted, "needs 16777216 MiB"), "");
}

TEST_F(SlabTest, TheSameOwnerTwiceIsRefusedAndHarmless) {
  const auto slab = make_slab(4096);
  const auto before = objects();

  const auto second = Slab::create({owner(), 2, 4096});

  ASSERT_FALSE(second.is_ok());
  EXPECT_EQ(second.status().code(), Code::kExists);
  EXPECT_EQ(objects(), before);
}

TEST_F(SlabTest, AReaderInTheSameProcessKeepsTheOwnerOut) {
  const auto slab = make_slab(100000);
  const auto generation = publish(*slab, 0, 5, 99999);
  auto reader = SlotReader::open(slab->object_name(0));
  ASSERT_TRUE(reader.is_ok());
  auto lock = (*reader)->lock(version(5), generation, 99999);
  ASSERT_TRUE(lock.is_ok()) << lock.status().to_string();

  EXPECT_FALSE(slab->try_lock(0));
  EXPECT_TRUE(slab->try_lock(1));
  EXPECT_EQ(test::first_difference((*reader)->payload().first(99999), 5), 99999U);

  lock = Result<SlotLock>(SlotLock());
  EXPECT_TRUE(slab->try_lock(0));
}

TEST_F(SlabTest, WhatAReaderHoldsOutlivesTheOwnerAndIsSweptLater) {
  auto slab = make_slab(4096);
  const auto generation = publish(*slab, 1, 5, 4096);
  auto reader = SlotReader::open(slab->object_name(1));
  ASSERT_TRUE(reader.is_ok());
  auto lock = (*reader)->lock(version(5), generation, 4096);
  ASSERT_TRUE(lock.is_ok());

  slab.reset();

  EXPECT_EQ(objects().size(), 2U);  // the held slot and the anchor
  EXPECT_EQ(test::first_difference((*reader)->payload(), 5), 4096U);
  EXPECT_EQ(sweep(job).held, 1U);
  lock = Result<SlotLock>(SlotLock());
  EXPECT_EQ(sweep(job).removed, 2U);
}

TEST_F(SlabTest, AForkedChildDoesNotTakeItsParentsObjectsWithIt) {
  auto slab = make_slab(4096);
  const auto before = objects();

  ChildProcess child([&](const Talk&) {
    slab.reset();
    return 0;
  });

  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(objects(), before);
  EXPECT_EQ(sweep(job).alive, 3U);
}

TEST_F(SlabTest, ASmallSharedMemoryIsReportedAndLeftClean) {
  in_small_shm("size=1m", 0, [&] {
    return expect_failure({owner(), 4, kMiB}, Code::kExhausted, "--shm-size");
  });
}

TEST_F(SlabTest, ASharedMemoryWithoutFreeNamesIsReportedAndLeftClean) {
  in_small_shm("size=16m,nr_inodes=3", 0, [&] {  // its root, the anchor, one slot
    return expect_failure({owner(), 4, 4096}, Code::kExhausted, "nr_inodes");
  });
}

TEST_F(SlabTest, AReadOnlySharedMemoryIsReported) {
  in_small_shm("size=1m", MS_RDONLY, [&] {
    return expect_failure({owner(), 1, 4096}, Code::kDenied, "read-write");
  });
}

TEST_F(SlabTest, ASharedMemoryOfSomebodyElseIsReported) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  in_small_shm("size=1m,mode=0755", 0, [&]() -> std::string {
    if (::setresuid(65534, 65534, 65534) != 0) return "no other user";
    return expect_failure({owner(), 1, 4096}, Code::kDenied, "65534");
  });
}

TEST_F(SlabTest, OwnersThatStartTogetherDoNotOvercommit) {
  // Each fits alone, both do not: whoever comes too late must be told, not killed.
  in_small_shm("size=24m", 0, [&]() -> std::string {
    for (std::uint64_t round = 0; round < 5; ++round) {
      std::vector<Result<std::unique_ptr<Slab>>> made;
      made.emplace_back(Status(Code::kInternal, "not run"));
      made.emplace_back(Status(Code::kInternal, "not run"));
      std::vector<std::thread> threads;
      for (std::uint64_t i = 0; i < 2; ++i) {
        threads.emplace_back([&, i] {
          made[i] = Slab::create({owner(round * 2 + i), 2, 7 * kMiB});
        });
      }
      for (auto& thread : threads) thread.join();
      if (made[0].is_ok() && made[1].is_ok()) return "both got more than there is";
      for (const auto& one : made) {
        if (!one.is_ok() && one.status().code() != Code::kExhausted)
          return one.status().to_string();
      }
      made.clear();
      if (!objects().empty()) return "objects were left behind";
      if (measure_memory_room().shm_free != 24 * kMiB) return "memory was left behind";
    }
    return "";
  });
}

}  // namespace
}  // namespace weightcast::staging
