#include "stream/announcement.hpp"

#include <charconv>
#include <limits>

namespace weightcast::stream {
namespace {

/// Decimal digits as std::to_string writes them: no sign, no leading zeros, no overflow.
template <class T>
bool parse_number(std::string_view text, T& out) noexcept {
  if (text.empty() || (text.size() > 1 && text.front() == '0')) return false;
  T value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end) return false;
  out = value;
  return true;
}

/// The value of the first line, where its key is `key`.
std::optional<std::string_view> take_line(std::string_view& text, std::string_view key) {
  const auto end = text.find('\n');
  if (end == std::string_view::npos || !text.starts_with(key) || text.size() == key.size() ||
      text[key.size()] != '=') {
    return std::nullopt;
  }
  const std::string_view value = text.substr(key.size() + 1, end - key.size() - 1);
  text.remove_prefix(end + 1);
  return value;
}

bool parse_run(std::string_view text, char between, Run& out) noexcept {
  const auto at = text.find(between);
  Run run;
  if (at == std::string_view::npos || !parse_number(text.substr(0, at), run.started_us) ||
      !parse_number(text.substr(at + 1), run.tie)) {
    return false;
  }
  out = run;
  return true;
}

}  // namespace

std::string run_line(const Run& run) {
  return "run=" + std::to_string(run.started_us) + "." + std::to_string(run.tie) + "\n";
}

bool take_run_line(std::string_view& text, Run& out) {
  const auto value = take_line(text, "run");
  return value && parse_run(*value, '.', out);
}

bool take_number_line(std::string_view& text, std::string_view key, std::uint64_t& out) {
  const auto value = take_line(text, key);
  return value && parse_number(*value, out);
}

std::string format_announcement(const Announcement& announcement) {
  return "protocol=" + std::to_string(announcement.protocol) + "\nendpoint=" +
         announcement.endpoint + "\n" + run_line(announcement.run) +
         "pid=" + std::to_string(announcement.pid) + "\n";
}

std::optional<Announcement> parse_announcement(std::string_view text) {
  Announcement out;
  std::uint64_t protocol = 0;
  std::uint64_t pid = 0;
  if (!take_number_line(text, "protocol", protocol)) return std::nullopt;
  const auto endpoint = take_line(text, "endpoint");
  if (!endpoint || !endpoint->starts_with("ipc:///")) return std::nullopt;
  if (!take_run_line(text, out.run) || !take_number_line(text, "pid", pid) || !text.empty() ||
      protocol > std::numeric_limits<std::uint32_t>::max() ||
      pid > static_cast<std::uint64_t>(std::numeric_limits<int>::max())) {
    return std::nullopt;
  }
  out.protocol = static_cast<std::uint32_t>(protocol);
  out.endpoint = *endpoint;
  out.pid = static_cast<long>(pid);
  return out;
}

std::string socket_name(const Run& run) {
  return "c-" + std::to_string(run.started_us) + "-" + std::to_string(run.tie) + ".sock";
}

std::optional<Run> parse_socket_name(std::string_view name) {
  constexpr std::string_view kBefore = "c-";
  constexpr std::string_view kAfter = ".sock";
  Run run;
  if (name.size() < kBefore.size() + kAfter.size() || !name.starts_with(kBefore) ||
      !name.ends_with(kAfter)) {
    return std::nullopt;
  }
  name.remove_prefix(kBefore.size());
  name.remove_suffix(kAfter.size());
  if (!parse_run(name, '-', run)) return std::nullopt;
  return run;
}

}  // namespace weightcast::stream
