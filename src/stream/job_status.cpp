#include <weightcast/job_status.hpp>

#include <filesystem>
#include <utility>

#include <weightcast/subscriber.hpp>

#include "base/config.hpp"
#include "protocol/message.hpp"
#include "stream/job_keys.hpp"
#include "stream/observer.hpp"
#include "stream/place_leftovers.hpp"
#include "stream/rendezvous.hpp"

namespace weightcast {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostNamed = 8;

/// "job 'a', policy 'p'; job 'b', policy 'p'", of those whose trainer runs.
std::string jobs_in(const std::string& base) {
  std::string text;
  std::size_t found = 0;
  for (const fs::path place : stream::list_places(base)) {
    const auto state = stream::look_at_place(place);
    if (!state || !state->is_held || ++found > kMostNamed) continue;
    text += (text.empty() ? "" : "; ") + ("job '" + place.parent_path().filename().string()) +
            "', policy '" + place.filename().string() + "'";
  }
  return found <= kMostNamed ? text : text + "; and " + std::to_string(found - kMostNamed) + " more";
}

Status nobody_here(const JobStatusOptions& options, const std::string& place) {
  const fs::path base = fs::path(place).parent_path().parent_path();
  const std::string others = jobs_in(base);
  return {Code::kNotFound,
          "no trainer publishes policy '" + options.policy + "' of job '" + options.job + "' in '" +
              base.string() + "'; " +
              (others.empty() ? "nothing else runs there either: start the trainer, or name its "
                                "directory (option `directory`), or its host (option `coordinator`)"
                              : "running there: " + others)};
}

/// An engine's key where the folder has one, else a trainer's.
Result<stream::Keys> observer_keys(const JobStatusOptions& options) {
  std::error_code error;
  const fs::path folder = options.keys;
  const bool only_trainer = !options.keys.empty() &&
                            !fs::exists(folder / "engine.secret", error) &&
                            fs::exists(folder / "trainer.secret", error);
  return stream::keys_of_job({{}, options.keys, {}, options.coordinator},
                             only_trainer ? keys::Role::kTrainer : keys::Role::kEngine);
}

Result<JobStatus> ask(const JobStatusOptions& options, Deadline deadline) {
  if (!options.coordinator.empty()) {
    auto keys = observer_keys(options);
    if (!keys) return keys.status();
    return stream::observe({"tcp://" + options.coordinator, {}, 0, std::move(*keys)}, deadline);
  }
  const auto place = stream::meeting_place_path(options.directory,
                                          base::environment("XDG_RUNTIME_DIR").value_or(""),
                                          options.job, options.policy);
  if (!place) return place.status();
  const auto announced = stream::read_announcement(*place);
  if (!announced && announced.status().code() == Code::kNotFound) {
    return nobody_here(options, *place);
  }
  if (!announced) return announced.status();
  if (announced->protocol != protocol::kProtocolVersion) {
    return Status(Code::kMismatch,
                  "the trainer (process " + std::to_string(announced->pid) +
                      ") speaks protocol version " + std::to_string(announced->protocol) +
                      ", this command " + std::to_string(protocol::kProtocolVersion) +
                      "; use the one that belongs to the trainer's weightcast");
  }
  return stream::observe({announced->endpoint, *place, announced->pid, {}}, deadline);
}

}  // namespace

JobStatusOptions job_status_options(const SubscriberOptions& options) {
  return {.job = options.job,
          .policy = options.policy,
          .directory = options.directory,
          .coordinator = options.coordinator,
          .keys = options.keys};
}

Result<JobStatus> job_status(const JobStatusOptions& options, Deadline deadline) {
  try {
    return ask(options, deadline);
  } catch (const std::exception& error) {
    return Status(Code::kExhausted, std::string("cannot ask the coordinator: ") + error.what());
  }
}

}  // namespace weightcast
