#include "config/toml_file.hpp"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

#include <toml.hpp>

namespace weightcast::config {
namespace {

namespace fs = std::filesystem;

// Some forty short lines make a whole file.
constexpr std::size_t kMaxBytes = 64 * 1024;

Status unreadable(const std::string& path, const std::string& why) {
  return Status(Code::kNotFound,
                "configuration file " + path + ": " + why +
                    "; expected a readable TOML file (ConfigSources::file, the flag "
                    "--weightcast.config or WEIGHTCAST_CONFIG names it)");
}

Result<std::string> read_text(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return unreadable(path, error.message());
  // Others, as pipes, could make the reader wait.
  if (!fs::is_regular_file(status)) return unreadable(path, "not a regular file");
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || !file.is_open()) return unreadable(path, "reading it failed");
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMaxBytes) {
    return unreadable(path, "longer than " + std::to_string(kMaxBytes) + " bytes");
  }
  return text;
}

std::string place_of(const std::string& path, const toml::value& value) {
  return path + ":" + std::to_string(value.location().line());
}

/// What the parser says is wrong, without the picture of the line that follows it.
std::string reason_of(const std::exception& error) {
  std::string_view text = error.what();
  text = text.substr(0, text.find('\n'));
  if (text.starts_with("[error] ")) text.remove_prefix(8);
  // "toml::parse_table: ..." names the parser's own function.
  if (text.starts_with("toml::")) {
    if (const auto end = text.find(": "); end != std::string_view::npos)
      text.remove_prefix(end + 2);
  }
  return std::string(text);
}

std::optional<std::string> text_of(const toml::value& value) {
  if (value.is_string()) return value.as_string().str;
  if (value.is_integer()) return std::to_string(value.as_integer());
  if (value.is_boolean()) return std::string(value.as_boolean() ? "true" : "false");
  return std::nullopt;
}

std::optional<Scope> section(const std::string& name) {
  if (name == "trainer") return Scope::kTrainer;
  if (name == "worker") return Scope::kWorker;
  return std::nullopt;
}

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  Status read(const toml::value& root) {
    for (const auto& [name, value] : root.as_table()) {
      const auto scope = section(name);
      if (scope && value.is_table()) {
        for (const auto& [key, inner] : value.as_table()) {
          if (Status s = add(*scope, key, inner); !s) return s;
        }
      } else if (value.is_table()) {
        return Status(Code::kInvalid, "unknown section [" + name + "] (" + place_of(path_, value) +
                                          "): expected [trainer] or [worker]; keys of both stand "
                                          "before them");
      } else if (Status s = add(Scope::kBoth, name, value); !s) {
        return s;
      }
    }
    return Status::ok();
  }

  /// In the file's order: the parser's tables have none.
  std::vector<Assignment> assignments() && {
    std::sort(found_.begin(), found_.end(), [](const Found& a, const Found& b) {
      return std::pair(a.assignment.scope, a.line) < std::pair(b.assignment.scope, b.line);
    });
    std::vector<Assignment> assignments;
    for (Found& its : found_) assignments.push_back(std::move(its.assignment));
    return assignments;
  }

 private:
  struct Found {
    std::size_t line;
    Assignment assignment;
  };

  Status add(Scope scope, const std::string& key, const toml::value& value) {
    const std::string place = place_of(path_, value);
    std::optional<std::string> text = text_of(value);
    if (!text) {
      std::ostringstream type;
      type << value.type();
      return Status(Code::kInvalid,
                    "option " + key + " = a TOML " + type.str() + " (" + place +
                        "): expected a text in quotes, a whole number, true or false");
    }
    found_.push_back({value.location().line(),
                      Assignment{key, *std::move(text), ConfigSource::kFile, place, scope}});
    return Status::ok();
  }

  const std::string& path_;
  std::vector<Found> found_;
};

}  // namespace

Result<std::vector<Assignment>> read_toml(const std::string& path) {
  Result<std::string> text = read_text(path);
  if (!text) return text.status();
  try {
    std::istringstream stream(*text);
    const toml::value root = toml::parse(stream, path);
    Reader reader(path);
    if (Status s = reader.read(root); !s) return s;
    return std::move(reader).assignments();
  } catch (const toml::exception& error) {
    return Status(Code::kInvalid, "configuration file " + path + ":" +
                                      std::to_string(error.location().line()) +
                                      ": not TOML: " + reason_of(error));
  } catch (const std::exception& error) {
    return Status(Code::kInvalid, "configuration file " + path + ": not TOML: " + reason_of(error));
  }
}

}  // namespace weightcast::config
