// What the doctor concludes from numbers, of machines that the tests are not on.
#include <gtest/gtest.h>

#include "doctor/findings.hpp"

namespace weightcast::doctor {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

const ShmMount kTmpfs{"tmpfs", "rw,size=65536k", true};

Patient trainer_of(std::uint64_t policy_bytes) {
  Patient patient;
  patient.trainer.emplace();
  patient.policy_bytes = policy_bytes;
  return patient;
}

Finding judged(const Patient& patient, const staging::MemoryRoom& room,
               const ShmMount& mount = kTmpfs) {
  Findings out;
  judge_shared_memory(patient, room, mount, out);
  return out.all().empty() ? Finding{} : out.all().back();
}

void expect(const Finding& finding, Severity severity, const std::vector<std::string>& parts) {
  EXPECT_EQ(finding.severity, severity) << finding.found;
  for (const std::string& part : parts) {
    EXPECT_NE((finding.found + " -> " + finding.remedy).find(part), std::string::npos)
        << "no \"" << part << "\" in: " << finding.found << " -> " << finding.remedy;
  }
}

TEST(DoctorSharedMemory, AContainersDefaultIsAWarningAndTooSmallForAPolicyAnError) {
  const staging::MemoryRoom container{64 * kMiB, 64 * kMiB, 8 * kGiB, {}};
  expect(judged(trainer_of(0), container), Severity::kWarning,
         {"64 MiB free of 64 MiB", "what containers get", "--policy-bytes", "--shm-size"});
  // 4 slots of 100 MiB, an eighth more, 1 MiB and a page.
  expect(judged(trainer_of(100 * kMiB), container), Severity::kError,
         {"a policy of 100 MiB takes 454 MiB", "does not fit", "--shm-size=455m"});
  expect(judged(trainer_of(8 * kMiB), container), Severity::kWarning, {"takes 40"});
}

TEST(DoctorSharedMemory, TheMachinesMemoryAndTheCgroupsLimitCount) {
  const staging::MemoryRoom full{16 * kGiB, 16 * kGiB, 300 * kMiB, {}};
  expect(judged(trainer_of(100 * kMiB), full), Severity::kError,
         {"300 MiB available", "does not fit", "free memory on this host"});
  const staging::MemoryRoom limited{16 * kGiB, 16 * kGiB, 16 * kGiB, 300 * kMiB};
  expect(judged(trainer_of(100 * kMiB), limited), Severity::kError,
         {"this cgroup may take 300 MiB", "docker run --memory"});
  const staging::MemoryRoom large{16 * kGiB, 16 * kGiB, 16 * kGiB, {}};
  expect(judged(trainer_of(100 * kMiB), large), Severity::kOk, {"takes 454 MiB"});
}

TEST(DoctorSharedMemory, EveryRankOfAHostTakesItsShare) {
  Patient patient = trainer_of(100 * kMiB);
  const std::uint64_t alone = shared_bytes_of(patient);
  patient.trainer->world_size = 4;
  const std::uint64_t shared = shared_bytes_of(patient);
  EXPECT_GT(shared, alone) << "each rank rounds its own share up";
  EXPECT_LT(shared, alone + 4 * 4 * 2 * kMiB);
  patient.trainer->slot_bytes = 10 * kMiB;
  EXPECT_EQ(shared_bytes_of(patient), 4 * 4 * (10 * kMiB + 4096));
  EXPECT_EQ(shared_bytes_of(Patient{}), 0u) << "a worker has no slots of its own";
}

TEST(DoctorSharedMemory, AMountThatIsNoneIsTold) {
  const staging::MemoryRoom large{16 * kGiB, 16 * kGiB, 16 * kGiB, {}};
  expect(judged(trainer_of(0), large, {"tmpfs", "ro", false}), Severity::kError,
         {"cannot be written to", "remount,rw"});
  Findings out;
  judge_shared_memory(trainer_of(0), large, {"overlay", "rw", true}, out);
  expect(out.all().front(), Severity::kWarning, {"is no tmpfs", "mount -t tmpfs"});
}

TEST(DoctorSharedMemory, TheMountThatCoversItIsTheLongestAndLast) {
  const ShmMount mount = find_shm_mount(
      "overlay / overlay rw,relatime 0 0\n"
      "tmpfs /dev tmpfs rw,nosuid 0 0\n"
      "shm /dev/shm tmpfs rw,nosuid,nodev,noexec,size=65536k 0 0\n"
      "tmpfs /dev/shm tmpfs ro,size=1024k 0 0\n"
      "x /dev/shmem ext4 rw 0 0\nbroken line\n");
  EXPECT_EQ(mount.type, "tmpfs");
  EXPECT_EQ(mount.options, "ro,size=1024k");
  EXPECT_FALSE(mount.is_writable);
  EXPECT_EQ(find_shm_mount("overlay / overlay rw 0 0\n").type, "overlay");
  EXPECT_EQ(find_shm_mount("").type, "");
}

Limits roomy() {
  constexpr std::uint64_t kNone = ~std::uint64_t{0};
  return {{"nofile", 4096, 4096},
          {"fsize", kNone, kNone},
          {"as", kNone, kNone},
          {"memlock", 64 * 1024, 64 * 1024},
          {"nproc", 4096, 4096}};
}

Finding judged(const Limits& limits, bool has_device = false) {
  Findings out;
  judge_limits(trainer_of(100 * kMiB), limits, has_device, out);
  return out.all().front();
}

TEST(DoctorLimits, EachThatIsTooTightIsToldWithItsRemedy) {
  expect(judged(roomy()), Severity::kOk, {"nofile = 4096", "memlock = 65536"});
  Limits limits = roomy();
  limits.files.soft = 100;
  expect(judged(limits), Severity::kError, {"nofile = 100 (at most 4096)", "ulimit -n"});
  limits.files.soft = 600;
  expect(judged(limits), Severity::kWarning, {"nofile = 600", "ulimit -n"});
  limits = roomy();
  limits.file_size.soft = 50 * kMiB;
  expect(judged(limits), Severity::kError, {"fsize", "SIGXFSZ", "ulimit -f unlimited"});
  limits = roomy();
  limits.address_space.soft = kGiB;
  expect(judged(limits), Severity::kWarning, {"as = 1073741824", "454 MiB", "ulimit -v"});
  limits = roomy();
  limits.processes.soft = 50;
  expect(judged(limits), Severity::kWarning, {"nproc = 50", "ulimit -u"});
  expect(judged(roomy(), true), Severity::kNote, {"memlock = 65536", "RDMA", "ulimit -l"});
}

TEST(DoctorText, SizesAreShort) {
  EXPECT_EQ(about(0), "0 bytes");
  EXPECT_EQ(about(1023), "1023 bytes");
  EXPECT_EQ(about(1536), "1.5 KiB");
  EXPECT_EQ(about(64 * kMiB), "64 MiB");
  EXPECT_EQ(about(~std::uint64_t{0}), "16777216 TiB");
}

TEST(DoctorText, ARefusalsRemedyIsToldApart) {
  Findings out;
  out.refused("keys", {Code::kDenied, "it is so: chmod it; do this; or that"}, "else");
  out.refused("keys", {Code::kDenied, "it is so: chmod go= it"}, "else");
  out.refused("keys", {Code::kDenied, "it is so: really"}, "else");
  expect(out.all()[0], Severity::kError, {"it is so: chmod it -> do this; or that"});
  expect(out.all()[1], Severity::kError, {"it is so -> chmod go= it"});
  expect(out.all()[2], Severity::kError, {"it is so: really -> else"});
}

}  // namespace
}  // namespace weightcast::doctor
