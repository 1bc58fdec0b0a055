// The text in which a coordinator says where it listens: four lines, nothing else.
//   protocol=1
//   endpoint=ipc:///run/user/1000/weightcast/job/policy/c-1700000000000000-7.sock
//   run=1700000000000000.7
//   pid=4711
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "stream/rendezvous.hpp"

namespace weightcast::stream {

inline constexpr const char* kAnnouncementFile = "coordinator";

std::string format_announcement(const Announcement& announcement);

/// Strict: nothing but what format_announcement() writes is read.
std::optional<Announcement> parse_announcement(std::string_view text);

/// "c-<started_us>-<tie>.sock".
std::string socket_name(const Run& run);
/// Strict, as above.
std::optional<Run> parse_socket_name(std::string_view name);

/// Lines of "key=value\n". The take functions remove the line from the beginning of `text`; they
/// give false where it is not there or its value is not written as ours are.
std::string run_line(const Run& run);
bool take_run_line(std::string_view& text, Run& out);
bool take_number_line(std::string_view& text, std::string_view key, std::uint64_t& out);

}  // namespace weightcast::stream
