// The bucket pipeline: how many buckets of one transfer are under way at once.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <weightcast/status.hpp>

namespace weightcast::protocol {

/// Pure credit bookkeeping for one transfer of buckets 0..count-1. Not thread safe.
///
/// Each bucket handed out by next() has exactly one completed(): until then its destination is in
/// use, even after the transfer has failed or was cancelled (quarantine).
class Pipeline {
 public:
  /// @param credit greatest number of buckets under way at once, at least 1
  Pipeline(std::uint64_t count, std::uint32_t credit) : done_(count, false), credit_(credit) {}

  /// The next bucket to start; none while the credit is used up or after a failure.
  std::optional<std::uint64_t> next() {
    if (!status_.is_ok() || in_flight_ >= credit_ || next_ == done_.size()) return std::nullopt;
    ++in_flight_;
    return next_++;
  }

  /// @return false for a bucket that is not under way: a stray completion, which is ignored
  bool completed(std::uint64_t bucket, Status status) {
    if (bucket >= next_ || done_[bucket]) return false;
    done_[bucket] = true;
    --in_flight_;
    ++finished_;
    if (!status && status_.is_ok()) status_ = std::move(status);
    return true;
  }

  /// Starts no more; what is under way still completes.
  void cancel() {
    if (status_.is_ok()) status_ = Status(Code::kCancelled, "the transfer was cancelled");
  }

  /// Nothing is under way and nothing more will start.
  bool ended() const noexcept {
    return in_flight_ == 0 && (!status_.is_ok() || finished_ == done_.size());
  }
  /// The first failure, or ok.
  const Status& status() const noexcept { return status_; }
  std::uint32_t in_flight() const noexcept { return in_flight_; }

 private:
  std::vector<bool> done_;
  std::uint32_t credit_;
  std::uint64_t next_ = 0;
  std::uint64_t finished_ = 0;
  std::uint32_t in_flight_ = 0;
  Status status_;
};

}  // namespace weightcast::protocol
