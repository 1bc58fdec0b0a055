#include "publisher/options.hpp"

#include "config/check.hpp"

namespace weightcast::publisher {

Status check_options(const PublisherOptions& options) {
  return config::check(config::TrainerSettings(options), {});
}

}  // namespace weightcast::publisher
