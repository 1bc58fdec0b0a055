// The command `weightcast`.
//   weightcast keygen --directory DIR   makes the keys of a job on several hosts
// Exits with 0; 1 where the command failed (the reason is on standard error); 2 for a wrong line.
#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <string>

#include <weightcast/version.hpp>

#include "cli/keygen.hpp"

int main(int argc, char** argv) {
  try {
    CLI::App app{"Keeps rollout workers on the RL trainer's latest policy", "weightcast"};
    app.set_version_flag("--version", std::string("weightcast ") + weightcast::library_version());
    app.require_subcommand(1);

    std::string directory;
    CLI::App* keygen = app.add_subcommand(
        "keygen", "Make the keys by which the members of a job on several hosts know each other");
    keygen
        ->add_option("--directory", directory, "The folder to make; it must not exist, or be empty")
        ->required();

    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? 0 : 2;
    }
    return weightcast::cli::keygen(directory, std::cout, std::cerr);
  } catch (const std::exception& error) {
    std::cerr << "weightcast: " << error.what() << "\n";
    return 1;
  }
}
