#include "staging/memory_room.hpp"

#include <sys/statvfs.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string_view>

#include "staging/object_name.hpp"

namespace weightcast::staging {
namespace {

using OptionalBytes = std::optional<std::uint64_t>;

/// cgroup v1 says "no limit" with a number near 2^63.
constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 60;

OptionalBytes parse_bytes(std::string_view text) {
  std::uint64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || stop == text.data()) return std::nullopt;
  return value;
}

OptionalBytes read_number(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word)) return std::nullopt;
  return parse_bytes(word);  // "max" is no number: no limit
}

/// The number after `key` in lines of "key number".
OptionalBytes read_field(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::string_view rest = line;
    if (!rest.starts_with(key)) continue;
    rest.remove_prefix(key.size());
    const auto start = rest.find_first_not_of(" \t");
    if (start == std::string_view::npos || start == 0) continue;
    return parse_bytes(rest.substr(start));
  }
  return std::nullopt;
}

void lower_to(OptionalBytes& value, OptionalBytes limit) {
  if (limit && (!value || *limit < *value)) value = limit;
}

struct CgroupFiles {
  const char* limit;
  const char* usage;
  const char* inactive_file;
  const char* active_file;
};
constexpr CgroupFiles kV2{"memory.max", "memory.current", "inactive_file", "active_file"};
constexpr CgroupFiles kV1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
                          "total_active_file"};

OptionalBytes free_in(const std::string& folder, const CgroupFiles& files) {
  const auto limit = read_number(folder + "/" + files.limit);
  const auto usage = read_number(folder + "/" + files.usage);
  if (!limit || !usage || *limit >= kNoLimit) return std::nullopt;
  // The usage counts the page cache, which the kernel gives up first; of what is in active use
  // half is counted, as MemAvailable does. Pages of shared memory are in neither number.
  const auto inactive = read_field(folder + "/memory.stat", files.inactive_file).value_or(0);
  const auto active = read_field(folder + "/memory.stat", files.active_file).value_or(0);
  const std::uint64_t pinned = *usage - std::min(*usage, inactive + active / 2);
  return *limit - std::min(*limit, pinned);
}

/// The tightest of a cgroup and its ancestors, as far as the mount shows them. Inside a container
/// the path is often that of the host and only the mount's root is there: it is looked at last.
OptionalBytes tightest(const std::string& mount, std::string path, const CgroupFiles& files) {
  OptionalBytes least;
  while (true) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    lower_to(least, free_in(mount + path, files));
    if (path.empty()) return least;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

OptionalBytes measure_cgroups(const std::string& root) {
  OptionalBytes least;
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {  // hierarchy:controllers:path
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (line.starts_with("0::")) {
      lower_to(least, tightest(root + "/sys/fs/cgroup", path, kV2));
    } else if (controllers.find(",memory,") != std::string::npos) {
      lower_to(least, tightest(root + "/sys/fs/cgroup/memory", path, kV1));
    }
  }
  return least;
}

std::string in_mib(std::uint64_t bytes) {
  return std::to_string(bytes / (1024 * 1024)) + " MiB (" + std::to_string(bytes) + " bytes)";
}

constexpr const char* kSmaller = "configure fewer slots, a smaller dtype or a narrower filter, or ";

}  // namespace

MemoryRoom measure_memory_room(const std::string& root) {
  MemoryRoom room;
  struct statvfs mount {};
  if (::statvfs((root + kShmDirectory).c_str(), &mount) == 0) {
    // A tmpfs mounted without a limit says 0 blocks.
    const std::uint64_t unit = mount.f_frsize;
    if (mount.f_blocks != 0) {
      room.shm_total = unit * mount.f_blocks;
      room.shm_free = unit * mount.f_bavail;
    }
  }
  if (const auto kib = read_field(root + "/proc/meminfo", "MemAvailable:")) {
    room.mem_available = *kib * 1024;
  }
  room.cgroup_free = measure_cgroups(root);
  return room;
}

Status check_memory_room(const MemoryRoom& room, std::uint64_t bytes) {
  if (room.shm_free && bytes > *room.shm_free) {
    return Status(Code::kExhausted, "shared memory needs " + in_mib(bytes) + " more, but " +
                                        kShmDirectory + " has " + in_mib(*room.shm_free) +
                                        " free of " + in_mib(room.shm_total.value_or(0)) + "; " +
                                        kSmaller +
                                        "enlarge it (docker run --shm-size=..., or mount -o "
                                        "remount,size=... " +
                                        kShmDirectory + ")");
  }
  const auto usable = [](std::uint64_t free) { return free - free / 16; };
  if (room.mem_available && bytes > usable(*room.mem_available)) {
    return Status(Code::kExhausted, "shared memory needs " + in_mib(bytes) +
                                        " more, but the machine has only " +
                                        in_mib(*room.mem_available) +
                                        " available, of which a sixteenth is kept free; " +
                                        kSmaller + "free memory on this host");
  }
  if (room.cgroup_free && bytes > usable(*room.cgroup_free)) {
    return Status(Code::kExhausted,
                  "shared memory needs " + in_mib(bytes) + " more, but this process's cgroup has " +
                      "only " + in_mib(*room.cgroup_free) +
                      " left, of which a sixteenth is kept free; " + kSmaller +
                      "raise the container's memory limit (docker run --memory=...)");
  }
  return Status::ok();
}

}  // namespace weightcast::staging
