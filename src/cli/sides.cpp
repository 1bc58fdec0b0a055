#include "cli/sides.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>

namespace weightcast::cli {

void add_side(CLI::App& app, std::string& side) {
  app.add_option(
         "--side", side,
         "As which side to read the configuration; auto: as both, but as worker alone where "
         "the key coordinator names another host")
      ->check(CLI::IsMember({"auto", "trainer", "worker", "both"}))
      ->capture_default_str();
}

Sides sides_of(const std::string& side, const ConfigSources& sources) {
  if (side == "trainer") return {true, false};
  if (side == "worker") return {false, true};
  if (side == "both") return {};
  // A configuration that is wrong is reported for both.
  const auto worker = describe_config(SubscriberOptions{}, sources);
  const auto trainer = configure(PublisherOptions{}, sources);
  if (!worker || trainer) return {};
  const bool is_abroad = std::any_of(worker->begin(), worker->end(), [](const ConfigKey& key) {
    return key.key == "coordinator" && !key.value.empty();
  });
  return {!is_abroad, true};
}

}  // namespace weightcast::cli
