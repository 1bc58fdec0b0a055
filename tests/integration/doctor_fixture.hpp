// `weightcast doctor` in a place of the test's own, and what it finds there.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "integration/command_run.hpp"
#include "support/private_place.hpp"
#include "support/shm_fixture.hpp"

namespace weightcast::test {

struct Report {
  int code = -1;
  std::string text;
  nlohmann::json findings = nlohmann::json::array();

  /// Whether there is a finding of that severity and subject whose text and remedy have these
  /// parts.
  bool has(const std::string& severity, const std::string& subject,
           const std::vector<std::string>& parts) const {
    for (const auto& its : findings) {
      const std::string all =
          its.at("found").get<std::string>() + " -> " + its.at("remedy").get<std::string>();
      bool fits = its.at("severity") == severity && its.at("subject") == subject;
      for (const std::string& part : parts) fits = fits && all.find(part) != std::string::npos;
      if (fits) return true;
    }
    return false;
  }
};

inline Report read_report(const Ended& ended) {
  Report report{ended.code, ended.out + ended.err, {}};
  const auto all = nlohmann::json::parse(ended.out, nullptr, false);
  EXPECT_TRUE(all.is_object()) << ended.out << ended.err;
  if (!all.is_object()) return report;
  report.findings = all.at("findings");
  int errors = 0;
  for (const auto& its : report.findings) {
    const bool is_bad = its.at("severity") == "error" || its.at("severity") == "warning";
    EXPECT_NE(its.at("found"), "") << its;
    if (is_bad) {
      EXPECT_NE(its.at("remedy"), "") << "no remedy: " << its;
    }
    errors += its.at("severity") == "error" ? 1 : 0;
  }
  EXPECT_EQ(all.at("errors"), errors);
  EXPECT_EQ(report.code, errors > 0 ? 1 : 0) << report.text;
  return report;
}

/// Arguments of a doctor that looks at that job.
inline std::vector<std::string> doctor_line(const std::string& base, const std::string& job,
                                            const std::vector<std::string>& more) {
  std::vector<std::string> line = {WEIGHTCAST_COMMAND, "doctor", "--json",
                                   "--weightcast.directory=" + base, "--weightcast.job=" + job};
  line.insert(line.end(), more.begin(), more.end());
  return line;
}

class Doctor : public ShmTest {
 protected:
  Report doctor(const std::vector<std::string>& more = {},
                const std::function<void()>& meanwhile = {}) const {
    return read_report(
        run_program(doctor_line(base_.path(), job, more), output_.path(), {}, meanwhile));
  }

  PrivatePlace base_;
  PrivatePlace output_;
};

}  // namespace weightcast::test
