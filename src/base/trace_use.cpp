#include "base/trace_use.hpp"

#include <unistd.h>

#include <mutex>

#include "base/log.hpp"
#include "base/trace.hpp"

namespace weightcast::base {
namespace {

struct Users {
  std::mutex mutex;
  int count = 0;
  bool opened = false;  ///< by a member, not by the program itself
};

/// Never destroyed: a member may be a static object of the user's.
Users& users() {
  static auto* const instance = new Users;
  return *instance;
}

}  // namespace

bool is_trace_name(std::string_view pattern) {
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '%') continue;
    if (++i == pattern.size() || std::string_view("pn%").find(pattern[i]) == std::string_view::npos)
      return false;
  }
  return true;
}

std::string trace_name(std::string_view pattern, std::string_view member) {
  std::string name;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '%' || i + 1 == pattern.size()) {
      name += pattern[i];
      continue;
    }
    switch (pattern[++i]) {
      case 'p': name += std::to_string(::getpid()); break;
      case 'n': name += member; break;
      default: name += pattern[i];
    }
  }
  return name;
}

Result<TraceUse> TraceUse::open(const std::string& pattern, const std::string& member,
                                const std::string& process_name) {
  TraceUse use;
  if (pattern.empty()) return use;
  Users& all = users();
  const std::lock_guard lock(all.mutex);
  if (trace_file().empty()) {
    const std::string file = trace_name(pattern, member);
    if (Status status = open_trace(file, process_name); !status) {
      return Status(status.code(), "option trace = \"" + pattern + "\": " + status.message());
    }
    all.count = 0;
    all.opened = true;
    log(LogLevel::kInfo, "trace_opened", {{"file", trace_file()}});
  }
  ++all.count;
  use.process_ = ::getpid();
  return use;
}

TraceUse::~TraceUse() {
  if (process_ == 0 || process_ != ::getpid()) return;
  Users& all = users();
  const std::lock_guard lock(all.mutex);
  if (--all.count > 0 || !all.opened) return;
  all.opened = false;
  close_trace();
}

}  // namespace weightcast::base
