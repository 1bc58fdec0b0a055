#include "subscriber/subscriber_metrics.hpp"

#include "subscriber/activation.hpp"

namespace weightcast::subscriber {
namespace {

using metrics::Id;

double number(std::uint64_t value) { return static_cast<double>(value); }

}  // namespace

void add_samples(const SubscriberOptions& options, const Serving& serving, const LeaseBook& leases,
                 const AttemptCounts& attempts, metrics::Samples& samples) {
  const SubscriberStatus status = serving.status();
  samples.begin_member(options.job, options.policy, options.name);
  samples.add(Id::kApplied, number(status.applied));
  for (std::size_t i = 1; i < base::CodeCounts::kCodes; ++i) {
    const auto code = static_cast<Code>(i);
    samples.add(Id::kAttemptsFailed, number(attempts.failed().of(code)), code_name(code));
  }
  for (const auto transport : {TransportChoice::kShm, TransportChoice::kTcp,
                               TransportChoice::kCudaIpc, TransportChoice::kNccl}) {
    samples.add(Id::kReceivedBytes, number(attempts.received(transport)),
                transport_name(transport));
  }
  samples.add(Id::kRelayedBytes, number(status.relayed_bytes), "tcp");
  samples.add(Id::kCorruptBuckets, number(status.corrupt_buckets));
  samples.add(Id::kResentBuckets, number(status.resent_buckets));
  samples.add(Id::kServingVersion, number(status.serving.number));
  samples.add(Id::kKnownVersion, number(status.published.number));
  samples.add(Id::kAttached, status.attached ? 1 : 0);
  samples.add(Id::kLagging, status.lagging ? 1 : 0);
  samples.add(Id::kDirty, status.dirty ? 1 : 0);
  samples.add(Id::kActivation, 1, activation_name(status.activation));
  samples.add(Id::kLeases, status.leases);
  samples.add(Id::kLeaseSeconds, leases.durations(), 1e9);
  samples.add(Id::kAcquireStaleness, serving.counts().staleness, 1);
  for (const Code code : {Code::kDeadline, Code::kStale}) {
    samples.add(Id::kAcquiresRefused, number(serving.counts().refused.of(code)), code_name(code));
  }
  samples.add(Id::kDroppedMessages, number(status.dropped_messages));
  samples.add(Id::kSubscriberRejoins, number(status.rejoined));
}

}  // namespace weightcast::subscriber
