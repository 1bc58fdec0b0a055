// Where the checks write down what they find, and what they look at.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <weightcast/doctor.hpp>

#include "staging/memory_room.hpp"

namespace weightcast::doctor {

class Findings {
 public:
  void ok(std::string subject, std::string found) {
    add(Severity::kOk, std::move(subject), std::move(found), "");
  }
  void note(std::string subject, std::string found, std::string remedy = "") {
    add(Severity::kNote, std::move(subject), std::move(found), std::move(remedy));
  }
  void warning(std::string subject, std::string found, std::string remedy) {
    add(Severity::kWarning, std::move(subject), std::move(found), std::move(remedy));
  }
  void error(std::string subject, std::string found, std::string remedy) {
    add(Severity::kError, std::move(subject), std::move(found), std::move(remedy));
  }
  /// An error of a Status, whose message mostly says both: what follows its first semicolon, or the
  /// colon before what to do, is the remedy. @param otherwise the remedy where it says none
  void refused(std::string subject, const Status& status, std::string otherwise);

  std::vector<Finding> take() && { return std::move(all_); }
  const std::vector<Finding>& all() const noexcept { return all_; }

 private:
  void add(Severity severity, std::string subject, std::string found, std::string remedy) {
    all_.push_back({severity, std::move(subject), std::move(found), std::move(remedy)});
  }

  std::vector<Finding> all_;
};

/// What is looked at: the options of the sides that are asked for, where they are valid; and what
/// both have in common.
struct Patient {
  std::optional<PublisherOptions> trainer;
  std::optional<SubscriberOptions> worker;
  std::string base;   ///< the meeting places' directory
  std::string place;  ///< the job's; empty where the configuration gives none
  std::string policy;
  std::uint64_t policy_bytes = 0;
  Duration patience{};
  bool clean = false;
};

/// "23.5 GiB", "64 MiB", "4096 bytes".
std::string about(std::uint64_t bytes);

// The checks, in the order in which they are made.
Patient examine_configuration(const DoctorOptions& options, Findings& out);
void check_host(Findings& out);
void check_limits(const Patient& patient, Findings& out);
void check_leftovers(const Patient& patient, Findings& out);
void check_place(const Patient& patient, Findings& out);
void check_keys(const Patient& patient, Findings& out);
void check_transports(const Patient& patient, Findings& out);
void check_coordinator(const Patient& patient, Findings& out);

/// The mount that shared memory lies on.
struct ShmMount {
  std::string type;     ///< "tmpfs"; empty: not known
  std::string options;  ///< "rw,nosuid,nodev,size=65536k"
  bool is_writable = true;
};
/// The one of /dev/shm in the text of /proc/self/mounts, the last that covers it.
ShmMount find_shm_mount(const std::string& mounts);
/// Pure: what the sizes mean for this configuration.
void judge_shared_memory(const Patient& patient, const staging::MemoryRoom& room,
                         const ShmMount& mount, Findings& out);
void check_shared_memory(const Patient& patient, Findings& out);

/// A limit of this process, with what it is compared with.
struct Limit {
  const char* name;
  std::uint64_t soft = 0;  ///< ~0: unlimited
  std::uint64_t hard = 0;
};
struct Limits {
  Limit files{"nofile"};
  Limit file_size{"fsize"};
  Limit address_space{"as"};
  Limit locked{"memlock"};
  Limit processes{"nproc"};
};
/// Pure. `has_device`: memory will be pinned.
void judge_limits(const Patient& patient, const Limits& limits, bool has_device, Findings& out);

/// CUDA and NCCL as they are found here; library and protocol are left empty.
BuildInfo describe_machine();

/// What one slot takes of shared memory, at least: of a configured size, or for the policy's bytes.
std::uint64_t slot_bytes_of(const Patient& patient);
/// What the trainer's ranks on this host take of it together.
std::uint64_t shared_bytes_of(const Patient& patient);

}  // namespace weightcast::doctor
