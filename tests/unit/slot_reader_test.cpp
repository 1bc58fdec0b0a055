#include "staging/slot_reader.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>

#include "base/unique_fd.hpp"
#include "staging/pages.hpp"
#include "staging/slab.hpp"
#include "staging/slot_format.hpp"
#include "support/child_process.hpp"
#include "support/shm_fixture.hpp"

namespace weightcast::staging {
namespace {

using test::ChildProcess;
using test::Talk;

constexpr std::uint64_t kBytes = 300 * 4096 + 77;

class SlotReaderTest : public test::ShmTest {
 protected:
  static std::unique_ptr<SlotReader> open(const Slab& slab, std::uint32_t slot = 0) {
    auto reader = SlotReader::open(slab.object_name(slot));
    EXPECT_TRUE(reader.is_ok()) << reader.status().to_string();
    return reader.is_ok() ? std::move(*reader) : nullptr;
  }

  /// A name of this test's in the form of a slot's.
  std::string odd_name() const {
    return "weightcast." + std::to_string(::geteuid()) + "." + job + ".odd.1-1.r0.1.s0";
  }
  std::string odd_path() const { return "/dev/shm/" + odd_name(); }

  Code open_odd() const {
    const auto reader = SlotReader::open(odd_name());
    return reader.is_ok() ? Code::kOk : reader.status().code();
  }
};

TEST_F(SlotReaderTest, AcceptsExactlyWhatIsSealed) {
  const auto slab = make_slab(kBytes);
  const auto reader = open(*slab);
  const auto code = [&](const Version& v, std::uint64_t generation, std::uint64_t bytes) {
    const auto lock = reader->lock(v, generation, bytes);
    return lock.is_ok() ? Code::kOk : lock.status().code();
  };

  EXPECT_EQ(code(version(0), 0, 0), Code::kStale);  // never written
  const auto generation = publish(*slab, 0, 9, kBytes);

  EXPECT_EQ(code(version(9), generation, kBytes), Code::kOk);
  EXPECT_EQ(code(version(8), generation, kBytes), Code::kStale);
  EXPECT_EQ(code({{run.started_us + 1, run.tie}, 9}, generation, kBytes), Code::kStale);
  EXPECT_EQ(code({{run.started_us, run.tie + 1}, 9}, generation, kBytes), Code::kStale);
  EXPECT_EQ(code(version(9), generation + 1, kBytes), Code::kStale);
  EXPECT_EQ(code(version(9), generation, kBytes - 1), Code::kStale);
  EXPECT_TRUE(slab->try_lock(0)) << "a refused lock was kept";
}

TEST_F(SlotReaderTest, RefusesASlotThatIsBeingWritten) {
  const auto slab = make_slab(kBytes);
  const auto reader = open(*slab);
  const auto generation = publish(*slab, 0, 1, kBytes);
  ASSERT_TRUE(slab->try_lock(0));

  const auto while_locked = reader->lock(version(1), generation, kBytes);
  const auto next = slab->begin_write(0);
  slab->unlock(0);
  const auto unsealed = reader->lock(version(1), next, kBytes);

  ASSERT_FALSE(while_locked.is_ok());
  EXPECT_EQ(while_locked.status().code(), Code::kStale);
  ASSERT_FALSE(unsealed.is_ok());
  EXPECT_EQ(unsealed.status().code(), Code::kStale);
  EXPECT_NE(unsealed.status().message().find("in the making"), std::string::npos);
}

TEST_F(SlotReaderTest, WhatAReaderWroteIsGoneAtTheNextVersion) {
  const auto slab = make_slab(kBytes);
  const auto reader = open(*slab);
  std::uint64_t generation = publish(*slab, 0, 1, kBytes);
  for (std::uint64_t number = 1; number < 6; ++number) {
    {
      const auto lock = reader->lock(version(number), generation, kBytes);
      ASSERT_TRUE(lock.is_ok()) << lock.status().to_string();
      ASSERT_EQ(test::first_difference(reader->payload(), number), kBytes) << number;
      // Runs of pages, single ones, the first and the last byte.
      auto bytes = reader->payload();
      for (std::size_t i = 0; i < 40 * 4096; ++i) bytes[10 * 4096 + i] = std::byte{0xee};
      for (std::size_t at = 100 * 4096; at < kBytes; at += 7 * 4096) bytes[at] = std::byte{0xee};
      bytes.front() = std::byte{0xee};
      bytes.back() = std::byte{0xee};
    }
    ASSERT_EQ(test::first_difference(slab->payload(0), number), kBytes) << "not private";
    generation = publish(*slab, 0, number + 1, kBytes);
    ASSERT_NE(generation, 0U);
  }
}

TEST_F(SlotReaderTest, WhatAReaderWroteIsGoneInAnotherProcessToo) {
  const auto slab = make_slab(kBytes);
  ChildProcess child([&](const Talk& talk) {
    const auto reader = open(*slab);
    for (std::uint64_t number = 1; number <= 3; ++number) {
      const auto generation = std::stoull(talk.hear());
      {
        const auto lock = reader->lock(version(number), generation, kBytes);
        if (!lock.is_ok()) return 1;
        if (test::first_difference(reader->payload(), number) != kBytes) return 2;
        std::fill(reader->payload().begin(), reader->payload().end(), std::byte{0x11});
      }
      talk.say("done");
    }
    return 0;
  });
  for (std::uint64_t number = 1; number <= 3; ++number) {
    child.say(std::to_string(publish(*slab, 0, number, kBytes)));
    if (child.hear() != "done") break;
  }
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(test::first_difference(slab->payload(0), 3), kBytes);
}

TEST_F(SlotReaderTest, OnlyPagesThatWereWrittenToAreDropped) {
  std::ifstream pagemap("/proc/self/pagemap");
  if (!pagemap) GTEST_SKIP() << "/proc/self/pagemap cannot be read here";
  const std::size_t page = page_bytes();
  const auto slab = make_slab(4000 * page);
  const auto reader = open(*slab);
  publish(*slab, 0, 1, 4000 * page);

  // Alone, in runs, at both ends, and more of them than one read of the pagemap tells of.
  std::size_t written = 0;
  for (std::size_t i = 0; i < 4000; ++i) {
    if (i % 3 == 0 || (i > 1000 && i < 1100) || i == 3999) {
      reader->payload()[i * page + i % page] ^= std::byte{0xff};
      ++written;
    }
  }

  EXPECT_EQ(drop_private_copies(reader->payload()), written * page);
  EXPECT_EQ(drop_private_copies(reader->payload()), 0U);
  EXPECT_EQ(test::first_difference(reader->payload(), 1), 4000 * page);
}

TEST_F(SlotReaderTest, PagesThatTheProgramHasLockedInMemoryAreDroppedToo) {
  const std::size_t page = page_bytes();
  const auto slab = make_slab(4 * page);
  const auto reader = open(*slab);
  const auto generation = publish(*slab, 0, 1, 4 * page);
  if (::mlock(reader->payload().data(), 4 * page) != 0) GTEST_SKIP() << "no memory may be locked";
  std::fill(reader->payload().begin(), reader->payload().end(), std::byte{0x11});

  EXPECT_TRUE(reader->lock(version(1), generation, 4 * page).is_ok());
  EXPECT_EQ(test::first_difference(reader->payload(), 1), 4 * page);
}

TEST_F(SlotReaderTest, WhereTheKernelDoesNotSayAllPagesAreDropped) {
  const std::size_t page = page_bytes();
  const auto slab = make_slab(8 * page);
  const auto reader = open(*slab);
  publish(*slab, 0, 1, 8 * page);
  reader->payload()[3 * page] ^= std::byte{0xff};

  EXPECT_EQ(drop_private_copies(reader->payload(), PrivatePages::kAll), 8 * page);
  EXPECT_EQ(test::first_difference(reader->payload(), 1), 8 * page);
}

TEST_F(SlotReaderTest, PagesArePresentFromTheStart) {
  const base::UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap) GTEST_SKIP() << "/proc/self/pagemap cannot be read here";
  const auto slab = make_slab(64 * page_bytes());
  const auto reader = open(*slab);

  for (const auto bytes : {slab->payload(0), reader->payload()}) {
    std::array<std::uint64_t, 64> entries{};
    const auto first = reinterpret_cast<std::uintptr_t>(bytes.data()) / page_bytes();
    ASSERT_EQ(::pread(pagemap.get(), entries.data(), sizeof entries, static_cast<off_t>(first * 8)),
              static_cast<ssize_t>(sizeof entries));
    for (const auto entry : entries) EXPECT_NE(entry >> 63, 0U);
  }
}

TEST_F(SlotReaderTest, AKilledReaderLosesItsLockAndAStoppedOneKeepsIt) {
  const auto slab = make_slab(kBytes);
  const auto generation = publish(*slab, 0, 1, kBytes);
  ChildProcess child([&](const Talk& talk) {
    const auto reader = open(*slab);
    const auto lock = reader->lock(version(1), generation, kBytes);
    talk.say(lock.is_ok() ? "locked" : lock.status().to_string());
    talk.hear();
    return 0;
  });
  ASSERT_EQ(child.hear(), "locked");

  EXPECT_FALSE(slab->try_lock(0));
  child.stop();
  EXPECT_FALSE(slab->try_lock(0));
  child.go_on();
  EXPECT_FALSE(slab->try_lock(0));
  child.kill();
  EXPECT_TRUE(slab->try_lock(0));
}

TEST_F(SlotReaderTest, AKilledOwnerInTheMiddleOfAWriteIsNeverRead) {
  std::string name;
  ChildProcess child([&](const Talk& talk) {
    const auto slab = make_slab(4096);
    publish(*slab, 0, 1, 4096);
    slab->try_lock(0);
    slab->begin_write(0);
    talk.say(slab->object_name(0));
    talk.hear();
    return 0;
  });
  name = child.hear();
  auto reader = SlotReader::open(name);
  ASSERT_TRUE(reader.is_ok()) << reader.status().to_string();
  child.kill();

  for (std::uint64_t generation : {1, 2}) {
    const auto lock = (*reader)->lock(version(1), generation, 4096);
    ASSERT_FALSE(lock.is_ok());
    EXPECT_EQ(lock.status().code(), Code::kStale);
  }
  EXPECT_FALSE((*reader)->gone());
  EXPECT_EQ(sweep(job).removed, 3U);
  EXPECT_TRUE((*reader)->gone());
}

TEST_F(SlotReaderTest, AForkedChildDoesNotEndItsParentsLock) {
  const auto slab = make_slab(4096);
  const auto reader = open(*slab);
  auto lock = reader->lock(version(1), publish(*slab, 0, 1, 4096), 4096);
  ASSERT_TRUE(lock.is_ok());

  ChildProcess child([&](const Talk&) {
    lock = Result<SlotLock>(SlotLock());
    return 0;
  });

  EXPECT_EQ(child.wait(), 0);
  EXPECT_FALSE(slab->try_lock(0));
}

TEST_F(SlotReaderTest, ALockMovesAndEndsOnce) {
  const auto slab = make_slab(4096);
  const auto reader = open(*slab);
  auto taken = reader->lock(version(1), publish(*slab, 0, 1, 4096), 4096);
  ASSERT_TRUE(taken.is_ok());

  SlotLock first = std::move(*taken);
  SlotLock second;
  EXPECT_FALSE(second.held());
  second = std::move(first);

  EXPECT_TRUE(second.held());
  EXPECT_FALSE(slab->try_lock(0));
  second = SlotLock();
  EXPECT_TRUE(slab->try_lock(0));
}

TEST_F(SlotReaderTest, WhatIsNoSlotIsRefused) {
  EXPECT_EQ(open_odd(), Code::kNotFound);

  std::ofstream(odd_path()) << "";
  EXPECT_EQ(open_odd(), Code::kMismatch);
  std::ofstream(odd_path()) << std::string(16384, 'x');
  EXPECT_EQ(open_odd(), Code::kMismatch);
  ::unlink(odd_path().c_str());

  ASSERT_EQ(::symlink("/etc/hostname", odd_path().c_str()), 0);
  EXPECT_EQ(open_odd(), Code::kDenied);
  ::unlink(odd_path().c_str());

  ASSERT_EQ(::mkfifo(odd_path().c_str(), 0600), 0);
  EXPECT_EQ(open_odd(), Code::kDenied);  // and does not wait for somebody to write
  ::unlink(odd_path().c_str());
}

TEST_F(SlotReaderTest, SaysWithoutALockHowFarTheWriterIs) {
  const auto slab = make_slab(kBytes);
  const auto reader = open(*slab);
  const auto first = publish(*slab, 0, 1, kBytes);
  EXPECT_EQ(reader->written(first), kBytes);
  EXPECT_EQ(reader->written(first + 1), std::nullopt);

  ASSERT_TRUE(slab->try_lock(0));
  const auto second = slab->begin_write(0);

  EXPECT_EQ(reader->written(first), std::nullopt) << "of a version that is being overwritten";
  EXPECT_EQ(reader->written(second), 0U);
  slab->set_written(0, 4096);
  EXPECT_EQ(reader->written(second), 4096U);
  slab->seal(0, version(2), kBytes - 8);
  EXPECT_EQ(reader->written(second), kBytes - 8);
  slab->unlock(0);
}

TEST_F(SlotReaderTest, ASharedMappingShowsTheOwnersPages) {
  const auto slab = make_slab(kBytes);
  for (const auto mapping : {SlotMapping::kShared, SlotMapping::kSharedWritable}) {
    const auto reader = SlotReader::open(slab->object_name(0), mapping);
    ASSERT_TRUE(reader.is_ok()) << reader.status().to_string();
    ASSERT_EQ((*reader)->payload().size(), kBytes);

    const auto generation = publish(*slab, 0, 5, kBytes);
    const auto lock = (*reader)->lock(version(5), generation, kBytes);

    ASSERT_TRUE(lock.is_ok()) << lock.status().to_string();
    EXPECT_EQ(test::first_difference((*reader)->payload(), 5), kBytes);
  }
}

TEST_F(SlotReaderTest, ASlotOfADeviceIsAHeaderAndALock) {
  const auto made = Slab::create({owner(), 1, kBytes, false});
  ASSERT_TRUE(made.is_ok()) << made.status().to_string();
  Slab& slab = **made;
  struct stat info {};
  ASSERT_EQ(::stat(("/dev/shm/" + slab.object_name(0)).c_str(), &info), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_size), header_bytes());
  EXPECT_TRUE(slab.payload(0).empty());
  const auto reader = open(slab);
  EXPECT_FALSE(reader->payload_here());
  EXPECT_TRUE(reader->payload().empty());

  ASSERT_TRUE(slab.try_lock(0));
  const auto generation = slab.begin_write(0);
  slab.seal(0, version(3), kBytes);
  slab.unlock(0);

  EXPECT_EQ(reader->lock(version(3), generation, kBytes - 1).status().code(), Code::kStale);
  const auto lock = reader->lock(version(3), generation, kBytes);
  ASSERT_TRUE(lock.is_ok()) << lock.status().to_string();
  EXPECT_FALSE(slab.try_lock(0)) << "the lock does not keep the writer away";
}

TEST_F(SlotReaderTest, AHeaderThatDoesNotFitIsRefused) {
  const auto write = [&](const SlotHeader& header, std::uint64_t size) {
    std::ofstream file(odd_path(), std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(&header), sizeof header);
    file.close();
    ASSERT_EQ(::truncate(odd_path().c_str(), static_cast<off_t>(size)), 0);
  };
  SlotHeader header{};
  header.magic = kSlotMagic;
  header.format = kSlotFormat;
  header.capacity = 10000;
  header.payload_here = 1;

  write(header, object_bytes(10000));
  EXPECT_EQ(open_odd(), Code::kOk);
  header.payload_here = 0;
  EXPECT_EQ(object_bytes(10000, false), header_bytes());
  write(header, object_bytes(10000));
  EXPECT_EQ(open_odd(), Code::kMismatch);
  write(header, header_bytes());
  EXPECT_EQ(open_odd(), Code::kOk);
  header.payload_here = 1;
  write(header, object_bytes(10000) - 4096);
  EXPECT_EQ(open_odd(), Code::kMismatch);
  header.capacity = ~std::uint64_t{0};
  write(header, object_bytes(10000));
  EXPECT_EQ(open_odd(), Code::kMismatch);
  header.capacity = 10000;
  header.format = kSlotFormat + 1;
  write(header, object_bytes(10000));
  EXPECT_EQ(open_odd(), Code::kMismatch);
  ::unlink(odd_path().c_str());
}

TEST_F(SlotReaderTest, AnotherUsersObjectIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a file away";
  std::ofstream(odd_path()) << "x";
  ASSERT_EQ(::chown(odd_path().c_str(), 65534, 65534), 0);

  EXPECT_EQ(open_odd(), Code::kDenied);
  ::unlink(odd_path().c_str());
}

}  // namespace
}  // namespace weightcast::staging
