// The command `weightcast`. Exits with 0; 1 where the command failed (the reason is on standard
// error); 2 for a wrong line.
#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <weightcast/config.hpp>
#include <weightcast/doctor.hpp>

#include "cli/command.hpp"

namespace {

using namespace weightcast::cli;

/// All subcommands, in the order in which the help lists them.
std::vector<Command> add_commands(CLI::App& application) {
  return {
      add_status(application), add_doctor(application),     add_config(application),
      add_keygen(application), add_completion(application), add_man(application),
  };
}

std::string version_text() {
  const weightcast::BuildInfo info = weightcast::build_info();
  return "weightcast " + info.library + "\nprotocol " + std::to_string(info.protocol) +
         "\ncuda: " + info.cuda + "\nnccl: " + info.nccl;
}

int run(int argc, char** argv) {
  CLI::App application{"Keeps rollout workers on the RL trainer's latest policy", "weightcast"};
  application.set_version_flag("--version", version_text,
                               "Print the versions of library and protocol, CUDA and NCCL");
  application.require_subcommand(1);
  const std::vector<Command> commands = add_commands(application);

  const Context context{weightcast::take_flags(argc, argv), std::cout, std::cerr};
  try {
    application.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return application.exit(error) == 0 ? 0 : 2;
  }
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    if (!context.flags.empty() && !command.takes_flags) {
      std::cerr << "weightcast " << command.app->get_name() << ": it has no use for --weightcast."
                << context.flags.front() << "\n";
      return 2;
    }
    return command.run(context);
  }
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "weightcast: " << error.what() << "\n";
    return 1;
  }
}
