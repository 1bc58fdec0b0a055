// docs/logging.md has every event that the sources log, with its levels, and no other.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <string_view>

namespace weightcast {
namespace {

namespace fs = std::filesystem;
using Events = std::map<std::string, std::set<std::string>>;  ///< levels by name

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

void collect(const std::string& text, Events& events) {
  // Each is tried where its first word stands: searching all of the sources takes long where
  // <regex> is not optimized.
  static const std::regex kLog(R"re(\blog\(\s*LogLevel::k(\w+),\s*"(\w+)")re");
  static const std::regex kLine(R"re(log_line\(\s*LogLevel::k(\w+),\s*"event=(\w+))re");
  static const std::regex kNote(R"re(\bnote\(\s*([!\w]+),\s*"(\w+)")re");
  const auto each = [&](std::string_view word, const std::regex& what, auto&& use) {
    for (auto at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
      auto flags = std::regex_constants::match_continuous;
      if (at > 0) flags |= std::regex_constants::match_prev_avail;
      std::smatch found;
      if (std::regex_search(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), found, what, flags)) {
        use(found[1].str(), found[2].str());
      }
    }
  };
  const auto add = [&](const std::string& level, const std::string& name) {
    events[name].insert(lower(level));
  };
  each("log(", kLog, add);
  each("log_line(", kLine, add);
  // The coordinator's: whether it is a warning, else debug.
  each("note(", kNote, [&](const std::string& warning, const std::string& name) {
    if (warning != "false") add("warn", name);
    if (warning != "true") add("debug", name);
  });
}

Events events_of_sources() {
  Events events;
  for (const char* folder : {"/src", "/plugin"}) {
    for (const auto& entry : fs::recursive_directory_iterator(WEIGHTCAST_SOURCE_ROOT + std::string(folder))) {
      const std::string ending = entry.path().extension().string();
      if (ending == ".cpp" || ending == ".hpp") collect(text_of(entry.path()), events);
    }
  }
  return events;
}

/// Rows "| `name` | level, level | meaning | what to do |".
Events events_of_document(const std::string& text) {
  static const std::regex kRow(R"re(\n\| `(\w+)` \| ([a-z, ]+) \| [^|\n]{10,} \| [^|\n]{3,} \|)re");
  static const std::regex kWord("[a-z]+");
  Events events;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), kRow); it != std::sregex_iterator();
       ++it) {
    EXPECT_FALSE(events.contains((*it)[1])) << "twice: " << (*it)[1];
    const std::string levels = (*it)[2];
    for (auto word = std::sregex_iterator(levels.begin(), levels.end(), kWord);
         word != std::sregex_iterator(); ++word) {
      events[(*it)[1]].insert(word->str());
    }
  }
  return events;
}

TEST(LogEventsTest, AreWhatTheDocumentSays) {
  const Events in_sources = events_of_sources();
  const Events in_document = events_of_document(text_of(WEIGHTCAST_SOURCE_ROOT "/docs/logging.md"));
  EXPECT_GE(in_sources.size(), 40u) << "the test finds them";
  for (const auto& [name, levels] : in_sources) {
    const auto row = in_document.find(name);
    if (row == in_document.end()) {
      ADD_FAILURE() << "docs/logging.md has no row for " << name << ", "
                    << testing::PrintToString(levels);
      continue;
    }
    EXPECT_EQ(row->second, levels) << name;
  }
  for (const auto& [name, levels] : in_document) {
    EXPECT_TRUE(in_sources.contains(name)) << "nothing logs " << name << " of docs/logging.md";
  }
}

TEST(LogEventsTest, NoLineIsPutTogetherByHand) {
  for (const auto& entry : fs::recursive_directory_iterator(WEIGHTCAST_SOURCE_ROOT "/src")) {
    const std::string ending = entry.path().extension().string();
    if (ending != ".cpp" && ending != ".hpp") continue;
    if (entry.path().filename().string().starts_with("log")) continue;  // where they are made
    EXPECT_EQ(text_of(entry.path()).find("\"event="), std::string::npos)
        << entry.path() << ": give base::log() the event and its fields: it quotes what needs it";
  }
}

}  // namespace
}  // namespace weightcast
