#include "cli/tree.hpp"

#include <CLI/CLI.hpp>
#include <sstream>

namespace weightcast::cli {
namespace {

/// Of "{trainer,worker,both}" in an option's type.
std::vector<std::string> choices_of(const std::string& type) {
  std::vector<std::string> choices;
  const auto begin = type.find('{');
  const auto end = type.find('}');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return choices;
  std::istringstream words(type.substr(begin + 1, end - begin - 1));
  for (std::string word; std::getline(words, word, ',');) choices.push_back(word);
  return choices;
}

OptionEntry entry_of(const CLI::Option& option) {
  OptionEntry entry;
  for (const std::string& name : option.get_snames()) entry.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) entry.names.push_back("--" + name);
  const std::string type = option.get_type_name();
  entry.choices = choices_of(type);
  if (!option.nonpositional()) {
    entry.argument = option.get_name(true);
  } else if (option.get_items_expected_max() > 0) {
    entry.argument = type.substr(0, type.find(':'));
  }
  entry.meaning = option.get_description();
  entry.default_value = option.get_default_str();
  entry.is_required = option.get_required();
  return entry;
}

void list(const CLI::App& app, const std::vector<std::string>& path,
          std::vector<CommandEntry>& out) {
  CommandEntry entry;
  entry.path = path;
  entry.meaning = app.get_description();
  entry.footer = app.get_footer();
  for (const CLI::Option* option : app.get_options()) {
    (option->nonpositional() ? entry.options : entry.arguments).push_back(entry_of(*option));
  }
  const auto subcommands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* subcommand : subcommands)
    entry.subcommands.push_back(subcommand->get_name());
  out.push_back(std::move(entry));
  for (const CLI::App* subcommand : subcommands) {
    std::vector<std::string> its = path;
    its.push_back(subcommand->get_name());
    list(*subcommand, its, out);
  }
}

}  // namespace

std::vector<CommandEntry> list_commands(const CLI::App& application) {
  std::vector<CommandEntry> all;
  list(application, {}, all);
  return all;
}

std::string joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) text += (i == 0 ? "" : between) + words[i];
  return text;
}

}  // namespace weightcast::cli
