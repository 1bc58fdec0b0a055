#include "publisher/publisher_metrics.hpp"

#include <algorithm>
#include <string>
#include <string_view>

namespace weightcast::publisher {
namespace {

using metrics::Id;
using metrics::Samples;

double number(std::uint64_t value) { return static_cast<double>(value); }

void add_coordinator(const CoordinatorView& view, std::uint64_t committed, Samples& samples) {
  for (const std::string_view state : {"active", "joining", "lagging"}) {
    const auto is_so = [&](const auto& receiver) { return receiver.state == state; };
    samples.add(Id::kReceivers,
                number(std::count_if(view.receivers.begin(), view.receivers.end(), is_so)), state);
  }
  const auto is_behind = [&](const auto& receiver) { return receiver.serving.number < committed; };
  samples.add(Id::kReceiversBehind,
              number(std::count_if(view.receivers.begin(), view.receivers.end(), is_behind)));
  const auto& counters = view.counters;
  samples.add(Id::kCommits, number(counters.commits));
  samples.add(Id::kRoundsAborted, number(counters.rounds_aborted));
  samples.add(Id::kGrants, number(counters.grants), "given");
  samples.add(Id::kGrants, number(counters.grants_void), "void");
  samples.add(Id::kEvictions, number(counters.receivers_evicted), "receiver");
  samples.add(Id::kEvictions, number(counters.sources_evicted), "source");
  samples.add(Id::kDemotions, number(counters.demotions));
  samples.add(Id::kCatchUps, number(counters.catch_ups));
  samples.add(Id::kRejoins, number(counters.rejoins));
  samples.add(Id::kRankDrifts, number(counters.drifted));
}

}  // namespace

void add_samples(const PublisherOptions& options, const PublisherStatus& status,
                 const VoidCounts& voids, const ControlLoop& loop, Samples& samples) {
  samples.begin_member(options.job, options.policy, "rank-" + std::to_string(options.rank));
  samples.add(Id::kPoints, number(status.captured), "captured");
  samples.add(Id::kPoints, number(status.coalesced), "coalesced");
  samples.add(Id::kPoints, number(status.voided), "void");
  samples.add(Id::kVoids, number(voids.stall), "stall");
  samples.add(Id::kVoids, number(voids.skipped), "skipped");
  for (std::size_t i = 1; i < base::CodeCounts::kCodes; ++i) {
    const auto code = static_cast<Code>(i);
    samples.add(Id::kVoids, number(voids.failed.of(code)), code_name(code));
  }
  samples.add(Id::kPublishedVersion, number(status.published.number));
  samples.add(Id::kCommittedVersion, number(status.committed.number));
  samples.add(Id::kBlocked, status.blocked.empty() ? 0 : 1);
  samples.add(Id::kConnected, status.connected ? 1 : 0);
  samples.add(Id::kSlots, options.slots);
  samples.add(Id::kSlotsHeld, loop.slots_held());
  samples.add(Id::kStreamWaits, number(status.stream_waits));
  samples.add(Id::kSentBytes, number(status.sent_bytes), "tcp");
  samples.add(Id::kRefusedMessages, number(status.refused_messages));
  if (options.rank == 0) add_coordinator(loop.view(), status.committed.number, samples);
}

}  // namespace weightcast::publisher
