// weightcast man: the manual page, made from the command line's own description. docs/man holds a
// copy of it, which is installed; a test compares the two.
#include <CLI/CLI.hpp>
#include <ostream>

#include "cli/command.hpp"
#include "cli/tree.hpp"

namespace weightcast::cli {
namespace {

/// As roff takes it: no control lines, and dashes and backslashes as they are.
std::string roff(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool begins = i == 0 || text[i - 1] == '\n';
    if (begins && (text[i] == '.' || text[i] == '\'')) out += "\\&";
    if (text[i] == '\\') {
      out += "\\e";
    } else if (text[i] == '-') {
      out += "\\-";
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string bold(const std::string& text) { return "\\fB" + roff(text) + "\\fR"; }
std::string italic(const std::string& text) { return "\\fI" + roff(text) + "\\fR"; }

std::string name_of(const CommandEntry& command) {
  return command.path.empty() ? "weightcast" : "weightcast " + joined(command.path, " ");
}

std::string argument_of(const OptionEntry& option) {
  if (option.choices.empty()) return italic(option.argument);
  std::string text;
  for (const std::string& choice : option.choices) text += (text.empty() ? "" : "|") + bold(choice);
  return text;
}

void put_option(const OptionEntry& option, std::ostream& out) {
  out << ".TP\n";
  for (std::size_t i = 0; i < option.names.size(); ++i) {
    out << (i == 0 ? "" : ", ") << bold(option.names[i]);
  }
  if (!option.argument.empty()) out << (option.names.empty() ? "" : " ") << argument_of(option);
  out << "\n" << roff(option.meaning) << ".";
  if (option.is_required) out << " Required.";
  if (!option.default_value.empty()) out << " Default: " << roff(option.default_value) << ".";
  out << "\n";
}

void put_command(const CommandEntry& command, std::ostream& out) {
  out << ".SS " << bold(name_of(command));
  for (const OptionEntry& argument : command.arguments) out << " " << italic(argument.argument);
  out << "\n" << roff(command.meaning) << ".\n";
  for (const OptionEntry& option : command.options) put_option(option, out);
  for (const OptionEntry& argument : command.arguments) put_option(argument, out);
  if (!command.footer.empty()) out << ".PP\n.nf\n" << roff(command.footer) << "\n.fi\n";
}

void put_page(const std::vector<CommandEntry>& commands, std::ostream& out) {
  out << ".\\\" Made by `weightcast man`.\n"
         ".TH WEIGHTCAST 1 \"\" weightcast \"User Commands\"\n"
         ".SH NAME\nweightcast \\- keeps rollout workers on the RL trainer's latest policy\n"
         ".SH SYNOPSIS\n";
  for (const std::string& name : commands.front().subcommands) {
    out << ".B weightcast " << roff(name) << "\n.RI [ option \" ...]\"\n.br\n";
  }
  out << ".SH DESCRIPTION\n"
         "The command looks after jobs in which trainers and rollout workers use the weightcast "
         "library.\n"
         ".SH OPTIONS\n";
  for (const OptionEntry& option : commands.front().options) put_option(option, out);
  out << ".SH COMMANDS\n";
  for (const CommandEntry& command : commands) {
    if (!command.path.empty()) put_command(command, out);
  }
  out << ".SH EXIT STATUS\n"
         "0; 1 where the command failed or found an error; 2 for a wrong command line.\n"
         ".SH ENVIRONMENT\n"
         ".TP\n"
      << bold("WEIGHTCAST_KEY")
      << "\n"
         "Each key of the configuration in capitals, as "
      << bold("WEIGHTCAST_SLOTS") << "; " << bold("weightcast config")
      << " shows all of them.\n"
         ".TP\n"
      << bold("WEIGHTCAST_NCCL_LIBRARY")
      << "\n"
         "The NCCL library to load.\n"
         ".SH FILES\n"
         ".TP\n"
      << italic("$XDG_RUNTIME_DIR/weightcast") << ", else " << italic("/tmp/weightcast-UID")
      << "\n"
         "Where the members of a host meet.\n"
         ".TP\n"
      << italic("/dev/shm/weightcast.UID.JOB.POLICY.*")
      << "\n"
         "The versions in shared memory.\n";
}

}  // namespace

Command add_man(CLI::App& application) {
  CLI::App* app = application.add_subcommand("man", "Print the manual page");
  app->footer("weightcast man | man -l -");
  return {app, [root = &application](const Context& context) {
            put_page(list_commands(*root), context.out);
            context.out.flush();
            return context.out ? 0 : 1;
          }};
}

}  // namespace weightcast::cli
