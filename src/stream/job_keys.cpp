#include "stream/job_keys.hpp"

#include <utility>

#include "base/host.hpp"

namespace weightcast::stream {
namespace {

Status keys_needed(const std::string& option, const std::string& value) {
  return {Code::kInvalid,
          "option " + option + " = \"" + value +
              "\" lets other hosts take part, which needs keys: run `weightcast keygen --directory "
              "DIR` once, copy that folder to every host of the job (engines need no "
              "trainer.secret, trainers no engine.secret), and name it there by option `keys`"};
}

}  // namespace

Result<Keys> keys_of_job(const KeyChoice& choice, keys::Role role) {
  if (!choice.folder.empty()) {
    auto ring = keys::KeyRing::load(choice.folder, role);
    if (!ring) return Status(ring.status().code(), "option keys: " + ring.status().message());
    return std::make_shared<const keys::KeyRing>(std::move(*ring));
  }
  if (!choice.coordinator.empty()) return keys_needed("coordinator", choice.coordinator);
  if (!choice.listen.empty()) {
    const auto at = base::parse_host_port("listen", choice.listen);
    if (!at) return at.status();
    if (!base::is_loopback(at->host)) return keys_needed("listen", choice.listen);
  }
  const std::string job = choice.place.substr(0, choice.place.rfind('/'));
  auto ring = keys::KeyRing::load_or_make(job + "/.keys", role);
  if (!ring) return ring.status();
  return std::make_shared<const keys::KeyRing>(std::move(*ring));
}

Result<Keys> control_keys(const KeyChoice& choice, keys::Role role) {
  if (choice.listen.empty() && choice.coordinator.empty()) return Keys();
  return keys_of_job(choice, role);
}

}  // namespace weightcast::stream
