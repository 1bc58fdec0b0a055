#include "subscriber/options.hpp"

#include <unistd.h>

#include <atomic>

#include "base/config.hpp"

namespace weightcast {

Result<SubscriberOptions> with_environment(SubscriberOptions options) {
  if (Status status = base::apply_log_level(); !status) return status;
  if (auto job = base::environment("WEIGHTCAST_JOB")) options.job = *job;
  if (auto policy = base::environment("WEIGHTCAST_POLICY")) options.policy = *policy;
  if (auto directory = base::environment("WEIGHTCAST_DIR")) options.directory = *directory;
  if (auto name = base::environment("WEIGHTCAST_NAME")) options.name = *name;
  if (auto activation = base::environment("WEIGHTCAST_ACTIVATION")) {
    if (*activation == "auto") {
      options.activation = Activation::kAuto;
    } else if (*activation == "view") {
      options.activation = Activation::kView;
    } else if (*activation == "flip") {
      options.activation = Activation::kFlip;
    } else {
      return Status(Code::kInvalid, "environment variable WEIGHTCAST_ACTIVATION=\"" + *activation +
                                        "\": expected auto, view or flip");
    }
  }
  return options;
}

namespace subscriber {

Status complete_options(SubscriberOptions& options) {
  if (options.name.empty()) {
    static std::atomic<std::uint32_t> count{0};
    options.name = "worker-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
  }
  if (Status status = base::check_name("job", options.job); !status) return status;
  if (Status status = base::check_name("policy", options.policy); !status) return status;
  if (Status status = base::check_name("name", options.name); !status) return status;
  if (options.copy_threads < 1 || options.copy_threads > 64) {
    return Status(Code::kInvalid, "option copy_threads = " + std::to_string(options.copy_threads) +
                                      ": expected 1 to 64");
  }
  if (options.heartbeat < std::chrono::milliseconds(1) ||
      options.member_timeout < 3 * options.heartbeat) {
    return Status(Code::kInvalid,
                  "options heartbeat and member_timeout: expected a heartbeat of at least 1 ms and "
                  "a member_timeout of at least three heartbeats");
  }
  return Status::ok();
}

}  // namespace subscriber
}  // namespace weightcast
