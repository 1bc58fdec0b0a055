// The command line as a list, for what is made from it: completion and the manual.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace weightcast::cli {

struct OptionEntry {
  std::vector<std::string> names;  ///< "--side", "-h"; none for an argument without a name
  std::string argument;            ///< "FILE", "SIZE"; empty for a flag
  std::string meaning;
  std::string default_value;         ///< empty where none is shown
  std::vector<std::string> choices;  ///< the values that are allowed, where there are few
  bool is_required = false;
};

struct CommandEntry {
  std::vector<std::string> path;  ///< {"config", "check"}; empty: weightcast itself
  std::string meaning;
  std::string footer;
  std::vector<OptionEntry> options;
  std::vector<OptionEntry> arguments;    ///< without a name
  std::vector<std::string> subcommands;  ///< names
};

/// The application first, then its subcommands, each before its own.
std::vector<CommandEntry> list_commands(const CLI::App& application);

std::string joined(const std::vector<std::string>& words, const std::string& between);

}  // namespace weightcast::cli
