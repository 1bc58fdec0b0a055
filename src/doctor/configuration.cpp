#include "base/config.hpp"
#include "doctor/findings.hpp"
#include "stream/rendezvous.hpp"

namespace weightcast::doctor {
namespace {

constexpr const char* kConfigurationSubject = "configuration";

void refuse(const std::string& side, const Status& status, Findings& out) {
  out.error(kConfigurationSubject, side + ": " + status.message(),
            "correct the value there; weightcast config shows all keys with their values and where "
            "these come from");
}

void read_both(const DoctorOptions& options, Patient& patient, Findings& out) {
  Status of_trainer;
  if (options.trainer) {
    if (auto its = configure(PublisherOptions{}, options.sources)) {
      patient.trainer = std::move(*its);
    } else {
      of_trainer = its.status();
      refuse("trainer", of_trainer, out);
    }
  }
  if (options.worker) {
    if (auto its = configure(SubscriberOptions{}, options.sources)) {
      patient.worker = std::move(*its);
    } else if (its.status().message() != of_trainer.message()) {
      // Each side checks the other's keys, too: said once is enough.
      refuse("worker", its.status(), out);
    }
  }
}

/// Of keys that both sides have and that must be equal for them to meet.
void compare(const Patient& patient, Findings& out) {
  if (!patient.trainer || !patient.worker) return;
  const auto both = [&](const char* key, const std::string& trainer, const std::string& worker,
                        const char* why) {
    if (trainer == worker) return;
    out.error(
        kConfigurationSubject,
        std::string("the trainer has ") + key + " = \"" + trainer + "\", the worker \"" + worker +
            "\": " + why,
        std::string("set ") + key + " before the sections of the file, or alike on both sides");
  };
  both("job", patient.trainer->job, patient.worker->job, "they do not meet");
  both("policy", patient.trainer->policy, patient.worker->policy, "they do not meet");
  both("directory", patient.trainer->directory, patient.worker->directory,
       "on one host they do not meet");
}

}  // namespace

Patient examine_configuration(const DoctorOptions& options, Findings& out) {
  Patient patient;
  patient.policy_bytes = options.policy_bytes;
  patient.patience = options.patience;
  patient.clean = options.clean;
  const std::size_t before = out.all().size();
  read_both(options, patient, out);
  compare(patient, out);
  std::string job = PublisherOptions{}.job;
  std::string policy = PublisherOptions{}.policy;
  std::string directory;
  if (patient.trainer) {
    job = patient.trainer->job;
    policy = patient.trainer->policy;
    directory = patient.trainer->directory;
  } else if (patient.worker) {
    job = patient.worker->job;
    policy = patient.worker->policy;
    directory = patient.worker->directory;
  }
  patient.policy = policy;
  const auto place = stream::meeting_place_path(
      directory, base::environment("XDG_RUNTIME_DIR").value_or(""), job, policy);
  if (!place) {
    out.refused("meeting place", place.status(),
                "set the key directory (WEIGHTCAST_DIR) to a short absolute path");
  } else {
    patient.place = *place;
    patient.base = place->substr(0, place->size() - policy.size() - job.size() - 2);
  }
  if (out.all().size() == before) {
    out.ok(kConfigurationSubject, "job " + job + ", policy " + policy + "; every key is known and allowed");
  }
  return patient;
}

}  // namespace weightcast::doctor
