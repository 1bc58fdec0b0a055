// The known word that somebody may have meant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace weightcast::config {

/// The known word with the fewest insertions, deletions, replacements and swaps of neighbours away;
/// empty where none is near enough to be meant.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace weightcast::config
