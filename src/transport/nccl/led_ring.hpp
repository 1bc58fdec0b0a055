// A leader's end towards its neighbours: shows them the buckets of its ring, and keeps each until all
// have taken it or have been put out.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <weightcast/types.hpp>

#include "staging/bucket_board.hpp"
#include "transport/nccl/bucket_ring.hpp"

namespace weightcast::transport {

/// Thread safety: one thread.
class LedRing {
 public:
  /// @param prefix as staging::BucketBoard::create
  /// @param patience with neighbours, for each bucket; below what the leader's own flow may be silent
  static Result<std::unique_ptr<LedRing>> make(const std::string& prefix, Duration patience);

  const std::string& board() const noexcept { return board_->name(); }
  /// @return as BucketRing::exported
  Status show(const BucketRing& ring);
  void begin(const staging::BoardFlow& flow);
  /// It is whole in the ring. In order.
  void came(std::uint32_t bucket) { board_->set_whole(bucket + 1); }
  /// Whether its memory may be written to; asked again and again, for one bucket after the other.
  bool is_let_go(std::uint32_t bucket, Clock::time_point now);
  /// Nobody is shown anything any more.
  void end() noexcept { board_->close(); }

 private:
  LedRing(std::unique_ptr<staging::BucketBoard> board, Duration patience)
      : board_(std::move(board)), patience_(patience) {}

  const std::unique_ptr<staging::BucketBoard> board_;
  const Duration patience_;
  std::optional<std::uint32_t> awaited_;  ///< the bucket that somebody has not taken
  Clock::time_point since_{};             ///< when it was first asked for
};

}  // namespace weightcast::transport
