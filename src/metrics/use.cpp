#include "metrics/use.hpp"

#include <unistd.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>

#include <weightcast/version.hpp>

#include "base/log.hpp"
#include "base/stage_stats.hpp"
#include "base/trace_use.hpp"
#include "config/metrics_target.hpp"
#include "metrics/outlet.hpp"

namespace weightcast::metrics {
namespace {

struct Members {
  std::mutex door;  ///< of those who open and close
  int process = 0;  ///< whose the rest is
  int count = 0;
  std::unique_ptr<Outlet> outlet;

  std::mutex mutex;  ///< of the following; an outlet's thread takes it alone
  std::uint64_t last_id = 0;
  std::map<std::uint64_t, Use::Collect> collects;
};

std::atomic<Members*> g_members{nullptr};

/// Never destroyed: a member may be a static object of the user's. A forked child begins with
/// members of its own: what the parent's threads hold of the old ones stays held there.
Members& members() {
  Members* known = g_members.load();
  while (known == nullptr || known->process != ::getpid()) {
    auto fresh = std::make_unique<Members>();
    fresh->process = ::getpid();
    if (g_members.compare_exchange_strong(known, fresh.get())) return *fresh.release();
  }
  return *known;
}

Result<std::unique_ptr<Outlet>> open_outlet(const config::MetricsTarget& target,
                                            const std::string& member) {
  const MakeText make_text = [] { return prometheus_text(collect_all()); };
  if (const auto* const place = std::get_if<config::Place>(&target)) {
    return serve_http(*place, make_text);
  }
  return write_file(base::trace_name(std::get<std::string>(target), member), make_text);
}

void add_process(Samples& samples) {
  samples.begin_process();
  samples.add(Id::kBuild, 1, library_version());
  for (std::size_t i = 0; i < base::kStages.size(); ++i) {
    const base::StageStats& stats = base::stage_stats(i);
    samples.add(Id::kStageSeconds, stats.durations, 1e9, base::kStages[i]);
    samples.add(Id::kStageBytes, static_cast<double>(stats.bytes.load(std::memory_order_relaxed)),
                base::kStages[i]);
  }
}

}  // namespace

Result<Use> Use::open(const std::string& target, const std::string& member) {
  Use use;
  if (target.empty()) return use;
  const auto refuse = [&](const Status& why) {
    return Status(why.code(), "option metrics = \"" + target + "\": " + why.message());
  };
  const auto parsed = config::parse_metrics_target(target);
  if (!parsed) {
    return refuse(Status(Code::kInvalid, std::string("expected ") + config::kMetricsRule));
  }
  Members& all = members();
  const std::lock_guard door(all.door);
  if (all.count == 0) {
    auto outlet = open_outlet(*parsed, member);
    if (!outlet) return refuse(outlet.status());
    all.outlet = std::move(*outlet);
    base::count_stages(true);
    base::log(LogLevel::kInfo, "metrics_opened", {{"at", all.outlet->where()}});
  }
  ++all.count;
  use.process_ = ::getpid();
  return use;
}

void Use::watch(Collect collect) {
  if (process_ == 0) return;
  Members& all = members();
  const std::lock_guard lock(all.mutex);
  id_ = ++all.last_id;
  all.collects.emplace(id_, std::move(collect));
}

Use::~Use() {
  if (process_ == 0 || process_ != ::getpid()) return;
  Members& all = members();
  const std::lock_guard door(all.door);
  // The last look is at all of them: a file keeps what was counted until the end.
  if (--all.count == 0) {
    all.outlet.reset();
    base::count_stages(false);
  }
  const std::lock_guard lock(all.mutex);
  all.collects.erase(id_);
}

Samples collect_all() {
  Samples samples;
  add_process(samples);
  Members& all = members();
  const std::lock_guard lock(all.mutex);
  for (const auto& [id, collect] : all.collects) collect(samples);
  return samples;
}

std::string where() {
  Members& all = members();
  const std::lock_guard door(all.door);
  return all.outlet ? all.outlet->where() : std::string();
}

}  // namespace weightcast::metrics
