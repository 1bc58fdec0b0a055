#include "base/log_format.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <optional>
#include <vector>

namespace weightcast::base {
namespace {

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

bool needs_quotes(std::string_view text) {
  return text.empty() || std::any_of(text.begin(), text.end(), [](char c) {
    return c == ' ' || c == '"' || c == '\\' || is_control(c);
  });
}

/// JSON's escapes, in both formats.
void append_escaped(std::string& line, std::string_view text) {
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      line += '\\';
      line += c;
    } else if (c == '\n') {
      line += "\\n";
    } else if (c == '\t') {
      line += "\\t";
    } else if (is_control(c)) {
      std::array<char, 8> code{};
      std::snprintf(code.data(), code.size(), "\\u%04x", unsigned{static_cast<unsigned char>(c)});
      line += code.data();
    } else {
      line += c;
    }
  }
}

void append_quoted(std::string& line, std::string_view text) {
  line += '"';
  append_escaped(line, text);
  line += '"';
}

/// Bytes of the UTF-8 character at the text's beginning; 0 where there is none. Overlong forms and
/// surrogates are none.
std::size_t utf8_length(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = at(1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  return length;
}

std::string as_utf8(std::string_view text) {
  std::string clean;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    clean += length == 0 ? std::string_view("\xef\xbf\xbd") : text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return clean;
}

std::string show_number(const LogField& field) {
  if (const auto* number = std::get_if<std::uint64_t>(&field.value)) return std::to_string(*number);
  return std::to_string(std::get<std::int64_t>(field.value));
}

std::string json_head(std::chrono::system_clock::time_point time, LogLevel level) {
  using namespace std::chrono;
  const std::time_t seconds = system_clock::to_time_t(floor<std::chrono::seconds>(time));
  const auto part = duration_cast<milliseconds>(time - floor<std::chrono::seconds>(time)).count();
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  std::array<char, 32> day{};
  std::strftime(day.data(), day.size(), "%Y-%m-%dT%H:%M:%S", &utc);
  std::array<char, 64> whole{};
  std::snprintf(whole.data(), whole.size(), "{\"time\":\"%s.%03dZ\"", day.data(), int(part));
  std::string line = whole.data();
  line += ",\"level\":";
  append_quoted(line, log_level_name(level));
  return line;
}

void append_member(std::string& line, std::string_view key, std::string_view text) {
  line += ',';
  append_quoted(line, as_utf8(key));
  line += ':';
  append_quoted(line, as_utf8(text));
}

// ---- reading a line of text again -----------------------------------------------------------

struct Pair {
  std::string key;
  std::string value;
  bool is_quoted = false;
};

/// The value between quotes at the text's beginning, which is taken off.
std::optional<std::string> take_quoted(std::string_view& text) {
  std::string value;
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '"') {
      text.remove_prefix(i + 1);
      return value;
    }
    if (text[i] != '\\') {
      value += text[i];
      continue;
    }
    if (++i == text.size()) return std::nullopt;
    switch (text[i]) {
      case 'n': value += '\n'; break;
      case 't': value += '\t'; break;
      case 'u': {
        unsigned code = 0;
        const char* const end = text.data() + std::min(i + 5, text.size());
        const auto [stop, error] = std::from_chars(text.data() + i + 1, end, code, 16);
        if (error != std::errc() || stop != text.data() + i + 5 || code > 0x7f) return std::nullopt;
        value += static_cast<char>(code);
        i += 4;
        break;
      }
      default: value += text[i];
    }
  }
  return std::nullopt;
}

std::optional<std::vector<Pair>> parse(std::string_view line) {
  std::vector<Pair> pairs;
  while (!line.empty()) {
    const std::size_t equals = line.find('=');
    if (equals == 0 || equals == std::string_view::npos) return std::nullopt;
    Pair pair;
    pair.key = line.substr(0, equals);
    if (needs_quotes(pair.key)) return std::nullopt;
    line.remove_prefix(equals + 1);
    pair.is_quoted = line.starts_with('"');
    if (pair.is_quoted) {
      auto value = take_quoted(line);
      if (!value) return std::nullopt;
      pair.value = std::move(*value);
    } else {
      const std::size_t end = std::min(line.find(' '), line.size());
      pair.value = line.substr(0, end);
      line.remove_prefix(end);
    }
    pairs.push_back(std::move(pair));
    if (!line.empty() && line.front() != ' ') return std::nullopt;
    line.remove_prefix(std::min<std::size_t>(1, line.size()));
  }
  if (pairs.empty() || pairs.front().key != "event") return std::nullopt;
  return pairs;
}

/// As JSON writes whole numbers.
bool is_whole_number(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return !text.empty() && text.size() <= 20 && (text.front() != '0' || text.size() == 1) &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::string_view log_level_name(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarn: return "warn";
    case LogLevel::kError: return "error";
    case LogLevel::kOff: return "off";
  }
  return "off";
}

std::string log_text(std::string_view event, LogFields fields) {
  std::string line = "event=" + std::string(event);
  for (const LogField& field : fields) {
    line += ' ';
    line += field.key;
    line += '=';
    const auto* const text = std::get_if<std::string_view>(&field.value);
    if (text == nullptr) {
      line += show_number(field);
    } else if (needs_quotes(*text)) {
      append_quoted(line, *text);
    } else {
      line += *text;
    }
  }
  return line;
}

std::string log_json(std::chrono::system_clock::time_point time, LogLevel level,
                     std::string_view event, LogFields fields) {
  std::string line = json_head(time, level);
  append_member(line, "event", event);
  for (const LogField& field : fields) {
    if (const auto* const text = std::get_if<std::string_view>(&field.value)) {
      append_member(line, field.key, *text);
      continue;
    }
    line += ',';
    append_quoted(line, field.key);
    line += ':' + show_number(field);
  }
  return line + '}';
}

std::string log_json_of_text(std::chrono::system_clock::time_point time, LogLevel level,
                             std::string_view text) {
  std::string line = json_head(time, level);
  const auto pairs = parse(text);
  if (!pairs) {
    append_member(line, "event", "line");
    append_member(line, "text", text);
    return line + '}';
  }
  for (const Pair& pair : *pairs) {
    if (pair.is_quoted || !is_whole_number(pair.value)) {
      append_member(line, pair.key, pair.value);
      continue;
    }
    line += ',';
    append_quoted(line, as_utf8(pair.key));
    line += ':' + pair.value;
  }
  return line + '}';
}

}  // namespace weightcast::base
