// As trainer, as worker, or as both: the option of the commands that read a configuration.
#pragma once

#include <string>

#include <weightcast/config.hpp>

namespace CLI {
class App;
}

namespace weightcast::cli {

struct Sides {
  bool trainer = true;
  bool worker = true;
};

void add_side(CLI::App& app, std::string& side);

/// @param side "trainer", "worker", "both" or "auto": worker alone where the worker's key
///   `coordinator` says that the trainer is on another host, else both
Sides sides_of(const std::string& side, const ConfigSources& sources);

}  // namespace weightcast::cli
