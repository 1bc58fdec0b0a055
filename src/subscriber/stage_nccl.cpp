// The stager's way to bytes that come over NCCL, and from there to another transport.
#include <algorithm>
#include <utility>

#include "base/log.hpp"
#include "subscriber/attempt_counts.hpp"
#include "subscriber/nccl_fetch.hpp"
#include "subscriber/stager.hpp"
#include "subscriber/transport_reason.hpp"

namespace weightcast::subscriber {
namespace {

bool is_by_nccl(const ShareSource& source) { return source.transport == TransportChoice::kNccl; }

bool any_by_nccl(const Incoming& incoming) {
  return std::any_of(incoming.sources.begin(), incoming.sources.end(), is_by_nccl);
}

}  // namespace

/// Where the plan is not one for NCCL: other sources, and a plan for these.
Status Stager::plan_without_nccl(const std::string& relay, Incoming& incoming) {
  if (!any_by_nccl(incoming)) return Status::ok();
  const std::string why = why_no_nccl(incoming.manifest, incoming.plan);
  if (why.empty()) return Status::ok();
  auto sources = sources_.choose(incoming.version, incoming.manifest, relay, why);
  if (!sources) return {sources.status().code(), why + "; and " + sources.status().message()};
  incoming.sources = std::move(*sources);
  incoming.infos.clear();
  return plan_for(incoming);
}

/// @param there by bucket, whether it came; empty where none was to come
Status Stager::fetch_by_nccl(Incoming& incoming, const Fetch& what, std::vector<char>& there) {
  if (!any_by_nccl(incoming)) return Status::ok();
  there.assign(incoming.plan.buckets.size(), 0);
  NcclLane& lane = *sources_.nccl();
  const bool was_led = lane.is_led();
  lane.begin_version();
  Status status = fetch_over_nccl(lane, what, incoming.sources, there,
                                  [&] { return cancelled(incoming.op); });
  if (status && lane.is_led() != was_led) say_sources(incoming, {});
  if (status) return status;
  lane.settle();
  // Gone is gone, over whatever it was asked for.
  const bool is_gone = lane.is_refused() && status.code() == Code::kStale;
  if (is_gone || status.code() == Code::kCancelled) return status;
  return fall_from_nccl(incoming, status, there);
}

/// What has not come over NCCL comes over another transport: this version's, and where NCCL itself
/// failed, or can never serve, all of this run's.
Status Stager::fall_from_nccl(Incoming& incoming, const Status& why,
                              const std::vector<char>& there) {
  const bool is_of_version = sources_.nccl()->is_refused() && why.code() != Code::kMismatch &&
                             why.code() != Code::kInvalid;
  if (!is_of_version) sources_.leave_nccl(incoming.version.run, why.message());
  auto sources = sources_.choose(incoming.version, incoming.manifest, {}, why.message());
  if (!sources) {
    return {why.code(), "over nccl: " + why.message() + "; and " + sources.status().message()};
  }
  std::vector<char> is_there(sources->size(), 0);
  for (std::size_t i = 0; i < there.size(); ++i) {
    if (there[i] != 0) is_there[incoming.plan.buckets[i].share] = 1;
  }
  for (std::size_t i = 0; i < sources->size(); ++i) {
    if (!is_by_nccl(incoming.sources[i]) || is_there[i] != 0) continue;
    incoming.sources[i] = (*sources)[i];
    if (incoming.plan.share_bytes[i] == 0) continue;
    auto opened = sources_.open(incoming.manifest.shares[i].rank, incoming.sources[i]);
    if (!opened) return opened.status();
    incoming.shares[i] = std::move(*opened);
  }
  const std::string now = describe_sources(incoming.sources, {});
  base::log(LogLevel::kWarn, "nccl_fell_back",
            {{"version", to_string(incoming.version)},
             {"transport", now},
             {"for", is_of_version ? "version" : "run"},
             {"why", why.message()}});
  say_sources(incoming, {});
  return Status::ok();
}

/// Over NCCL, whether it is another engine that is in it: as it was with the last version, until that of
/// this one is known.
void Stager::say_sources(const Incoming& incoming, const std::string& relay) {
  const bool is_led = any_by_nccl(incoming) && sources_.nccl()->is_led();
  const std::string note =
      is_led ? " (out of the ring of another engine here, which takes it off the wire)"
             : sources_.note();
  host_.happened({.kind = StageEvent::Kind::kSources,
                  .text = describe_sources(incoming.sources, relay),
                  .why = transport_reason(incoming.sources, relay, options_.transport) + note,
                  .bytes = bytes_by_transport(incoming)});
}

}  // namespace weightcast::subscriber
