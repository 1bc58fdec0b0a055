// An environment of a test's own: what is set is as it was before when the test ends.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <weightcast/config.hpp>

#include "config/keys.hpp"
#include "support/private_place.hpp"

namespace weightcast::test {

/// Begins with nothing set that weightcast looks at.
class OwnEnvironment {
 public:
  OwnEnvironment() {
    std::vector<std::string> names;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string_view text = *entry;
      const std::string name(text.substr(0, text.find('=')));
      if (name.starts_with("WEIGHTCAST_") || name.starts_with("TORCHELASTIC_") ||
          is_of_torchrun(name)) {
        names.push_back(name);
      }
    }
    for (const std::string& name : names) unset(name);
  }
  ~OwnEnvironment() {
    for (const auto& [name, value] : before_) {
      if (value) {
        ::setenv(name.c_str(), value->c_str(), 1);
      } else {
        ::unsetenv(name.c_str());
      }
    }
  }
  OwnEnvironment(const OwnEnvironment&) = delete;
  OwnEnvironment& operator=(const OwnEnvironment&) = delete;

  void set(const std::string& name, const std::string& value) {
    remember(name);
    ::setenv(name.c_str(), value.c_str(), 1);
  }
  void unset(const std::string& name) {
    remember(name);
    ::unsetenv(name.c_str());
  }

 private:
  static bool is_of_torchrun(std::string_view name) {
    for (const char* its : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK",
                            "MASTER_ADDR", "MASTER_PORT"}) {
      if (name == its) return true;
    }
    return false;
  }
  void remember(const std::string& name) {
    const char* value = ::getenv(name.c_str());
    before_.emplace(name, value == nullptr ? std::nullopt : std::optional<std::string>(value));
  }

  std::map<std::string, std::optional<std::string>> before_;
};

class ConfigTest : public testing::Test {
 protected:
  /// Writes the file; the same one each time.
  std::string write_file(const std::string& text) {
    const std::string path = place.path() + "/job.toml";
    std::ofstream(path) << text;
    return path;
  }
  ConfigSources flags(std::vector<std::string> its) const { return {std::move(its), {}}; }

  /// @return the key's row, and a failure where there is none
  static ConfigKey row(const Result<std::vector<ConfigKey>>& table, std::string_view key) {
    if (!table) {
      ADD_FAILURE() << table.status().to_string();
      return {};
    }
    for (const ConfigKey& its : *table) {
      if (its.key == key) return its;
    }
    ADD_FAILURE() << "no key " << key;
    return {};
  }

  void expect_refusal(const Status& status, const std::vector<std::string>& words,
                      Code code = Code::kInvalid) const {
    EXPECT_EQ(status.code(), code) << status.to_string();
    for (const std::string& word : words) {
      EXPECT_NE(status.message().find(word), std::string::npos)
          << "expected \"" << word << "\" in: " << status.message();
    }
  }
  Status trainer(const ConfigSources& sources, PublisherOptions defaults = {}) const {
    return configure(std::move(defaults), sources).status();
  }
  Status worker(const ConfigSources& sources, SubscriberOptions defaults = {}) const {
    return configure(std::move(defaults), sources).status();
  }

  OwnEnvironment environment;
  PrivatePlace place;
};

/// Values that the key may have, all different and none the default; at least one, and two but for
/// true and false.
inline std::vector<std::string> samples_of(const ConfigKey& key) {
  std::vector<std::string> all;
  if (key.type == "whole number") {
    const std::uint64_t least = std::stoull(key.allowed);
    for (std::uint64_t i = 0; i < 4; ++i) all.push_back(std::to_string(least + i));
  } else if (key.type == "size") {
    all = {"1KiB", "3MiB", "5GiB"};
  } else if (key.type == "duration") {
    all = {"3s", "5m", "7s"};
  } else if (key.type == "true or false") {
    all = {"true", "false"};
  } else if (key.type == "choice") {
    std::string text = key.allowed;
    for (std::size_t at; (at = text.find(" or ")) != std::string::npos;) text.replace(at, 4, ", ");
    for (std::size_t at; (at = text.find(", ")) != std::string::npos; text.erase(0, at + 2)) {
      all.push_back(text.substr(0, at));
    }
    all.push_back(text);
  } else if (key.key == "coordinator" || key.key == "listen") {
    all = {"127.0.0.1:1", "localhost:2", "[::1]:3"};
  } else if (key.key == "metrics") {
    all = {"9464", "0.0.0.0:9465", "/tmp/three.prom"};
  } else {
    all = {"one", "two", "three"};
  }
  std::erase(all, key.default_value);
  return all;
}

/// As the key is written in TOML.
inline std::string toml_line(const std::string& key, const std::string& value) {
  return key + " = \"" + value + "\"\n";
}

}  // namespace weightcast::test
