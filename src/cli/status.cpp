// weightcast status: asks a job's coordinator what it knows, and shows it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <ostream>
#include <thread>
#include <utility>

#include <weightcast/config.hpp>
#include <weightcast/job_status.hpp>

#include "cli/command.hpp"
#include "cli/status_json.hpp"
#include "cli/status_table.hpp"

namespace weightcast::cli {
namespace {

struct StatusLine {
  std::vector<std::pair<std::string, std::string>> keys;  ///< of the configuration, and their values
  bool json = false;
  bool is_watched = false;
  double watch = 1;           ///< seconds
  double timeout = 2;         ///< seconds
  std::uint64_t looks = 0;    ///< 0: without end
  std::optional<std::uint64_t> expect;
};

Duration seconds(double value) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
}

std::string time_of_day() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::localtime_r(&now, &parts);
  char text[16] = "";
  std::strftime(text, sizeof text, "%H:%M:%S", &parts);
  return text;
}

Result<JobStatusOptions> whom(const StatusLine& line, const Context& context) {
  ConfigSources sources{context.flags, {}};
  for (const auto& [key, value] : line.keys) {
    if (!value.empty()) sources.flags.push_back(key + "=" + value);
  }
  auto options = configure(SubscriberOptions{}, sources);
  if (!options) return options.status();
  return job_status_options(*options);
}

/// Whether as many engines serve the newest committed version as were expected.
Status as_expected(const StatusLine& line, const JobStatus& status) {
  if (!line.expect) return Status::ok();
  const auto serving = static_cast<std::uint64_t>(
      std::count_if(status.engines.begin(), status.engines.end(), [&](const auto& engine) {
        return status.committed != 0 && engine.serving.run == status.run &&
               engine.serving.number >= status.committed && engine.state != EngineState::kDirty;
      }));
  if (serving >= *line.expect) return Status::ok();
  return {Code::kUnavailable, "expected " + std::to_string(*line.expect) +
                                  " engines that serve the newest committed version, found " +
                                  std::to_string(serving)};
}

class Show {
 public:
  Show(const StatusLine& line, const Context& context)
      : line_(line), context_(context), redraws_(line.is_watched && ::isatty(1) == 1) {}

  void show(const JobStatus& status) {
    if (line_.json) {
      context_.out << status_json(status, line_.is_watched ? -1 : 2) << "\n";
    } else if (!line_.is_watched) {
      context_.out << status_table(status);
    } else if (redraws_) {
      context_.out << "\x1b[H\x1b[2J" << time_of_day() << "  (Ctrl-C ends it)\n"
                   << status_table(status);
    } else {
      context_.out << time_of_day() << " " << status_line(status) << "\n";
    }
    context_.out.flush();
  }

  void show(const Status& failure) {
    if (line_.json) context_.out << failure_json(failure, line_.is_watched ? -1 : 2) << "\n";
    if (redraws_ && !line_.json) context_.out << "\x1b[H\x1b[2J" << time_of_day() << "\n";
    context_.out.flush();
    context_.err << "weightcast status: " << failure.message() << "\n";
  }

 private:
  const StatusLine& line_;
  const Context& context_;
  const bool redraws_;
};

int run(const StatusLine& line, const Context& context) {
  const auto options = whom(line, context);
  if (!options) {
    context.err << "weightcast status: " << options.status().message() << "\n";
    return 2;
  }
  Show show(line, context);
  int code = 0;
  for (std::uint64_t look = 1;; ++look) {
    const auto began = Clock::now();
    const auto status = job_status(*options, began + seconds(line.timeout));
    if (status) show.show(*status);
    const Status outcome = status ? as_expected(line, *status) : status.status();
    if (!status) show.show(outcome);
    if (status && !outcome) context.err << "weightcast status: " << outcome.message() << "\n";
    code = outcome ? 0 : 1;
    if (!context.out) return 1;
    if (!line.is_watched || look == line.looks) return code;
    std::this_thread::sleep_until(began + seconds(line.watch));
  }
}

}  // namespace

Command add_status(CLI::App& application) {
  CLI::App* app = application.add_subcommand(
      "status", "Show who takes part in a job, which version each serves, and what is waited for");
  const auto line = std::make_shared<StatusLine>();
  line->keys = {{"job", ""}, {"policy", ""}, {"directory", ""}, {"coordinator", ""}, {"keys", ""}};
  const char* const meanings[] = {"Name of the job", "Name of the policy",
                                  "The meeting place of this host, where it is not the default one",
                                  "host:port of a trainer on another host; needs --keys",
                                  "Folder of keys; either role's secret key will do"};
  for (std::size_t i = 0; i < line->keys.size(); ++i) {
    app->add_option("--" + line->keys[i].first, line->keys[i].second, meanings[i]);
  }
  app->add_flag("--json", line->json, "As JSON; with --watch one line each time");
  auto* watch = app->add_option("--watch", line->watch,
                                "Look again every SECONDS (1 where none are given), until Ctrl-C")
                    ->expected(0, 1)
                    ->check(CLI::Range(0.1, 86400.0))
                    ->type_name("SECONDS");
  app->add_option("--looks", line->looks, "With --watch: end after so many")->needs(watch);
  app->add_option("--timeout", line->timeout, "Seconds to wait for an answer (default 2)")
      ->check(CLI::Range(0.01, 3600.0));
  app->add_option("--expect", line->expect,
                  "Exit with 1 where fewer engines serve the newest committed version");
  return {app,
          [line, watch](const Context& context) {
            line->is_watched = watch->count() != 0;
            return run(*line, context);
          },
          true};
}

}  // namespace weightcast::cli
