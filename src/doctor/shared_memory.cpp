#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

#include "doctor/findings.hpp"
#include "staging/object_name.hpp"
#include "staging/slot_format.hpp"

namespace weightcast::doctor {
namespace {

constexpr const char* kMemorySubject = "shared memory";
/// What Docker and Kubernetes give a container that asks for nothing.
constexpr std::uint64_t kContainerDefault = std::uint64_t{64} << 20;

std::string enlarge(std::uint64_t need) {
  const std::uint64_t mib = (need >> 20) + 1;
  return "enlarge it: docker run --shm-size=" + std::to_string(mib) +
         "m, a Kubernetes emptyDir of medium Memory mounted on /dev/shm, or mount -o "
         "remount,size=" +
         std::to_string(mib) +
         "m /dev/shm; or configure fewer slots (key slots) or a smaller dtype "
         "(key dtype)";
}

std::string slots_text(const Patient& patient) {
  const std::uint32_t slots = patient.trainer->slots;
  const std::string of = patient.policy_bytes > 0 ? "a policy of " + about(patient.policy_bytes)
                         : patient.trainer->slot_bytes > 0
                             ? "slots of " + about(patient.trainer->slot_bytes)
                             : std::string("even an empty policy");
  return of + " takes " + about(shared_bytes_of(patient)) + " of it (" + std::to_string(slots) +
         " slots)";
}

}  // namespace

std::uint64_t slot_bytes_of(const Patient& patient) {
  if (!patient.trainer) return 0;
  // As a publisher counts where slot_bytes is 0. A rank's share is a part of the policy.
  const std::uint64_t share = patient.policy_bytes / std::max(1U, patient.trainer->world_size);
  const std::uint64_t payload = patient.trainer->slot_bytes > 0 ? patient.trainer->slot_bytes
                                                                : share + share / 8 + (1U << 20);
  return staging::object_bytes(payload);
}

std::uint64_t shared_bytes_of(const Patient& patient) {
  if (!patient.trainer) return 0;
  return slot_bytes_of(patient) * patient.trainer->slots *
         std::max(1U, patient.trainer->world_size);
}

ShmMount find_shm_mount(const std::string& mounts) {
  ShmMount mount;
  std::size_t longest = 0;
  std::istringstream lines(mounts);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string device;
    std::string where;
    std::string type;
    std::string options;
    if (!(fields >> device >> where >> type >> options)) continue;
    const std::string path = staging::kShmDirectory;
    const bool covers = where == "/" || path == where || path.starts_with(where + "/");
    if (!covers || where.size() < longest) continue;
    longest = where.size();
    mount = {type, options, !("," + options + ",").starts_with(",ro,")};
  }
  return mount;
}

void judge_shared_memory(const Patient& patient, const staging::MemoryRoom& room,
                         const ShmMount& mount, Findings& out) {
  const std::string named =
      std::string(staging::kShmDirectory) +
      (mount.type.empty() ? "" : " (" + mount.type + ", " + mount.options + ")");
  if (!mount.is_writable) {
    out.error(kMemorySubject, named + " cannot be written to",
              "mount it writable: mount -o remount,rw /dev/shm, or a container without a read-only "
              "/dev/shm");
    return;
  }
  if (!mount.type.empty() && mount.type != "tmpfs") {
    out.warning(kMemorySubject, named + " is no tmpfs: versions would go to a disk",
                "mount -t tmpfs tmpfs /dev/shm");
  }
  std::string sizes = named;
  if (room.shm_total) {
    sizes += ": " + about(room.shm_free.value_or(0)) + " free of " + about(*room.shm_total);
  } else {
    sizes += ": without a limit of its own";
  }
  if (room.mem_available) sizes += "; the machine has " + about(*room.mem_available) + " available";
  if (room.cgroup_free) sizes += "; this cgroup may take " + about(*room.cgroup_free) + " more";

  const std::uint64_t need = shared_bytes_of(patient);
  if (patient.trainer) {
    if (const Status fits = staging::check_memory_room(room, need); !fits) {
      out.error(kMemorySubject, sizes + "; " + slots_text(patient) + ", which does not fit",
                room.shm_free && need > *room.shm_free
                    ? enlarge(need + room.shm_total.value_or(0) - *room.shm_free)
                    : fits.message().substr(fits.message().rfind("; ") + 2));
      return;
    }
    sizes += "; " + slots_text(patient);
  }
  if (room.shm_total && *room.shm_total <= kContainerDefault) {
    out.warning(kMemorySubject,
                sizes +
                    "; that is what containers get where nothing is said, and too little for "
                    "most policies",
                "run weightcast doctor --policy-bytes SIZE to see what a policy needs; docker run "
                "--shm-size=..., or a Kubernetes emptyDir of medium Memory on /dev/shm");
    return;
  }
  out.ok(kMemorySubject, sizes);
}

void check_shared_memory(const Patient& patient, Findings& out) {
  std::ifstream file("/proc/self/mounts");
  ShmMount mount = find_shm_mount({std::istreambuf_iterator<char>(file), {}});
  mount.is_writable = ::access(staging::kShmDirectory, W_OK | X_OK) == 0;
  judge_shared_memory(patient, staging::measure_memory_room(), mount, out);
}

}  // namespace weightcast::doctor
