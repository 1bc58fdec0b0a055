#pragma once

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <CLI/CLI.hpp>

namespace rl_loop {

/// A flag of whole seconds, with its default in the help.
inline CLI::Option* add_seconds(CLI::App& app, const std::string& name,
                                std::chrono::seconds& value, const std::string& text) {
  return app
      .add_option_function<std::int64_t>(
          name, [&value](std::int64_t count) { value = std::chrono::seconds(count); },
          text + " [" + std::to_string(value.count()) + "]")
      ->check(CLI::PositiveNumber);
}

/// On --help or an error prints what CLI11 has to say and exits the process.
inline void parse_or_exit(CLI::App& app, int argc, char** argv) {
  app.option_defaults()->always_capture_default();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
}

}  // namespace rl_loop
