// The coordinators that this configuration leads to: there, alive, of this version, with these
// keys.
#include <sys/stat.h>

#include <chrono>

#include "config/units.hpp"
#include "doctor/findings.hpp"
#include "keys/key_ring.hpp"
#include "protocol/message.hpp"
#include "staging/object_name.hpp"
#include "stream/place_leftovers.hpp"
#include "stream/probe.hpp"
#include "stream/rendezvous.hpp"

namespace weightcast::doctor {
namespace {

constexpr const char* kCoordinatorSubject = "coordinator";
constexpr const char* kVersions = "versions";
constexpr const char* kSameVersion =
    "install the same weightcast on both sides (weightcast --version shows it) and restart the "
    "older "
    "one";

std::string shown(const Run& run) {
  return std::to_string(run.started_us) + "." + std::to_string(run.tie);
}

struct Asked {
  std::string endpoint;
  std::string named;   ///< in messages
  stream::Keys keys;   ///< null on one host
  std::string folder;  ///< of the keys
};

std::string no_way_remedy(const Asked& asked) {
  const std::string place = asked.endpoint.substr(asked.endpoint.find("://") + 3);
  return "start the trainer with listen = 0.0.0.0:PORT; check the name and port in the key "
         "coordinator (" +
         place + "), and firewalls between the hosts: nc -vz " + place.substr(0, place.rfind(':')) +
         " " + place.substr(place.rfind(':') + 1);
}

void report_keys(const Asked& asked, const stream::Probe& probe, Findings& out) {
  const std::string role(asked.keys ? keys::role_name(asked.keys->role()) : "engine");
  const std::string same =
      "copy one folder that weightcast keygen made to both sides (scp -p) and "
      "restart what runs with the other";
  switch (probe.end) {
    case stream::ProbeEnd::kKeyDenied:
      out.error("keys",
                asked.named + " does not accept the " + role + " key in " + asked.folder + " (" +
                    probe.text + "): its " + role + ".allowed lacks it",
                same + "; or add the key in " + role + ".public to its " + role +
                    ".allowed and restart it");
      return;
    case stream::ProbeEnd::kWrongRole:
      out.error("keys", asked.named + " takes this key for the other role's: " + probe.text, same);
      return;
    default:
      out.error("keys",
                asked.named + " listens, but does not have the trainer's key that " + asked.folder +
                    " expects (" + probe.text +
                    "): it has keys of another set, or is no coordinator",
                same + "; or correct the port in the key coordinator");
  }
}

void report(const Patient& patient, const Asked& asked, const stream::Probe& probe, Findings& out) {
  const std::string within = config::show_duration(patient.patience);
  switch (probe.end) {
    case stream::ProbeEnd::kAnswered:
      if (!probe.policy.empty() && probe.policy != patient.policy) {
        out.error(kCoordinatorSubject,
                  asked.named + " publishes policy \"" + probe.policy +
                      "\", but this "
                      "configuration wants \"" +
                      patient.policy + "\"",
                  "set the key policy alike on both sides");
        return;
      }
      out.ok(kCoordinatorSubject,
             asked.named + " answered in " +
                 std::to_string(
                     std::chrono::duration_cast<std::chrono::milliseconds>(probe.took).count()) +
                 " ms: run " + shown(probe.run) + ", protocol " +
                 std::to_string(protocol::kProtocolVersion) +
                 (asked.keys ? ", and accepts the keys in " + asked.folder : ""));
      return;
    case stream::ProbeEnd::kOtherVersion:
      out.error(
          kVersions,
          asked.named + " speaks another protocol: " + probe.text.substr(0, probe.text.find(';')),
          kSameVersion);
      return;
    case stream::ProbeEnd::kUnreachable:
      out.error(kCoordinatorSubject, asked.named + " cannot be reached: " + probe.text, no_way_remedy(asked));
      return;
    case stream::ProbeEnd::kSilent:
      out.error(
          kCoordinatorSubject,
          asked.named + " is connected, but gave no answer within " + within + ": " + probe.text,
          "its process is stopped or overloaded: look at its log and state (ps -o stat); the "
          "flag --timeout waits longer");
      return;
    case stream::ProbeEnd::kNonsense:
      out.error(kCoordinatorSubject, asked.named + " gave an answer that is none: " + probe.text,
                kSameVersion);
      return;
    case stream::ProbeEnd::kWrongRole:
    case stream::ProbeEnd::kNoHandshake:
    case stream::ProbeEnd::kKeyDenied:
      report_keys(asked, probe, out);
  }
}

void ask(const Patient& patient, const Asked& asked, Findings& out) {
  report(patient, asked,
         stream::probe_coordinator(asked.endpoint, asked.keys, Clock::now() + patient.patience),
         out);
}

void ask_over_tcp(const Patient& patient, const std::string& at, const std::string& folder,
                  keys::Role role, Findings& out) {
  Asked asked{"tcp://" + at, "the coordinator at " + at, {}, folder};
  if (auto ring = keys::KeyRing::load(folder, role)) {
    asked.keys = std::make_shared<const keys::KeyRing>(std::move(*ring));
    ask(patient, asked, out);
    return;
  }
  // The check of the keys has said why. Whether anybody is there can be told without.
  const auto probe = stream::probe_coordinator(asked.endpoint, {}, Clock::now() + patient.patience);
  if (probe.end == stream::ProbeEnd::kUnreachable) {
    report(patient, asked, probe, out);
  } else {
    out.note(kCoordinatorSubject, "somebody listens at " + at + ", who was not asked as " +
                           std::string(keys::role_name(role)) +
                           ": there are no keys for that here");
  }
}

/// Whether that process sees another /dev/shm than this one.
bool has_other_shm(long pid) {
  struct stat ours {};
  struct stat its {};
  const std::string path = "/proc/" + std::to_string(pid) + "/root" + staging::kShmDirectory;
  return ::stat(staging::kShmDirectory, &ours) == 0 && ::stat(path.c_str(), &its) == 0 &&
         ours.st_dev != its.st_dev;
}

void ask_on_host(const Patient& patient, Findings& out) {
  const auto announced = stream::read_announcement(patient.place);
  if (!announced) {
    if (announced.status().code() == Code::kNotFound) {
      out.note(
          kCoordinatorSubject,
          "no trainer has announced itself in " + patient.place + "; workers wait for one",
          "start the trainer; if one runs, give both sides the same job, policy and directory");
    } else {
      out.refused(kCoordinatorSubject, announced.status(),
                  "remove that file if no trainer runs there, and restart the trainer");
    }
    return;
  }
  const std::string named =
      "the coordinator of " + patient.place + " (pid " + std::to_string(announced->pid) + ")";
  const auto state = stream::look_at_place(patient.place);
  if (state && !state->is_held) {
    out.error(kCoordinatorSubject,
              named +
                  " is dead: it left its announcement, and workers try in vain to reach "
                  "it",
              "start the trainer again; weightcast doctor --clean removes what is left");
    return;
  }
  if (announced->protocol != protocol::kProtocolVersion) {
    out.error(kVersions,
              named + " announces protocol version " + std::to_string(announced->protocol) +
                  ", this library speaks " + std::to_string(protocol::kProtocolVersion),
              kSameVersion);
    return;
  }
  if (has_other_shm(announced->pid)) {
    out.warning(
        kCoordinatorSubject, named + " has another /dev/shm: engines here cannot map its slots",
        "share it between the containers (docker run --ipc=container:NAME, or one emptyDir on "
        "/dev/shm), or transport = tcp");
  }
  ask(patient, {announced->endpoint, named, {}, {}}, out);
}

}  // namespace

void check_coordinator(const Patient& patient, Findings& out) {
  bool is_here = false;
  if (patient.worker && !patient.worker->coordinator.empty()) {
    ask_over_tcp(patient, patient.worker->coordinator, patient.worker->keys, keys::Role::kEngine,
                 out);
  } else if (patient.worker) {
    is_here = true;
  }
  if (patient.trainer && !patient.trainer->coordinator.empty()) {
    ask_over_tcp(patient, patient.trainer->coordinator, patient.trainer->keys, keys::Role::kTrainer,
                 out);
  } else if (patient.trainer) {
    is_here = true;
  }
  if (is_here && !patient.place.empty()) ask_on_host(patient, out);
}

}  // namespace weightcast::doctor
