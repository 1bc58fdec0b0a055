// A key of the table: how its text becomes a field of the settings and back, and what is allowed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "config/units.hpp"

namespace weightcast::config {

/// A variable of the environment that sets a key.
struct Variable {
  std::string name;
  std::string unit{};  ///< follows its text: "ms" for WEIGHTCAST_STALL_MS
};

/// "WEIGHTCAST_" and the key in capitals.
inline std::string variable_name(std::string_view key) {
  std::string name = "WEIGHTCAST_";
  for (char c : key) name += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return name;
}

template <class S>
struct Key {
  std::string name;
  std::string type;
  std::string allowed;
  std::string meaning;
  std::vector<Variable> variables;
  std::function<bool(S&, std::string_view)>
      set;  ///< false, and nothing set, where it is not allowed
  std::function<std::string(const S&)> show;
  std::function<bool(const S&)> is_allowed;
};

/// `kind` knows a type of values: type, allowed, parse, show, is_allowed.
template <class S, class Owner, class T, class Kind>
Key<S> make_key(std::string name, T Owner::* field, Kind kind, std::string meaning,
                std::vector<Variable> more_variables = {}) {
  Key<S> key;
  key.type = Kind::kType;
  key.allowed = kind.allowed();
  key.meaning = std::move(meaning);
  key.variables.push_back({variable_name(name)});
  for (Variable& variable : more_variables) key.variables.push_back(std::move(variable));
  key.name = std::move(name);
  key.set = [field, kind](S& settings, std::string_view text) {
    auto value = kind.parse(text);
    if (!value || !kind.is_allowed(*value)) return false;
    settings.*field = static_cast<T>(*std::move(value));
    return true;
  };
  key.show = [field, kind](const S& settings) { return kind.show(settings.*field); };
  key.is_allowed = [field, kind](const S& settings) { return kind.is_allowed(settings.*field); };
  return key;
}

/// Any text that a check lets pass.
struct Text {
  static constexpr const char* kType = "text";
  std::string what;
  bool (*check)(std::string_view);

  std::string allowed() const { return what; }
  std::optional<std::string> parse(std::string_view text) const { return std::string(text); }
  std::string show(const std::string& value) const { return value; }
  bool is_allowed(std::string_view value) const { return check(value); }
};

/// Whole numbers of a range, and where `unlimited` the greatest of all by that name.
struct Count {
  static constexpr const char* kType = "whole number";
  static constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t least = 0;
  std::uint64_t most = 0;
  bool unlimited = false;

  std::string allowed() const {
    return std::to_string(least) + " to " + std::to_string(most) +
           (unlimited ? " or unlimited" : "");
  }
  std::optional<std::uint64_t> parse(std::string_view text) const {
    if (unlimited && text == "unlimited") return kUnlimited;
    const auto number = parse_count(text);
    return number == kUnlimited ? std::nullopt : number;
  }
  std::string show(std::uint64_t value) const {
    return unlimited && value == kUnlimited ? "unlimited" : std::to_string(value);
  }
  bool is_allowed(std::uint64_t value) const {
    return (least <= value && value <= most) || (unlimited && value == kUnlimited);
  }
};

/// Bytes; 0 has a meaning of its own where it is the default.
struct Size {
  static constexpr const char* kType = "size";
  static constexpr std::uint64_t kMost = std::uint64_t{1} << 60;

  std::string allowed() const { return "bytes, as 512MiB, 1GB or 4096"; }
  std::optional<std::uint64_t> parse(std::string_view text) const { return parse_size(text); }
  std::string show(std::uint64_t value) const { return show_size(value); }
  bool is_allowed(std::uint64_t value) const { return value <= kMost; }
};

struct Time {
  static constexpr const char* kType = "duration";
  Duration least;
  Duration most;

  std::string allowed() const {
    return show_duration(least) + " to " + show_duration(most) + ", as 250ms, 2s or 1m";
  }
  std::optional<Duration> parse(std::string_view text) const { return parse_duration(text); }
  std::string show(Duration value) const { return show_duration(value); }
  bool is_allowed(Duration value) const { return least <= value && value <= most; }
};

struct Truth {
  static constexpr const char* kType = "true or false";

  std::string allowed() const { return "true or false"; }
  std::optional<bool> parse(std::string_view text) const { return parse_truth(text); }
  std::string show(bool value) const { return value ? "true" : "false"; }
  bool is_allowed(bool) const { return true; }
};

/// One of a few words, each for a value of T.
template <class T>
struct Choice {
  static constexpr const char* kType = "choice";
  std::vector<std::pair<std::string, T>> words;

  std::string allowed() const {
    std::string text;
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
      text += words[i].first;
    }
    return text;
  }
  std::optional<T> parse(std::string_view text) const {
    for (const auto& [word, value] : words) {
      if (word == text) return value;
    }
    return std::nullopt;
  }
  std::string show(const T& value) const {
    for (const auto& [word, known] : words) {
      if (known == value) return word;
    }
    return "an unknown value";
  }
  bool is_allowed(const T& value) const {
    return std::any_of(words.begin(), words.end(),
                       [&](const auto& word) { return word.second == value; });
  }
};

}  // namespace weightcast::config
