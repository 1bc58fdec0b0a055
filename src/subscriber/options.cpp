#include "subscriber/options.hpp"

#include <unistd.h>

#include <atomic>
#include <string>

#include "config/check.hpp"

namespace weightcast::subscriber {

Status complete_options(SubscriberOptions& options) {
  if (options.name.empty()) {
    static std::atomic<std::uint32_t> count{0};
    options.name = "worker-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
  }
  return config::check(config::WorkerSettings(options), {});
}

}  // namespace weightcast::subscriber
