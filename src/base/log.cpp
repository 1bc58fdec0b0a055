#include "base/log.hpp"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>

#include "base/log_format.hpp"

namespace weightcast {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarn: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
    case LogLevel::kOff: return spdlog::level::off;
  }
  return spdlog::level::info;
}

LogLevel from_spdlog(spdlog::level::level_enum level) noexcept {
  if (level <= spdlog::level::debug) return LogLevel::kDebug;
  if (level == spdlog::level::info) return LogLevel::kInfo;
  if (level == spdlog::level::warn) return LogLevel::kWarn;
  return LogLevel::kError;
}

/// Standard error, or the sink of the user's choice.
class SwitchSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void use(LogSink user) {
    const std::lock_guard lock(mutex_);
    user_ = std::move(user);
  }
  void use(LogFormat format) noexcept { format_.store(format, std::memory_order_relaxed); }
  bool is_json() const noexcept {
    return format_.load(std::memory_order_relaxed) == LogFormat::kJson;
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (user_) {
      user_(from_spdlog(message.level), {message.payload.data(), message.payload.size()});
      return;
    }
    spdlog::memory_buf_t line;
    if (is_json()) {
      line.append(message.payload.data(), message.payload.data() + message.payload.size());
      line.push_back('\n');
    } else {
      formatter_->format(message, line);
    }
    std::fwrite(line.data(), 1, line.size(), stderr);
  }
  void flush_() override {}

  LogSink user_;
  std::atomic<LogFormat> format_{LogFormat::kText};
};

struct Logging {
  std::shared_ptr<SwitchSink> sink = std::make_shared<SwitchSink>();
  spdlog::logger logger{"weightcast", sink};
  Logging() { logger.set_pattern("[%Y-%m-%d %H:%M:%S.%e] weightcast %l %v"); }
};

/// Never destroyed: threads of a user's static objects may log until the very end.
Logging& logging() {
  static auto* instance = new Logging;
  return *instance;
}

void write(LogLevel level, std::string_view line) {
  logging().logger.log(to_spdlog(level), spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace

void set_log_sink(LogSink sink) { logging().sink->use(std::move(sink)); }
void set_log_level(LogLevel level) noexcept { logging().logger.set_level(to_spdlog(level)); }
void set_log_format(LogFormat format) noexcept { logging().sink->use(format); }

void log_line(LogLevel level, std::string_view line) noexcept {
  Logging& its = logging();
  if (!its.logger.should_log(to_spdlog(level))) return;
  try {
    if (!its.sink->is_json()) return write(level, line);
    write(level, base::log_json_of_text(std::chrono::system_clock::now(), level, line));
  } catch (const std::exception&) {
    // No memory for a line: it is not said.
  }
}

namespace base {

void log(LogLevel level, std::string_view event, LogFields fields) noexcept {
  Logging& its = logging();
  if (!its.logger.should_log(to_spdlog(level))) return;
  try {
    const auto now = std::chrono::system_clock::now();
    write(level, its.sink->is_json() ? log_json(now, level, event, fields)
                                     : log_text(event, fields));
  } catch (const std::exception&) {
    // As above.
  }
}

}  // namespace base

}  // namespace weightcast
