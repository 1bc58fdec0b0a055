// What main() knows of a subcommand. Each has a file of its own, which adds it to the command line.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace weightcast::cli {

/// What a subcommand is run with.
struct Context {
  std::vector<std::string> flags;  ///< "key=value" of the line's --weightcast.KEY=VALUE
  std::ostream& out;
  std::ostream& err;
};

struct Command {
  CLI::App* app = nullptr;  ///< owned by the application that it was added to
  /// @return the exit code: 0; 1 where it failed, with the reason on `err`; 2 for a wrong line
  std::function<int(const Context&)> run;
  bool takes_flags = false;  ///< --weightcast.KEY=VALUE; where false, main() refuses them
};

// Each adds a subcommand with its options to the application, which lives as long as the result.
Command add_completion(CLI::App& application);
Command add_config(CLI::App& application);
Command add_doctor(CLI::App& application);
Command add_keygen(CLI::App& application);
Command add_man(CLI::App& application);
Command add_status(CLI::App& application);

}  // namespace weightcast::cli
