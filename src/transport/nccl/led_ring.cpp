#include "transport/nccl/led_ring.hpp"

#include <utility>

#include "base/log.hpp"

namespace weightcast::transport {

Result<std::unique_ptr<LedRing>> LedRing::make(const std::string& prefix, Duration patience) {
  auto board = staging::BucketBoard::create(prefix);
  if (!board) return board.status();
  return std::unique_ptr<LedRing>(new LedRing(std::move(*board), patience));
}

Status LedRing::show(const BucketRing& ring) {
  const auto memory = ring.exported();
  if (!memory) return memory.status();
  board_->show({*memory, ring.bucket_bytes(), static_cast<std::uint32_t>(ring.count())});
  return Status::ok();
}

void LedRing::begin(const staging::BoardFlow& flow) {
  awaited_.reset();
  board_->open(flow);
}

bool LedRing::is_let_go(std::uint32_t bucket, Clock::time_point now) {
  if (board_->behind(bucket) == 0) {
    awaited_.reset();
    return true;
  }
  if (awaited_ != bucket) {
    awaited_ = bucket;
    since_ = now;
    return false;
  }
  if (now - since_ <= patience_) return false;
  base::log(LogLevel::kWarn, "nccl_neighbours_put_out",
            {{"engines", board_->put_out_behind(bucket)}, {"bucket", bucket}});
  awaited_.reset();
  return true;
}

}  // namespace weightcast::transport
