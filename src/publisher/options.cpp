#include "publisher/options.hpp"

#include "base/config.hpp"

namespace weightcast {

Result<PublisherOptions> with_environment(PublisherOptions options) {
  if (Status status = base::apply_log_level(); !status) return status;
  if (auto job = base::environment("WEIGHTCAST_JOB")) options.job = *job;
  if (auto policy = base::environment("WEIGHTCAST_POLICY")) options.policy = *policy;
  if (auto directory = base::environment("WEIGHTCAST_DIR")) options.directory = *directory;
  if (auto mode = base::environment("WEIGHTCAST_MODE"); mode && *mode != "broadcast") {
    return Status(Code::kInvalid, "environment variable WEIGHTCAST_MODE=\"" + *mode +
                                      "\": expected broadcast");
  }
  auto stall = base::environment_number("WEIGHTCAST_STALL_MS", 0, 3'600'000);
  if (!stall) return stall.status();
  if (*stall) options.stall = std::chrono::milliseconds(**stall);

  constexpr std::uint64_t kMaxRanks = 1'000'000;
  auto world_size = base::environment_number("WORLD_SIZE", 1, kMaxRanks);
  if (!world_size) return world_size.status();
  auto rank = base::environment_number("RANK", 0, kMaxRanks - 1);
  if (!rank) return rank.status();
  if (rank->has_value() != world_size->has_value()) {
    return Status(Code::kInvalid,
                  "one of the environment variables RANK and WORLD_SIZE is set without the other; "
                  "torchrun sets both");
  }
  if (*rank) {
    options.rank = static_cast<std::uint32_t>(**rank);
    options.world_size = static_cast<std::uint32_t>(**world_size);
  }
  if (auto run_id = base::environment("TORCHELASTIC_RUN_ID")) {
    options.launch =
        *run_id + "." + base::environment("TORCHELASTIC_RESTART_COUNT").value_or("0");
  }
  return options;
}

namespace publisher {
namespace {
Status refuse(const char* option, const std::string& value, const char* allowed) {
  return Status(Code::kInvalid,
                "option " + std::string(option) + " = " + value + ": expected " + allowed);
}
}  // namespace

Status check_options(const PublisherOptions& options) {
  if (Status status = base::check_name("job", options.job); !status) return status;
  if (Status status = base::check_name("policy", options.policy); !status) return status;
  if (options.world_size == 0 || options.rank >= options.world_size) {
    return refuse("rank", std::to_string(options.rank),
                  ("a rank below world_size = " + std::to_string(options.world_size)).c_str());
  }
  if (options.slots < 2 || options.slots > 16) {
    return refuse("slots", std::to_string(options.slots), "2 to 16");
  }
  if (options.copy_threads < 1 || options.copy_threads > 64) {
    return refuse("copy_threads", std::to_string(options.copy_threads), "1 to 64");
  }
  if (options.launch.size() > 128) {
    return refuse("launch", "\"" + options.launch + "\"", "at most 128 characters");
  }
  if (options.dtype && !dtype_is_floating(*options.dtype)) {
    return refuse("dtype", std::string(dtype_name(*options.dtype)), "f64, f32, f16 or bf16");
  }
  const auto ms = [](Duration duration) {
    return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count()) +
           " ms";
  };
  if (options.stall < Duration::zero()) return refuse("stall", ms(options.stall), "0 or more");
  if (options.heartbeat < std::chrono::milliseconds(1)) {
    return refuse("heartbeat", ms(options.heartbeat), "at least 1 ms");
  }
  if (options.member_timeout < 3 * options.heartbeat) {
    return refuse("member_timeout", ms(options.member_timeout), "at least three heartbeats");
  }
  if (options.attempt_timeout < options.heartbeat) {
    return refuse("attempt_timeout", ms(options.attempt_timeout), "at least one heartbeat");
  }
  return Status::ok();
}

}  // namespace publisher
}  // namespace weightcast
