#pragma once

#include <string>
#include <vector>

#include "cli/tree.hpp"

namespace weightcast::cli {

// Scripts that define the completion of `weightcast`, to be evaluated by that shell.
std::string bash_completion(const std::vector<CommandEntry>& commands);
std::string zsh_completion(const std::vector<CommandEntry>& commands);
std::string fish_completion(const std::vector<CommandEntry>& commands);

}  // namespace weightcast::cli
