// The keys that both sides have, with the same meaning, and texts that keys of either side are.
#pragma once

#include <utility>
#include <vector>

#include "base/config.hpp"
#include "base/trace_use.hpp"
#include "config/key.hpp"
#include "config/metrics_target.hpp"
#include "config/place.hpp"
#include "config/settings.hpp"

namespace weightcast::config {

inline Text any_text(std::string what) {
  return {std::move(what), [](std::string_view) { return true; }};
}
inline Text name_text() {
  return {base::kNameRule, [](std::string_view text) { return base::is_name(text); }};
}
inline Text host_text() {
  return {"a host's name or address, without a port",
          [](std::string_view text) { return text.empty() || is_host(text); }};
}
inline Text metrics_text() {
  return {kMetricsRule,
          [](std::string_view text) { return text.empty() || parse_metrics_target(text); }};
}
inline Text place_text() {
  return {"host:port, as trainer-0:29577, 10.0.0.1:29577 or [fd00::1]:29577",
          [](std::string_view text) {
            if (text.empty()) return true;
            const auto place = parse_place(text);
            return place && place->port != 0;
          }};
}

template <class S>
void add_common_keys(std::vector<Key<S>>& keys) {
  using namespace std::chrono_literals;
  const auto add = [&](auto&&... its) {
    keys.push_back(make_key<S>(std::forward<decltype(its)>(its)...));
  };
  add("config", &S::config, any_text("the path of a TOML file"),
      "The file that is read. A flag or the environment names it, not the file itself.");
  add("log", &S::log,
      Choice<LogLevel>{{{"debug", LogLevel::kDebug},
                        {"info", LogLevel::kInfo},
                        {"warn", LogLevel::kWarn},
                        {"error", LogLevel::kError},
                        {"off", LogLevel::kOff}}},
      "This process's log level; where nothing is said it stays as it is.");
  add("log_format", &S::log_format,
      Choice<LogFormat>{{{"text", LogFormat::kText}, {"json", LogFormat::kJson}}},
      "How this process's log lines look: key=value, or a JSON object each (logging.md); where "
      "nothing is said it stays as it is.");
  add("job", &S::job, name_text(), "Names the trainer job. Two jobs on one host need two names.");
  add("policy", &S::policy, name_text(), "Names the policy within the job.");
  add("directory", &S::directory, any_text("an absolute path"),
      "The meeting place of a host, for its owner alone. Empty: `$XDG_RUNTIME_DIR/weightcast`, "
      "else "
      "`/tmp/weightcast-<uid>`.",
      std::vector<Variable>{{"WEIGHTCAST_DIR"}});
  add("transport", &S::transport,
      Choice<TransportChoice>{{{"auto", TransportChoice::kAuto},
                               {"shm", TransportChoice::kShm},
                               {"tcp", TransportChoice::kTcp},
                               {"cuda_ipc", TransportChoice::kCudaIpc},
                               {"nccl", TransportChoice::kNccl}}},
      "How bytes travel. `auto`: the best that both ends share: `cuda_ipc` or `nccl` between "
      "devices, else shared memory on one host and tcp between hosts.");
  add("coordinator", &S::coordinator, place_text(),
      "Where rank 0 of the trainer listens, for engines and ranks on other hosts. Empty: it is on "
      "this host.");
  add("advertise", &S::advertise, host_text(),
      "The address by which other hosts reach this one. Empty: found out.");
  add("keys", &S::keys, any_text("the path of a folder made by `weightcast keygen`"),
      "Keys by which hosts know each other; needed where other hosts take part. Empty: on one host "
      "they make themselves.");
  add("copy_threads", &S::copy_threads, Count{1, 64},
      "Threads that copy: captures of a rank; what comes into an engine, but for `view`.");
  add("heartbeat", &S::heartbeat, Time{1ms, 1h}, "How often a member says that it is there.");
  add("member_timeout", &S::member_timeout, Time{3ms, 24h},
      "Silence after which a member is evicted, or takes itself for detached; at least three "
      "heartbeats.");
  add("trace", &S::trace, Text{base::kTraceNameRule, base::is_trace_name},
      "Spans of this process's work go there (tracing.md); a file that exists is left alone and a "
      "name beside it taken. Empty: none are written.");
  add("metrics", &S::metrics, metrics_text(),
      "Counters and histograms in Prometheus' format (metrics.md): served at /metrics there, or "
      "written to that file again and again. Empty: neither.");
}

}  // namespace weightcast::config
