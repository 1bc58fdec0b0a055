// The folders of keys: there, private, whole, and of which set.
#include "keys/key_ring.hpp"

#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <set>

#include "doctor/findings.hpp"

namespace weightcast::doctor {
namespace {

constexpr const char* kKeysSubject = "keys";

bool exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

/// Short, of the two public keys: equal where two hosts have the same set. Not a secret, and no
/// protection: an aid to compare by eye.
std::string fingerprint(const keys::KeyRing& ring) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const keys::Role role : {keys::Role::kTrainer, keys::Role::kEngine}) {
    for (const char c : ring.server_key(role)) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  }
  std::array<char, 24> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
  return text.data();
}

void check_folder(const std::string& folder, bool trainer, bool worker, Findings& out) {
  std::string roles;
  std::string set;
  for (const keys::Role role : {keys::Role::kTrainer, keys::Role::kEngine}) {
    const bool is_wanted = role == keys::Role::kTrainer ? trainer : worker;
    const std::string name(keys::role_name(role));
    // A host with one side alone has that side's secret alone; with both asked for, one may do.
    const bool is_there = exists(folder + "/" + name + ".secret");
    if (!is_wanted || (!is_there && trainer && worker && exists(folder))) continue;
    const auto ring = keys::KeyRing::load(folder, role);
    if (!ring) {
      out.refused(
          kKeysSubject, ring.status(),
          "copy the folder that weightcast keygen made again, or make a new one for all hosts");
      return;
    }
    roles += (roles.empty() ? "" : " and ") + name;
    set = fingerprint(*ring);
  }
  if (roles.empty()) {
    out.error(kKeysSubject, folder + " holds neither trainer.secret nor engine.secret",
              "copy the folder that weightcast keygen made, with the secret of the side that runs "
              "here");
    return;
  }
  out.ok(kKeysSubject, folder + " holds what a " + roles + " needs; set " + set +
                       ", which must be the same on every host of the job");
}

}  // namespace

void check_keys(const Patient& patient, Findings& out) {
  std::set<std::string> folders;
  if (patient.trainer) folders.insert(patient.trainer->keys);
  if (patient.worker) folders.insert(patient.worker->keys);
  folders.erase("");
  for (const std::string& folder : folders) {
    check_folder(folder, patient.trainer && patient.trainer->keys == folder,
                 patient.worker && patient.worker->keys == folder, out);
  }
  if (!folders.empty() || patient.place.empty()) return;
  const std::string own = patient.place.substr(0, patient.place.rfind('/')) + "/.keys";
  if (!exists(own)) {
    out.ok(kKeysSubject,
           "none configured: the members of this host make their own where they need some");
    return;
  }
  check_folder(own, patient.trainer.has_value(), patient.worker.has_value(), out);
}

}  // namespace weightcast::doctor
