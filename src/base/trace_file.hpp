// The file of a trace: how it is made, and how events become lines of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <weightcast/status.hpp>
#include <weightcast/types.hpp>

#include "base/trace.hpp"
#include "base/unique_fd.hpp"

namespace weightcast::base {

/// A short text of its own, cut where it is too long.
class TraceText {
 public:
  TraceText() noexcept = default;
  explicit TraceText(std::string_view text) noexcept
      : size_(static_cast<std::uint8_t>(std::min(text.size(), bytes_.size()))) {
    std::copy_n(text.data(), size_, bytes_.data());
  }
  std::string_view view() const noexcept { return {bytes_.data(), size_}; }

 private:
  std::array<char, 23> bytes_{};
  std::uint8_t size_ = 0;
};

struct TraceEvent {
  TraceText track;
  TraceText name;
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
  TraceArgs args;
};

/// Makes the file. @return it, and in `path` its name
Result<UniqueFd> create_trace_file(std::string& path);

/// Turns events into the format's lines. A track's spans that overlap go to rows of their own: a
/// viewer draws the complete events of a row only where they nest.
class TraceWriter {
 public:
  /// Begins with what tells of the process.
  TraceWriter(UniqueFd file, std::uint64_t most_bytes, std::string_view process_name);

  /// @return false where the file takes no more: it is as large as it may be, or cannot be written
  bool add(const TraceEvent& event);
  void end(std::uint64_t dropped);
  /// Hands everything to the system. @return what failed, once
  Status flush();

 private:
  struct Row {
    std::string track;
    std::int64_t busy_until = 0;
  };
  std::size_t row_for(const TraceEvent& event);

  UniqueFd file_;
  const std::uint64_t most_bytes_;
  const int process_;
  std::uint64_t bytes_ = 0;  ///< written and waiting
  std::uint64_t events_ = 0;
  bool broken_ = false;
  std::string waiting_;
  std::vector<Row> rows_;
};

}  // namespace weightcast::base
