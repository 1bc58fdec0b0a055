// What a publisher shows as metrics.
#pragma once

#include <atomic>
#include <cstdint>

#include <weightcast/publisher.hpp>

#include "base/code_counts.hpp"
#include "metrics/samples.hpp"
#include "publisher/control_loop.hpp"

namespace weightcast::publisher {

/// Void points by reason. Thread safety: any thread.
struct VoidCounts {
  base::CodeCounts failed;
  std::atomic<std::uint64_t> stall{0};    ///< the copies outlasted it
  std::atomic<std::uint64_t> skipped{0};  ///< by the trainer's own word

  std::uint64_t total() const noexcept { return failed.total() + stall + skipped; }
};

/// Adds one rank's samples; the coordinator's too where it is rank 0.
void add_samples(const PublisherOptions& options, const PublisherStatus& status,
                 const VoidCounts& voids, const ControlLoop& loop, metrics::Samples& samples);

}  // namespace weightcast::publisher
