// The rules that hold for the source tree itself: who may include whom, what must be listed in a
// meson.build, which words stay out. Reads files only; the rules are tested on planted trees.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tree_rules {

/// One line per broken rule: "path:line: what is wrong, and what to do". Empty when all is well.
using Violations = std::vector<std::string>;

/// #include lines of include/, src/, plugin/ and of the programs around them.
Violations check_includes(const std::filesystem::path& root);

/// Every test, source and public header is named in a meson.build: nothing is silently left out.
Violations check_listed(const std::filesystem::path& root);

/// Words that have no place in the tree, and waits by sleeping in tests.
Violations check_words(const std::filesystem::path& root);

/// How many C++ files check_includes() looks at; a check that reads none proves nothing.
std::size_t count_cpp_files(const std::filesystem::path& root);

}  // namespace tree_rules
