// weightcast completion SHELL: a script by which a shell completes the command. It is made from the
// command line's own description, so what is added there is completed, too.
#include <CLI/CLI.hpp>
#include <memory>
#include <ostream>

#include "cli/command.hpp"
#include "cli/completion_scripts.hpp"

namespace weightcast::cli {

Command add_completion(CLI::App& application) {
  CLI::App* app = application.add_subcommand(
      "completion", "Print a script by which a shell completes this command");
  app->footer(
      "bash: eval \"$(weightcast completion bash)\" in ~/.bashrc\n"
      "zsh:  eval \"$(weightcast completion zsh)\" in ~/.zshrc, after compinit\n"
      "fish: weightcast completion fish >~/.config/fish/completions/weightcast.fish");
  const auto shell = std::make_shared<std::string>();
  app->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  return {app, [shell, root = &application](const Context& context) {
            const std::vector<CommandEntry> commands = list_commands(*root);
            context.out << (*shell == "bash"  ? bash_completion(commands)
                            : *shell == "zsh" ? zsh_completion(commands)
                                              : fish_completion(commands));
            context.out.flush();
            return context.out ? 0 : 1;
          }};
}

}  // namespace weightcast::cli
