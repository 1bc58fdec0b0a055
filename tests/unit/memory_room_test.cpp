#include "staging/memory_room.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace weightcast::staging {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

/// A folder that looks like a machine's root.
class MemoryRoomTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "room-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root); }

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  std::string root;
};

TEST_F(MemoryRoomTest, AbsentFilesDoNotLimit) {
  const MemoryRoom room = measure_memory_room(root);

  EXPECT_FALSE(room.shm_free.has_value());
  EXPECT_FALSE(room.mem_available.has_value());
  EXPECT_FALSE(room.cgroup_free.has_value());
  EXPECT_TRUE(check_memory_room(room, 100 * kGiB).is_ok());
}

TEST_F(MemoryRoomTest, MemAvailableIsReadInKiB) {
  write("/proc/meminfo", "MemTotal:  100 kB\nMemAvailable:   2097152 kB\n");

  EXPECT_EQ(measure_memory_room(root).mem_available, 2 * kGiB);
}

TEST_F(MemoryRoomTest, TheTightestCgroupOfAllAncestorsCounts) {
  write("/proc/self/cgroup", "0::/a/b\n");
  write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  write("/sys/fs/cgroup/a/b/memory.current", "1000\n");
  write("/sys/fs/cgroup/a/memory.max", "10000\n");
  write("/sys/fs/cgroup/a/memory.current", "7000\n");
  write("/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 500\nactive_file 400\n");
  write("/sys/fs/cgroup/memory.max", "20000\n");
  write("/sys/fs/cgroup/memory.current", "9000\n");

  EXPECT_EQ(measure_memory_room(root).cgroup_free, 10000U - (7000U - 500U - 200U));
}

TEST_F(MemoryRoomTest, CgroupsOfVersion1AreRead) {
  write("/proc/self/cgroup", "9:cpu:/x\n4:memory:/x/y\n0::/\n");
  write("/sys/fs/cgroup/memory/x/y/memory.limit_in_bytes", "5000\n");
  write("/sys/fs/cgroup/memory/x/y/memory.usage_in_bytes", "6000\n");
  write("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n");
  write("/sys/fs/cgroup/memory/x/memory.usage_in_bytes", "6000\n");

  EXPECT_EQ(measure_memory_room(root).cgroup_free, 0U);
}

TEST_F(MemoryRoomTest, InAContainerTheRootOfTheMountIsLookedAt) {
  write("/proc/self/cgroup", "0::/docker/abc\n");
  write("/sys/fs/cgroup/memory.max", "4000\n");
  write("/sys/fs/cgroup/memory.current", "1000\n");

  EXPECT_EQ(measure_memory_room(root).cgroup_free, 3000U);
}

TEST(CheckMemoryRoom, SaysWhatIsShortAndWhatToDo) {
  struct Case {
    MemoryRoom room;
    const char* says;
    const char* remedy;
  };
  for (const auto& [room, says, remedy] : {
           Case{{kGiB, kGiB / 2, 8 * kGiB, {}}, "/dev/shm has 512 MiB", "--shm-size"},
           Case{{16 * kGiB, 16 * kGiB, kGiB, {}}, "machine has only 1024 MiB", "free memory"},
           Case{{16 * kGiB, 16 * kGiB, 8 * kGiB, kGiB}, "only 1024 MiB", "--memory"},
       }) {
    const Status status = check_memory_room(room, kGiB);

    EXPECT_EQ(status.code(), Code::kExhausted);
    EXPECT_NE(status.message().find("needs 1024 MiB"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(remedy), std::string::npos) << status.message();
  }
}

TEST(CheckMemoryRoom, ASixteenthStaysFree) {
  const MemoryRoom room{16 * kGiB, 16 * kGiB, 16 * kGiB, 32 * kGiB};

  EXPECT_TRUE(check_memory_room(room, 15 * kGiB).is_ok());
  EXPECT_FALSE(check_memory_room(room, 15 * kGiB + 1).is_ok());
}

TEST(MeasureMemoryRoom, TheMachineItselfHasSharedMemory) {
  const MemoryRoom room = measure_memory_room();

  EXPECT_TRUE(room.mem_available.has_value());
  EXPECT_GT(room.mem_available.value_or(0), 0U);
}

}  // namespace
}  // namespace weightcast::staging
