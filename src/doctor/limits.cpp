#include <sys/resource.h>

#include <algorithm>

#include "doctor/findings.hpp"
#include "driver/cuda.hpp"

namespace weightcast::doctor {
namespace {

constexpr const char* kLimitsSubject = "limits";
constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};
/// Rank 0 has a connection for each member, and every process some twenty files.
constexpr std::uint64_t kFewFiles = 256;
constexpr std::uint64_t kComfortableFiles = 1024;

Limit read(const char* name, __rlimit_resource what) {
  rlimit limit{};
  if (::getrlimit(what, &limit) != 0) return {name, kUnlimited, kUnlimited};
  const auto value = [](rlim_t it) {
    return it == RLIM_INFINITY ? kUnlimited : static_cast<std::uint64_t>(it);
  };
  return {name, value(limit.rlim_cur), value(limit.rlim_max)};
}

std::string shown(std::uint64_t value) {
  return value == kUnlimited ? "unlimited" : std::to_string(value);
}

std::string named(const Limit& limit) {
  return std::string(limit.name) + " = " + shown(limit.soft) + " (at most " + shown(limit.hard) +
         ")";
}

}  // namespace

void judge_limits(const Patient& patient, const Limits& limits, bool has_device, Findings& out) {
  const std::size_t before = out.all().size();
  if (limits.files.soft < kFewFiles) {
    out.error(kLimitsSubject,
              named(limits.files) + ": a process opens each slot and a connection a member",
              "ulimit -n 4096, or LimitNOFILE=4096 of its systemd unit");
  } else if (limits.files.soft < kComfortableFiles) {
    out.warning(kLimitsSubject, named(limits.files) + " is enough for some hundred members",
                "ulimit -n 4096 where rank 0 runs");
  }
  const std::uint64_t slot = slot_bytes_of(patient);
  if (limits.file_size.soft < std::max<std::uint64_t>(slot, 1)) {
    out.error(kLimitsSubject,
              named(limits.file_size) + " bytes: a slot is a file of " + about(slot) +
                  " in /dev/shm, and a larger one ends the process with SIGXFSZ",
              "ulimit -f unlimited");
  }
  if (limits.address_space.soft != kUnlimited) {
    out.warning(kLimitsSubject,
                named(limits.address_space) + " bytes of address space; this configuration maps " +
                    about(shared_bytes_of(patient)) + " and more",
                "ulimit -v unlimited");
  }
  if (has_device && limits.locked.soft != kUnlimited) {
    out.note(
        kLimitsSubject,
        named(limits.locked) + " bytes: CUDA pins memory regardless, RDMA networks of NCCL do not",
        "ulimit -l unlimited, or docker run --ulimit memlock=-1, where NCCL uses RDMA");
  }
  if (limits.processes.soft < 256) {
    out.warning(kLimitsSubject, named(limits.processes) + ": a member has up to ten threads of ours",
                "ulimit -u 4096, or TasksMax= of its systemd unit");
  }
  if (out.all().size() == before) {
    out.ok(kLimitsSubject,
           named(limits.files) + ", " + named(limits.locked) + ", " + named(limits.processes));
  }
}

void check_limits(const Patient& patient, Findings& out) {
  Limits limits;
  limits.files = read("nofile", RLIMIT_NOFILE);
  limits.file_size = read("fsize", RLIMIT_FSIZE);
  limits.address_space = read("as", RLIMIT_AS);
  limits.locked = read("memlock", RLIMIT_MEMLOCK);
  limits.processes = read("nproc", RLIMIT_NPROC);
  judge_limits(patient, limits, driver::load_cuda().is_ok(), out);
}

}  // namespace weightcast::doctor
