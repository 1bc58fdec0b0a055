#include <weightcast/doctor.hpp>
#include <weightcast/version.hpp>

#include "doctor/findings.hpp"
#include "protocol/message.hpp"

namespace weightcast {

std::string_view severity_name(Severity severity) noexcept {
  switch (severity) {
    case Severity::kOk:
      return "ok";
    case Severity::kNote:
      return "note";
    case Severity::kWarning:
      return "warning";
    case Severity::kError:
      return "error";
  }
  return "unknown";
}

std::vector<Finding> diagnose(const DoctorOptions& options) {
  doctor::Findings out;
  out.ok("versions", std::string("weightcast ") + library_version() + ", protocol " +
                         std::to_string(protocol::kProtocolVersion));
  const doctor::Patient patient = doctor::examine_configuration(options, out);
  doctor::check_host(out);
  doctor::check_leftovers(patient,
                          out);  // with `clean` before the room in shared memory is measured
  doctor::check_shared_memory(patient, out);
  doctor::check_limits(patient, out);
  doctor::check_place(patient, out);
  doctor::check_keys(patient, out);
  doctor::check_transports(patient, out);
  doctor::check_coordinator(patient, out);
  return std::move(out).take();
}

BuildInfo build_info() {
  BuildInfo info = doctor::describe_machine();
  info.library = library_version();
  info.protocol = protocol::kProtocolVersion;
  return info;
}

}  // namespace weightcast
