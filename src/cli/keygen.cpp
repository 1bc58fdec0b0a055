// weightcast keygen: makes a folder of keys, and says what is in it and where it goes. No secret is
// printed.
#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include <weightcast/keys.hpp>

#include "cli/command.hpp"

namespace weightcast::cli {
namespace {

int keygen(const std::string& directory, std::ostream& out, std::ostream& err) {
  if (const Status status = make_keys(directory); !status) {
    err << "weightcast keygen: " << status.message() << "\n";
    return 1;
  }
  out << "Made new keys in " << directory
      << " (readable by you alone):\n"
         "  trainer.secret    SECRET: for hosts with trainer ranks, and nobody else\n"
         "  engine.secret     SECRET: for hosts with engines, and nobody else\n"
         "  trainer.public    engine.public      by which each side knows the other\n"
         "  trainer.allowed   engine.allowed     public keys that count as that role, one a line\n"
         "\n"
         "Copy the folder to every host of the job, over a channel that you trust (scp -p), "
         "without\n"
         "engine.secret where no engine runs and without trainer.secret where no trainer rank "
         "runs.\n"
         "Secret files keep mode 0600, and nobody else may write to the folder. Then name it on "
         "each\n"
         "host by option `keys` of the trainer (with `listen` on rank 0) and of the engines (with\n"
         "`coordinator`).\n";
  out.flush();
  if (out) return 0;
  err << "weightcast keygen: the keys are made, but standard output cannot be written to\n";
  return 1;
}

}  // namespace

Command add_keygen(CLI::App& application) {
  CLI::App* app = application.add_subcommand(
      "keygen", "Make the keys by which the members of a job on several hosts know each other");
  const auto directory = std::make_shared<std::string>();
  app->add_option("--directory", *directory, "The folder to make; it must not exist, or be empty")
      ->type_name("DIRECTORY")
      ->required();
  return {app, [directory](const Context& context) {
            return keygen(*directory, context.out, context.err);
          }};
}

}  // namespace weightcast::cli
