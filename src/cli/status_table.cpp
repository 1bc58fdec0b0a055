#include "cli/status_table.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <utility>
#include <vector>

namespace weightcast::cli {
namespace {

constexpr std::size_t kColumns = 100;

using Row = std::vector<std::string>;

std::string number(const char* format, double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

std::string count(std::uint64_t value) { return value == 0 ? "-" : std::to_string(value); }

std::string cut(const std::string& text, std::size_t most) {
  return text.size() <= most ? text : text.substr(0, most - 1) + "~";
}

std::string many(std::size_t n, const std::string& what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

/// Columns as wide as their longest cell, the first one's text to the left like the last one's.
std::string table(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string space(widths[i] - row[i].size(), ' ');
      const bool left = i <= 1 || i + 1 == row.size();
      line += (i == 0 ? "" : " ") + (left ? row[i] + space : space + row[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

/// "label: text", broken between words; further lines are indented.
std::string wrapped(const std::string& label, const std::string& text) {
  std::string out;
  std::string line = label + ":";
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (line.size() + 1 + word.size() > kColumns && line.find_last_not_of(' ') > 3) {
      out += line + "\n";
      line = "   ";
    }
    line += " " + word;
    at = end + 1;
  }
  return out + line + "\n";
}

/// What several members have in common, with their names: in the order of their first.
class Groups {
 public:
  void add(const std::string& what, const std::string& name) {
    if (what.empty()) return;
    const auto [at, is_new] = at_.try_emplace(what, groups_.size());
    if (is_new) groups_.push_back({what, name});
    if (!is_new) groups_[at->second].second += ", " + name;
  }
  std::string lines(const std::string& label) const {
    std::string text;
    for (const auto& [what, names] : groups_) text += wrapped(label, what + " [" + names + "]");
    return text;
  }

 private:
  std::map<std::string, std::size_t> at_;
  std::vector<std::pair<std::string, std::string>> groups_;
};

std::string with_reason(const std::string& what, const std::string& why) {
  if (what.empty()) return why;
  return why.empty() ? what : what + ", " + why;
}

std::string version_of(const JobStatus& status, const JobStatus::Engine& engine) {
  if (engine.serving.is_none()) return "-";
  const std::string number = std::to_string(engine.serving.number);
  return engine.serving.run == status.run ? number : "(" + number + ")";
}

/// "flip by tcp".
std::string way_of(const JobStatus::Engine& engine) {
  if (engine.activation.empty()) return "-";
  return engine.activation + " by " + engine.transport.substr(0, engine.transport.find(' '));
}

std::string trainers_of(const JobStatus& status) {
  std::vector<Row> rows{{"TRAINER", "STAGING", "POINT", "CAPTURED", "COALESCED", "VOID", "SLOTS",
                         "CAPTURE", "HOOK", "FENCE", "SENT", "HEARD", "GIVES"}};
  for (const JobStatus::Trainer& its : status.trainers) {
    rows.push_back({"rank-" + std::to_string(its.rank), its.staging.empty() ? "-" : cut(its.staging, 7),
                    std::to_string(its.next_point), count(its.captured), count(its.coalesced),
                    count(its.voided), count(its.slots), show_time(its.last_capture),
                    show_time(its.last_hook), show_time(its.last_fence), show_bytes(its.sent_bytes),
                    show_time(its.silence), cut(its.transport, 11)});
  }
  return table(rows);
}

std::string engines_of(const JobStatus& status) {
  std::vector<Row> rows{{"ENGINE", "STATE", "VERSION", "BEHIND", "STAGE", "SWITCH", "APPLY",
                         "BYTES", "HEARD", "TAKES"}};
  for (const JobStatus::Engine& its : status.engines) {
    rows.push_back({cut(its.name, 18), engine_state_name(its.state), version_of(status, its),
                    std::to_string(its.staleness), show_time(its.last_stage),
                    show_time(its.last_switch), show_time(its.last_apply),
                    show_bytes(its.received_bytes), show_time(its.silence), cut(way_of(its), 18)});
  }
  return table(rows);
}

std::string hosts_of(const JobStatus& status) {
  Groups hosts;
  const auto add = [&](const std::string& host, std::uint64_t pid, const std::string& name) {
    hosts.add(host, pid == 0 ? name : name + " (" + std::to_string(pid) + ")");
  };
  for (const auto& its : status.trainers) add(its.host, its.pid, "rank-" + std::to_string(its.rank));
  for (const auto& its : status.engines) add(its.host, its.pid, its.name);
  return hosts.lines("host");
}

std::string reasons_of(const JobStatus& status) {
  Groups activations;
  Groups transports;
  Groups given;
  Groups troubles;
  Groups blocked;
  for (const auto& its : status.trainers) {
    const std::string name = "rank-" + std::to_string(its.rank);
    given.add(with_reason(its.transport, its.transport_reason), name);
    blocked.add(its.blocked, name);
  }
  for (const auto& its : status.engines) {
    activations.add(with_reason(its.activation, its.activation_reason), its.name);
    transports.add(with_reason(its.transport, its.transport_reason), its.name);
    troubles.add(its.trouble, its.name);
  }
  return given.lines("gives") + activations.lines("activation") + transports.lines("transport") +
         blocked.lines("no grant") + troubles.lines("trouble");
}

std::string gone_of(const JobStatus& status) {
  std::string text;
  for (const auto& its : status.gone) {
    text += (text.empty() ? "" : ", ") + its.name + " " + its.why + " " + show_time(its.ago) + " ago";
  }
  return text.empty() ? text : wrapped("gone", text);
}

std::string round_of(const JobStatus& status) {
  if (!status.round) return {};
  const JobStatus::Round& round = *status.round;
  return wrapped("round", "version " + std::to_string(round.number) + " for " +
                              show_time(round.age) + ", " +
                              (round.committed ? many(round.engines, "engine") + " to switch"
                                               : std::to_string(round.staged) + " of " +
                                                     many(round.engines, "engine") + " have it"));
}

}  // namespace

std::string show_time(Duration time) {
  const auto ns = static_cast<double>(time.count());
  if (ns <= 0) return "-";
  if (ns < 999.5e3) return number("%.0fus", std::max(1.0, ns / 1e3));
  if (ns < 99.95e6) return number("%.1fms", ns / 1e6);
  if (ns < 999.5e6) return number("%.0fms", ns / 1e6);
  if (ns < 119.95e9) return number("%.1fs", ns / 1e9);
  if (ns < 7200e9) return number("%.0fmin", ns / 60e9);
  return number("%.0fh", ns / 3600e9);
}

std::string show_bytes(std::uint64_t bytes) {
  if (bytes == 0) return "-";
  if (bytes < 1024) return std::to_string(bytes) + "B";
  static constexpr std::array kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1023.5 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return number(value < 99.95 ? "%.1f" : "%.0f", value) + kUnits[unit];
}

std::string status_line(const JobStatus& status) {
  std::map<EngineState, std::size_t> states;
  std::uint64_t worst = 0;
  for (const auto& engine : status.engines) {
    ++states[engine.state];
    worst = std::max(worst, engine.staleness);
  }
  std::string text = "version " + count(status.committed) + " committed, " +
                     count(status.published) + " published, " +
                     many(status.engines.size(), "engine");
  const char* before = ": ";
  for (const auto& [state, n] : states) {
    text += before + std::to_string(n) + " " + engine_state_name(state);
    before = ", ";
  }
  return text + "; furthest behind " + std::to_string(worst) + "; applied in " +
         show_time(status.last_apply);
}

std::string status_table(const JobStatus& status) {
  std::string text = wrapped(
      "policy " + status.policy + " of job " + status.job,
      std::string(status.mode == Mode::kP2p ? "p2p" : "broadcast") + ", run " +
          to_string(status.run) + ", " + std::to_string(status.trainers.size()) + " of " +
          many(status.world_size, "trainer rank") + ", " + many(status.engines.size(), "engine") +
          (status.min_receivers == 0 ? "" : " (at least " + std::to_string(status.min_receivers) + ")") +
          (status.listening.empty() ? "" : ", listens at " + status.listening));
  text += status_line(status) + "\n";
  text += round_of(status);
  text += wrapped("waits for", status.waiting_for);
  text += "\n" + trainers_of(status);
  text += "\n" + engines_of(status);
  text += "\n" + hosts_of(status) + reasons_of(status) + gone_of(status);
  text += wrapped("so far", many(status.commits, "version") + " committed, " +
                                many(status.rounds_aborted, "round") + " aborted, " +
                                many(status.points_void, "point") + " void, " +
                                many(status.engines_evicted, "engine") + " evicted, " +
                                std::to_string(status.refused) + " refused");
  if (status.left_out != 0) {
    text += wrapped("left out", many(status.left_out, "member") + ", for want of room");
  }
  return text;
}

}  // namespace weightcast::cli
