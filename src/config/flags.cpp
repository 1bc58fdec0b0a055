#include <algorithm>
#include <string_view>

#include <weightcast/config.hpp>

#include "config/keys.hpp"

namespace weightcast {
namespace {

constexpr std::string_view kPrefix = "--weightcast.";

bool is_truth(std::string_view name) {
  const auto* of_trainer = config::find_key<config::TrainerSettings>(name);
  const auto* of_worker = config::find_key<config::WorkerSettings>(name);
  return (of_trainer != nullptr && of_trainer->type == config::Truth::kType) ||
         (of_worker != nullptr && of_worker->type == config::Truth::kType);
}

/// Whether the argument that follows a key is its value, and not the program's.
bool is_value_of(std::string_view name, std::string_view argument) {
  if (is_truth(name)) return config::parse_truth(argument).has_value();
  return !argument.starts_with("--");
}

}  // namespace

std::vector<std::string> take_flags(int& argc, char** argv) {
  std::vector<std::string> flags;
  int kept = 0;
  int at = 0;
  for (; at < argc; ++at) {
    const std::string_view argument = argv[at];
    if (argument == "--") break;
    if (at == 0 || !argument.starts_with(kPrefix)) {
      argv[kept++] = argv[at];
      continue;
    }
    std::string flag(argument.substr(kPrefix.size()));
    const std::size_t equals = std::min(flag.find('='), flag.size());
    std::replace(flag.begin(), flag.begin() + static_cast<std::ptrdiff_t>(equals), '-', '_');
    if (equals == flag.size() && at + 1 < argc && is_value_of(flag, argv[at + 1])) {
      flag += "=" + std::string(argv[++at]);
    }
    flags.push_back(std::move(flag));
  }
  for (; at < argc; ++at) argv[kept++] = argv[at];
  if (kept < argc) argv[kept] = nullptr;
  argc = kept;
  return flags;
}

}  // namespace weightcast
