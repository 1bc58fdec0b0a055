// All three scripts find out which subcommand the words so far have chosen (" config check"), then
// offer the values of the option before the cursor, or else that subcommand's own words.
#include "cli/completion_scripts.hpp"

#include <algorithm>

namespace weightcast::cli {
namespace {

/// " config check"; "" for weightcast itself.
std::string chosen(const CommandEntry& command) {
  std::string text;
  for (const std::string& word : command.path) text += " " + word;
  return text;
}

bool is_of_files(const OptionEntry& option) {
  return option.argument == "FILE" || option.argument == "DIRECTORY" || option.argument == "TEXT";
}

/// In single quotes, for bash and zsh.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string fish_quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text)
    out += c == '\'' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
  return out + "'";
}

std::string all_chosen(const std::vector<CommandEntry>& commands, const std::string& between) {
  std::vector<std::string> all;
  for (const CommandEntry& command : commands) {
    if (!command.path.empty()) all.push_back(quoted(chosen(command)));
  }
  return joined(all, between);
}

/// "' doctor --side' | ' doctor -s'", for a case of bash and zsh.
std::string pattern_of(const CommandEntry& command, const OptionEntry& option) {
  std::vector<std::string> all;
  for (const std::string& name : option.names) all.push_back(quoted(chosen(command) + " " + name));
  return joined(all, " | ");
}

std::vector<std::string> words_of(const CommandEntry& command) {
  std::vector<std::string> words = command.subcommands;
  for (const OptionEntry& option : command.options) {
    words.insert(words.end(), option.names.begin(), option.names.end());
  }
  for (const OptionEntry& argument : command.arguments) {
    words.insert(words.end(), argument.choices.begin(), argument.choices.end());
  }
  return words;
}

bool takes_files(const CommandEntry& command) {
  return std::any_of(command.arguments.begin(), command.arguments.end(), is_of_files);
}

}  // namespace

std::string bash_completion(const std::vector<CommandEntry>& commands) {
  std::string text =
      "# Completion of weightcast for bash: eval \"$(weightcast completion bash)\"\n"
      "_weightcast() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} chosen= words= i\n"
      "  COMPREPLY=()\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    case \"$chosen ${COMP_WORDS[i]}\" in\n"
      "      " +
      all_chosen(commands, " | ") +
      ") chosen+=\" ${COMP_WORDS[i]}\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case \"$chosen $before\" in\n";
  for (const CommandEntry& command : commands) {
    for (const OptionEntry& option : command.options) {
      if (option.argument.empty()) continue;
      const std::string how =
          is_of_files(option) && option.choices.empty()
              ? "compgen -f -- \"$word\""
              : "compgen -W " + quoted(joined(option.choices, " ")) + " -- \"$word\"";
      text += "    " + pattern_of(command, option) + ") mapfile -t COMPREPLY < <(" + how +
              "); return ;;\n";
    }
  }
  text += "  esac\n  case \"$chosen\" in\n";
  for (const CommandEntry& command : commands) {
    text += "    " + quoted(chosen(command)) + ") words=" + quoted(joined(words_of(command), " "));
    if (takes_files(command)) text += "; mapfile -t COMPREPLY < <(compgen -f -- \"$word\")";
    text += " ;;\n";
  }
  return text +
         "  esac\n"
         "  while IFS= read -r i; do COMPREPLY+=(\"$i\"); done < <(compgen -W \"$words\" -- "
         "\"$word\")\n"
         "}\n"
         "complete -o filenames -F _weightcast weightcast\n";
}

std::string zsh_completion(const std::vector<CommandEntry>& commands) {
  std::string text =
      "#compdef weightcast\n"
      "# Completion of weightcast for zsh: eval \"$(weightcast completion zsh)\"\n"
      "_weightcast() {\n"
      "  local chosen= i\n"
      "  for ((i = 2; i < CURRENT; i++)); do\n"
      "    case \"$chosen $words[i]\" in\n"
      "      (" +
      all_chosen(commands, " | ") +
      ") chosen+=\" $words[i]\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case \"$chosen $words[CURRENT-1]\" in\n";
  for (const CommandEntry& command : commands) {
    for (const OptionEntry& option : command.options) {
      if (option.argument.empty()) continue;
      const std::string how = !option.choices.empty()
                                  ? "compadd -- " + joined(option.choices, " ") + "; "
                              : is_of_files(option) ? std::string("_files; ")
                                                    : std::string();
      text += "    (" + pattern_of(command, option) + ") " + how + "return ;;\n";
    }
  }
  text += "  esac\n  case \"$chosen\" in\n";
  for (const CommandEntry& command : commands) {
    text += "    (" + quoted(chosen(command)) + ") compadd -- " + joined(words_of(command), " ");
    if (takes_files(command)) text += "; _files";
    text += " ;;\n";
  }
  return text +
         "  esac\n"
         "}\n"
         "if [[ $funcstack[1] == _weightcast ]]; then _weightcast \"$@\"; else compdef _weightcast "
         "weightcast; fi\n";
}

std::string fish_completion(const std::vector<CommandEntry>& commands) {
  std::string text =
      "# Completion of weightcast for fish.\n"
      "function __weightcast_at\n"
      "  set -l chosen ''\n"
      "  for word in (commandline -opc)[2..-1]\n"
      "    switch \"$chosen $word\"\n"
      "      case " +
      all_chosen(commands, " ") +
      "\n"
      "        set chosen \"$chosen $word\"\n"
      "    end\n"
      "  end\n"
      "  test \"$chosen\" = \"$argv[1]\"\n"
      "end\n"
      "complete -c weightcast -f\n";
  for (const CommandEntry& command : commands) {
    const std::string at =
        "complete -c weightcast -n \"__weightcast_at " + quoted(chosen(command)) + "\"";
    for (const std::string& name : command.subcommands) {
      std::vector<std::string> path = command.path;
      path.push_back(name);
      const auto its = std::find_if(commands.begin(), commands.end(),
                                    [&](const CommandEntry& it) { return it.path == path; });
      text += at + " -a " + name + " -d " + fish_quoted(its->meaning) + "\n";
    }
    for (const OptionEntry& option : command.options) {
      text += at;
      for (const std::string& name : option.names) {
        text += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      if (!option.choices.empty()) {
        text += " -x -a " + quoted(joined(option.choices, " "));
      } else if (!option.argument.empty()) {
        text += is_of_files(option) ? " -r -F" : " -x";
      }
      text += " -d " + fish_quoted(option.meaning) + "\n";
    }
    for (const OptionEntry& argument : command.arguments) {
      text += at +
              (argument.choices.empty() ? std::string(" -F")
                                        : " -a " + quoted(joined(argument.choices, " "))) +
              "\n";
    }
  }
  return text;
}

}  // namespace weightcast::cli
