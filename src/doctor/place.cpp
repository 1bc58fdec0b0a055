// The meeting place: whose it is, who may look in, on which file system, and this host's clock.
#include <sys/vfs.h>
#include <unistd.h>

#include <chrono>

#include "base/clock.hpp"
#include "base/host.hpp"
#include "base/private_directory.hpp"
#include "doctor/findings.hpp"
#include "stream/place_leftovers.hpp"

namespace weightcast::doctor {
namespace {

constexpr const char* kPlaceSubject = "meeting place";

/// Locks and sockets of a network's file system do not hold between its hosts.
const char* network_file_system(const std::string& path) {
  struct statfs info {};
  if (::statfs(path.c_str(), &info) != 0) return nullptr;
  switch (static_cast<unsigned long>(info.f_type)) {
    case 0x6969:
      return "NFS";
    case 0xff534d42:
    case 0xfe534d42:
      return "SMB";
    case 0x0bd00bd0:
      return "Lustre";
    case 0x00c36400:
      return "Ceph";
    default:
      return nullptr;
  }
}

std::string parent_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos || slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

void check_place(const Patient& patient, Findings& out) {
  if (patient.place.empty()) return;  // said where the configuration was examined
  const std::string of_job = parent_of(patient.place);
  for (const std::string& path : {patient.base, of_job, patient.place}) {
    const auto opened = base::open_private_directory(path);
    if (opened) continue;
    if (opened.status().code() != Code::kNotFound) {
      out.refused(kPlaceSubject, opened.status(),
                  "set the key directory (WEIGHTCAST_DIR) to a folder of this user alone");
      return;
    }
    const std::string above = parent_of(path);
    if (::access(above.c_str(), W_OK | X_OK) != 0) {
      out.error(kPlaceSubject, path + " does not exist, and this user cannot make it in " + above,
                "mkdir -p -m 0700 " + path +
                    " as a user who may, chown it, or set the key directory "
                    "(WEIGHTCAST_DIR)");
      return;
    }
    out.ok(kPlaceSubject, patient.place + " is not there yet: the first member makes it");
    return;
  }
  if (const char* network = network_file_system(patient.place)) {
    out.error(kPlaceSubject,
              patient.place + " lies on " + network +
                  ", whose locks and sockets do not "
                  "serve one host's members",
              "set the key directory (WEIGHTCAST_DIR) to a folder on a local disk or tmpfs");
    return;
  }
  const auto state = stream::look_at_place(patient.place);
  if (!state) {
    out.refused(kPlaceSubject, state.status(),
                "set the key directory (WEIGHTCAST_DIR) to a folder of this user alone");
    return;
  }
  const auto now = static_cast<long long>(base::unix_us());
  constexpr long long kMinute = 60'000'000;
  const auto started = static_cast<long long>(state->last_run.started_us);
  if (started > now + kMinute) {
    out.warning(
        "clock",
        "the newest run here began " + std::to_string((started - now) / 1'000'000) +
            " s in this clock's future: the clock has been set back",
        "set the clock (timedatectl set-ntp true); runs are numbered later than the newest, so "
        "jobs work on");
  }
  out.ok(kPlaceSubject, patient.place + " (0700, user " + std::to_string(::geteuid()) + "); " +
                       (state->is_held ? "a trainer lives here, pid " + std::to_string(state->pid)
                                       : std::string("no trainer lives here now")));
}

void check_host(Findings& out) {
  out.ok("host", "identity " + base::host_identity() +
                     "; members with the same one use shared memory among each other (containers "
                     "have the same only where they share /dev/shm)");
}

}  // namespace weightcast::doctor
