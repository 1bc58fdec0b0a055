// weightcast doctor: prints what the library finds on this host, each with its remedy.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include <weightcast/doctor.hpp>

#include "cli/command.hpp"
#include "cli/sides.hpp"
#include "cli/units.hpp"

namespace weightcast::cli {
namespace {

struct DoctorLine {
  std::string side = "auto";
  std::string file;
  std::uint64_t policy_bytes = 0;
  double timeout_s = 2;
  bool is_json = false;
  bool clean = false;
};

void print_json(const std::vector<Finding>& findings, std::ostream& out) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  int errors = 0;
  int warnings = 0;
  for (const Finding& its : findings) {
    list.push_back({{"severity", severity_name(its.severity)},
                    {"subject", its.subject},
                    {"found", its.found},
                    {"remedy", its.remedy}});
    errors += its.severity == Severity::kError ? 1 : 0;
    warnings += its.severity == Severity::kWarning ? 1 : 0;
  }
  const nlohmann::ordered_json all = {
      {"errors", errors}, {"warnings", warnings}, {"findings", list}};
  // A path of the file system may be no UTF-8.
  out << all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
}

void print_findings(const std::vector<Finding>& findings, std::ostream& out) {
  int errors = 0;
  int warnings = 0;
  for (const Finding& its : findings) {
    std::string severity(severity_name(its.severity));
    severity.resize(9, ' ');
    out << severity << its.subject << ": " << its.found << "\n";
    if (!its.remedy.empty()) out << "         -> " << its.remedy << "\n";
    errors += its.severity == Severity::kError ? 1 : 0;
    warnings += its.severity == Severity::kWarning ? 1 : 0;
  }
  out << errors << (errors == 1 ? " error, " : " errors, ") << warnings
      << (warnings == 1 ? " warning" : " warnings") << "\n";
}

int doctor(const DoctorLine& line, const Context& context) {
  DoctorOptions options;
  options.sources = {context.flags, line.file};
  const Sides sides = sides_of(line.side, options.sources);
  options.trainer = sides.trainer;
  options.worker = sides.worker;
  options.policy_bytes = line.policy_bytes;
  options.clean = line.clean;
  options.patience =
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(line.timeout_s));
  const std::vector<Finding> findings = diagnose(options);
  (line.is_json ? print_json : print_findings)(findings, context.out);
  context.out.flush();
  const bool is_bad = std::any_of(findings.begin(), findings.end(), [](const Finding& its) {
    return its.severity == Severity::kError;
  });
  return is_bad || !context.out ? 1 : 0;
}

}  // namespace

Command add_doctor(CLI::App& application) {
  CLI::App* app = application.add_subcommand(
      "doctor", "Find what stands in a job's way on this host, and say what to do about it");
  app->footer(
      "Exits with 1 where it finds an error. Takes --weightcast.KEY=VALUE, as programs do.");
  const auto line = std::make_shared<DoctorLine>();
  add_side(*app, line->side);
  app->add_option("--config", line->file, "The TOML file that the job reads")->type_name("FILE");
  app->add_option("--policy-bytes", line->policy_bytes,
                  "Size of the policy: does it fit into shared memory? As 512MiB or 1GB")
      ->transform(size_option())
      ->type_name("SIZE");
  app->add_option("--timeout", line->timeout_s, "Seconds to wait for a coordinator's answer")
      ->check(CLI::Range(0.1, 60.0))
      ->type_name("SECONDS")
      ->capture_default_str();
  app->add_flag(
      "--clean", line->clean,
      "Remove what dead owners left in shared memory and meeting places, and nobody holds");
  app->add_flag("--json", line->is_json, "Print one JSON object");
  return {app, [line](const Context& context) { return doctor(*line, context); }, true};
}

}  // namespace weightcast::cli
