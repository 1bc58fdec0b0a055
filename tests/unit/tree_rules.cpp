#include "unit/tree_rules.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string_view>

namespace tree_rules {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

const std::array kFolders = {"include", "src",  "plugin",   "proto",   "tests", "examples",
                             "bench",   "docs", "bindings", "scripts", "packaging", ".ci"};

// A room of src/, and the rooms that it may include besides itself (docs/architecture.md).
const std::map<std::string, Names> kRooms = {
    {"base", {}},
    {"config", {"base"}},
    {"metrics", {"base", "config"}},
    {"driver", {"base"}},
    {"plan", {"base"}},
    {"codec", {"base", "driver"}},
    {"staging", {"base", "driver"}},
    {"protocol", {"base", "plan", "proto"}},
    {"keys", {"base"}},
    {"transport", {"base", "driver", "plan", "codec", "staging", "keys", "proto"}},
    {"stream",
     {"base", "driver", "plan", "codec", "staging", "keys", "proto", "protocol", "transport"}},
    {"publisher",
     {"base", "config", "metrics", "driver", "plan", "codec", "staging", "keys", "proto", "protocol",
      "transport", "stream"}},
    {"subscriber",
     {"base", "config", "metrics", "driver", "plan", "codec", "staging", "keys", "proto", "protocol",
      "transport", "stream"}},
    {"doctor",
     {"base", "config", "driver", "plan", "codec", "staging", "keys", "proto", "protocol",
      "transport", "stream"}},
    {"cli", {}},
};

// A library of somebody else's, by how its includes begin, and the rooms that may use it.
const std::map<std::string, Names> kLibraries = {
    {"boost/", {"metrics", "staging"}},
    {"prometheus/", {"metrics"}},
    {"spdlog/", {"base"}},
    {"toml.hpp", {"config"}},
    {"CLI/", {"cli"}},
    {"nlohmann/", {"cli"}},
    {"zmq", {"keys", "stream", "transport"}},
    {"cuda", {"driver"}},
    {"nccl", {"driver"}},
    {"google/protobuf/", {"protocol", "transport"}},
};

const std::array kTorchPrefixes = {"torch/", "ATen/", "c10/", "caffe2/"};

struct Include {
  int line = 0;
  std::string target;
  bool is_quoted = false;
};

bool starts_with_any(std::string_view text, const auto& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](std::string_view prefix) { return text.starts_with(prefix); });
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> lines_of(const fs::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// All regular files below root/folder, sorted, as paths relative to root.
std::vector<fs::path> files_below(const fs::path& root, const fs::path& folder) {
  std::vector<fs::path> files;
  if (!fs::is_directory(root / folder)) return files;
  for (auto it = fs::recursive_directory_iterator(root / folder);
       it != fs::recursive_directory_iterator(); ++it) {
    if (it->is_directory() && it->path().filename() == "__pycache__")
      it.disable_recursion_pending();
    if (it->is_regular_file()) files.push_back(fs::relative(it->path(), root));
  }
  std::sort(files.begin(), files.end());
  return files;
}

bool is_cpp(const fs::path& path) {
  static const Names kExtensions = {".hpp", ".cpp", ".h", ".cc", ".cu", ".cuh"};
  return kExtensions.contains(path.extension().string());
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  return first == std::string_view::npos ? std::string_view() : text.substr(first);
}

std::vector<Include> includes_of(const fs::path& path) {
  // Through a macro nothing is found; that has no place here.
  constexpr std::string_view kWord = "include";
  std::vector<Include> includes;
  int number = 0;
  for (const std::string& line : lines_of(path)) {
    ++number;
    std::string_view rest = trimmed(line);
    if (!rest.starts_with('#')) continue;
    rest = trimmed(rest.substr(1));
    if (!rest.starts_with(kWord)) continue;
    rest = trimmed(rest.substr(kWord.size()));
    if (!rest.starts_with('"') && !rest.starts_with('<')) continue;
    const auto end = rest.find_first_of("\">", 1);
    if (end == std::string_view::npos) continue;
    includes.push_back({number, std::string(rest.substr(1, end - 1)), rest.front() == '"'});
  }
  return includes;
}

bool is_standard(const std::string& target) {
  return target.find_first_of("./") == std::string::npos;
}

/// Of the CUDA toolkit or of NCCL.
bool is_of_cuda(const std::string& target) {
  return target.starts_with("cuda") || target.starts_with("nccl");
}

bool is_system(const std::string& target) {
  static const std::array kPrefixes = {"sys/", "linux/", "netinet/", "arpa/"};
  if (starts_with_any(target, kPrefixes)) return true;
  return target.ends_with(".h") && target.find('/') == std::string::npos &&
         !target.starts_with("zmq") && !target.starts_with("xxhash") && !is_of_cuda(target);
}

/// Why this include is not allowed in that file, if it is not. `parts` are the file's path.
using Reason = std::optional<std::string>;

Reason check_public(const Include& include, const fs::path& root) {
  if (include.target.starts_with("weightcast/") && !include.is_quoted) {
    if (fs::exists(root / "include" / include.target)) return {};
    return "a public header includes only public headers of include/weightcast/";
  }
  if (is_standard(include.target) && !include.is_quoted) return {};
  return "a public header includes the standard library and <weightcast/...> alone";
}

Reason check_library(const Include& include, const std::string& room, const fs::path& file) {
  for (const auto& [prefix, rooms] : kLibraries) {
    if (!include.target.starts_with(prefix)) continue;
    if (!rooms.contains(room)) return "'" + prefix + "' does not belong in src/" + room;
    if (prefix == "google/protobuf/" && !file.filename().string().starts_with("wire")) {
      return "protobuf is used in the wire files of src/protocol alone";
    }
    return {};
  }
  return "a library that the rules do not know: add it to tests/unit/tree_rules.cpp with the "
         "rooms that may use it, and to docs/dependencies.md";
}

Reason check_room(const Include& include, const std::string& room, const fs::path& file,
                  const fs::path& root) {
  const std::string& target = include.target;
  if (starts_with_any(target, kTorchPrefixes)) return "torch belongs in plugin/torch";
  if (target.starts_with("weightcast/")) return check_public(include, root);
  if (!include.is_quoted) {
    if (is_standard(target) || is_system(target)) return {};
    return check_library(include, room, file);
  }
  const std::string first = fs::path(target).begin()->string();
  if (room == "cli" && first != "cli") return "src/cli uses the public API alone";
  if (first == room) return {};
  if (first == "proto") {
    if (room == "protocol" && !file.filename().string().starts_with("wire")) {
      return "generated messages are used in the wire files of src/protocol alone";
    }
    if (kRooms.at(room).contains("proto")) return {};
  }
  if (!kRooms.contains(first) && first != "proto") {
    return "write it relative to src/, as in \"base/clock.hpp\"";
  }
  if (kRooms.at(room).contains(first)) return {};
  return "src/" + room + " may not include src/" + first;
}

Reason check_plugin(const Include& include, const fs::path& root) {
  const std::string& target = include.target;
  if (target == "torch/torch.h")
    return "torch/torch.h costs a minute and a gigabyte: name narrow headers";
  if (starts_with_any(target, kTorchPrefixes)) return {};
  if (!include.is_quoted && (is_standard(target) || is_system(target))) return {};
  if (target.starts_with("weightcast/") && !include.is_quoted) {
    for (const char* place : {"include", "plugin/torch", "plugin/torch/include"}) {
      if (fs::exists(root / place / target)) return {};
    }
    return "no such public header or plugin header";
  }
  return "the plugin includes torch, the system's headers and <weightcast/...> alone";
}

Reason check_file_include(const Include& include, const fs::path& file, const fs::path& root) {
  auto part = file.begin();
  const std::string top = (part++)->string();
  // Whoever needs a device goes through the call tables, so that fakes can stand in for them.
  if (!include.is_quoted && is_of_cuda(include.target) && !(top == "src" && *part == "driver")) {
    return "headers of CUDA and NCCL belong in src/driver";
  }
  if (top == "include") return check_public(include, root);
  if (top == "plugin") return check_plugin(include, root);
  if (top == "src") {
    const std::string room = part == file.end() ? "" : part->string();
    if (!kRooms.contains(room)) return "this file is in no room of src/ that the rules know";
    return check_room(include, room, file, root);
  }
  // Examples are users: they see the API, the plugin and what they bring along.
  if (top == "examples" && include.is_quoted &&
      kRooms.contains(fs::path(include.target).begin()->string())) {
    return "an example uses the public API alone";
  }
  return {};
}

std::string quoted_names_in_meson(const fs::path& root, const fs::path& folder) {
  std::string text;
  for (const fs::path& file : files_below(root, folder)) {
    if (file.filename() == "meson.build") text += read_text(root / file);
  }
  return text;
}

/// Whether a meson.build text names the file, alone or at the end of a relative path.
bool is_named(const std::string& text, const fs::path& file) {
  const std::string name = file.filename().string();
  return text.find("'" + name + "'") != std::string::npos ||
         text.find("/" + name + "'") != std::string::npos;
}

/// The first of the words in the line that is not a part of a longer one, or "".
std::string first_word_of(std::string_view line, const auto& words) {
  const auto is_letter = [&](std::size_t at) {
    return at < line.size() &&
           (std::isalnum(static_cast<unsigned char>(line[at])) != 0 || line[at] == '_');
  };
  for (const std::string_view word : words) {
    for (auto at = line.find(word); at != std::string_view::npos; at = line.find(word, at + 1)) {
      const bool begins = !is_letter(at) || at == 0 || !is_letter(at - 1);
      const std::size_t end = at + word.size();
      const bool ends = !is_letter(end - 1) || !is_letter(end);
      if (begins && ends) return std::string(word);
    }
  }
  return {};
}

}  // namespace

std::size_t count_cpp_files(const std::filesystem::path& root) {
  std::size_t count = 0;
  for (const char* folder : kFolders) {
    const auto files = files_below(root, folder);
    count += static_cast<std::size_t>(std::count_if(files.begin(), files.end(), is_cpp));
  }
  return count;
}

Violations check_includes(const std::filesystem::path& root) {
  Violations found;
  for (const char* folder : kFolders) {
    for (const fs::path& file : files_below(root, folder)) {
      if (!is_cpp(file)) continue;
      for (const Include& include : includes_of(root / file)) {
        if (const Reason reason = check_file_include(include, file, root)) {
          found.push_back(file.string() + ":" + std::to_string(include.line) + ": includes " +
                          include.target + ": " + *reason);
        }
      }
    }
  }
  return found;
}

Violations check_listed(const std::filesystem::path& root) {
  Violations found;
  for (const char* folder : {"src", "include", "plugin", "tests", "examples", "bench"}) {
    const std::string meson = quoted_names_in_meson(root, folder);
    const std::string top = folder;
    for (const fs::path& file : files_below(root, folder)) {
      // Installed headers and everything that is compiled.
      const bool is_header = top == "include" || top == "plugin";
      const std::string extension = file.extension().string();
      const bool is_compiled = extension == ".cpp" || extension == ".cu";
      const bool is_wanted = is_compiled || (is_header && extension == ".hpp");
      if (is_wanted && !is_named(meson, file)) {
        found.push_back(file.string() + ": named in no meson.build below " + top +
                        "/: it is not built, run or installed; add it there");
      }
    }
  }
  return found;
}

Violations check_words(const std::filesystem::path& root) {
  // Split, so that this file does not hold the words itself.
  // clang-format off
  static const std::array<std::string_view, 7> kForbidden = {
      "TO" "DO", "FIX" "ME", "place" "holder", "stu" "b", "for n" "ow", "/wo" "rk/", "/ro" "ot/"};
  static const std::array<std::string_view, 6> kSleeps = {
      "sleep" "_for", "sleep" "_until", "u" "sleep", "nano" "sleep", "time.sl" "eep", "sl" "eep("};
  // clang-format on
  Violations found;
  const auto check_file = [&](const fs::path& file) {
    static const Names kText = {".hpp", ".cpp", ".h",  ".cu",    ".proto", ".py",   ".sh",
                                ".md",  ".txt", ".in", ".build", ".supp",  ".json", ""};
    if (!kText.contains(file.extension().string())) return;
    const bool is_test = *file.begin() == "tests";
    int number = 0;
    for (const std::string& line : lines_of(root / file)) {
      ++number;
      const std::string place = file.string() + ":" + std::to_string(number) + ": ";
      if (const std::string word = first_word_of(line, kForbidden); !word.empty()) {
        found.push_back(place + "'" + word + "': finish it, or say it another way");
      }
      if (const std::string word = first_word_of(line, kSleeps); is_test && !word.empty()) {
        found.push_back(
            place + "'" + word +
            "': tests wait for a condition, with a deadline (poll, condition variable)");
      }
    }
  };
  for (const char* folder : kFolders) {
    for (const fs::path& file : files_below(root, folder)) check_file(file);
  }
  for (const char* file : {"README.md", "CONTRIBUTING.md", "meson.build", "meson_options.txt"}) {
    if (fs::exists(root / file)) check_file(file);
  }
  return found;
}

}  // namespace tree_rules
