// What stands in the way of a job on this host: shared memory, limits, leftovers, keys, transports,
// the coordinator; each with its remedy. `weightcast doctor` prints it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <weightcast/config.hpp>
#include <weightcast/export.hpp>
#include <weightcast/types.hpp>

namespace weightcast {

enum class Severity {
  kOk,       ///< looked at, and as it should be
  kNote,     ///< worth knowing; nothing to do
  kWarning,  ///< works, but not as it could, or not for every policy
  kError     ///< a job with this configuration will not work here
};

/// "ok", "note", "warning" or "error".
WEIGHTCAST_API std::string_view severity_name(Severity severity) noexcept;

struct Finding {
  Severity severity = Severity::kOk;
  std::string subject;  ///< "shared memory", "limits", "leftovers", "keys", "coordinator", ...
  std::string found;    ///< what there is, with numbers
  std::string remedy;   ///< the command to type or the key to set; empty: nothing to do
};

struct DoctorOptions {
  ConfigSources sources;           ///< as configure() gets them
  bool trainer = true;             ///< look as a rank of the trainer
  bool worker = true;              ///< look as a rollout worker
  std::uint64_t policy_bytes = 0;  ///< size of the policy that shall be published; 0: unknown
  bool clean = false;              ///< remove what dead owners left and nobody holds
  Duration patience = std::chrono::seconds(2);  ///< longest wait for a coordinator's answer
};

/// Looks, in a fixed order, and goes on past what is wrong. Joins no job; a coordinator that it
/// asks counts one refused message. Makes nothing, and removes nothing but with `clean`. Sets this
/// process's log level where the key `log` says one, as configure() does.
/// Blocks for `patience` for each coordinator that the configuration names, for the resolver of
/// names, and for as long as loading CUDA and NCCL takes. Thread safety: as configure().
WEIGHTCAST_API std::vector<Finding> diagnose(const DoctorOptions& options);

/// What this build of the library is and what it finds on this machine.
struct BuildInfo {
  std::string library;         ///< as library_version()
  std::uint32_t protocol = 0;  ///< trainer and workers need the same number
  std::string cuda;            ///< how many devices, or why there are none
  std::string nccl;            ///< the version that was loaded, or why there is none
};

/// Loads CUDA and NCCL where they are there. Thread safety: any thread.
WEIGHTCAST_API BuildInfo build_info();

}  // namespace weightcast
