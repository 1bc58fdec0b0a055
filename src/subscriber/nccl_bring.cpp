#include "subscriber/nccl_bring.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/failpoint.hpp"
#include "base/log.hpp"
#include "stream/nccl_identity.hpp"
#include "stream/nccl_steps.hpp"
#include "subscriber/device_copies.hpp"

namespace weightcast::subscriber {
namespace {

using transport::BucketFlow;
using transport::kLookAtFlow;
using transport::NcclDestination;
using transport::SessionAnswer;
using transport::SessionGuest;

/// Between looks at the socket.
constexpr auto kLookAtSocket = std::chrono::milliseconds(1);
/// An ask without an answer is lost, as one is that comes before there is a connection.
constexpr auto kAnswerTime = std::chrono::milliseconds(100);

}  // namespace

NcclBring::NcclBring(NcclLane& lane, const NcclShare& share, NcclLane::Client& client,
                     const std::function<bool()>& cancelled)
    : lane_(lane),
      gpu_(*lane.gpu_),
      share_(share),
      client_(client),
      cancelled_(cancelled),
      bucket_bytes_(stream::nccl_bucket_bytes(share.address.payload_bytes)),
      end_(
          destinations(),
          [this](std::uint32_t bucket) {
            const std::uint64_t offset = bucket * bucket_bytes_;
            if (!share_.placed) return;
            share_.placed(std::min(bucket_bytes_, share_.address.payload_bytes - offset));
          },
          [this](std::uint32_t bucket, Clock::time_point now) {
            return !leads_ || lane_.led_->is_let_go(bucket, now);
          }),
      guest_(lane.options_.session,
             {.name = lane.options_.name,
              .incarnation = lane.asked_,
              .version = share.address.version,
              .generation = share.address.generation,
              .plan = stream::nccl_plan(share.address.payload_bytes),
              .device = lane.identity_,
              .nccl_version = lane.nccl_->version(),
              .is_ready = false,
              .kept = client.kept,
              .may_keep = lane.may_keep(client),
              .place = lane.place_of(share),
              .board = lane.led_ ? lane.led_->board() : std::string()},
             Clock::now()) {}

std::vector<NcclDestination> NcclBring::destinations() {
  std::vector<NcclDestination> all(stream::nccl_buckets(share_.address.payload_bytes));
  for (std::uint32_t i = 0; i < all.size(); ++i) {
    all[i] = [this, i](std::span<const std::byte> bucket, driver::Stream stream) {
      if (leads_) lane_.led_->came(i);
      base::failpoint("engine.copying", share_.address.version.number);
      return place(i * bucket_bytes_, bucket, stream);
    };
  }
  return all;
}

/// Copies what of the bucket at `offset` of the payload belongs somewhere.
Status NcclBring::place(std::uint64_t offset, std::span<const std::byte> bucket,
                        driver::Stream stream) {
  const std::uint64_t end = offset + bucket.size();
  auto run = std::partition_point(share_.runs.begin(), share_.runs.end(), [&](const NcclRun& one) {
    return one.source + one.bytes <= offset;
  });
  std::vector<driver::CopyItem> items;
  for (; run != share_.runs.end() && run->source < end; ++run) {
    const std::uint64_t from = std::max(run->source, offset);
    const std::uint64_t to = std::min(run->source + run->bytes, end);
    items.push_back({run->target + (from - run->source), bucket.data() + (from - offset), to - from});
    if (items.size() < DeviceCopies::kItems) continue;
    if (Status s = lane_.cuda_->copy(lane_.options_.device, items, stream); !s) return s;
    items.clear();
  }
  return items.empty() ? Status::ok() : lane_.cuda_->copy(lane_.options_.device, items, stream);
}

Status NcclBring::give_up(Status why) {
  if (flow_) {
    flow_->cancel(why, Clock::now());
  } else if (!group_.empty()) {
    gpu_.fail({group_}, why, Clock::now());
  }
  flow_.reset();
  if (leads_) lane_.led_->end();
  // Copies out of whole buckets wait for nobody.
  if (lane_.cuda_->record(lane_.options_.device, lane_.copied_, gpu_.copy())) {
    if (Status s = wait_for_event(*lane_.cuda_, lane_.options_.device, lane_.copied_); !s) return s;
  }
  return why;
}

void NcclBring::flow_failed(const Status& why, std::uint32_t have, Clock::time_point now) {
  base::log(LogLevel::kWarn, "nccl_transfer_failed",
            {{"source", share_.address.endpoint},
             {"version", to_string(share_.address.version)},
             {"buckets", have},
             {"why", why.message()}});
  flow_.reset();
  keep_ring();
  aside_.reset();
  group_.clear();
  if (std::exchange(leads_, false)) lane_.led_->end();
  is_rested_ = false;
  lane_.drop_kept(client_, now);
  guest_.flow_ended(why, have, now);
}

Status NcclBring::run() {
  for (;;) {
    const auto now = Clock::now();
    gpu_.poll(now);
    if (gpu_.is_lost()) return give_up(gpu_.status());
    if (cancelled_()) return give_up({Code::kCancelled, "the attempt was given up"});
    guest_.tick(now);
    switch (guest_.phase()) {
      case SessionGuest::Phase::kAsking: ask(now); break;
      case SessionGuest::Phase::kFlowing:
        if (guest_.go().board.empty()) {
          flow(now);
        } else {
          flow_aside(now);
        }
        break;
      case SessionGuest::Phase::kDone: return Status::ok();
      case SessionGuest::Phase::kFailed: return give_up(guest_.status());
    }
  }
}

void NcclBring::ask(Clock::time_point now) {
  if (client_.kept != 0 && gpu_.find(client_.group) == nullptr) {
    client_.kept = 0;
    guest_.kept_lost();
  }
  const bool has_room =
      client_.kept != 0 || gpu_.communicators() < gpu_.options().max_communicators;
  if (!is_rested_ && gpu_.status() && has_room) {
    is_rested_ = true;
    guest_.rested(now);
  }
  // An answer counts if it is one to the last ask.
  const bool may_ask = !awaits_answer_ || now - asked_at_ > kAnswerTime;
  if (const auto next = may_ask ? guest_.next_ask(now) : std::nullopt) {
    client_.to->send(*next, now);
    asked_at_ = now;
    awaits_answer_ = true;
  }
  while (auto answer = client_.to->receive()) {
    awaits_answer_ = false;
    lane_.is_refused_ = lane_.is_refused_ || answer->kind == SessionAnswer::Kind::kRefuse;
    guest_.answered(*answer, now);
  }
  if (guest_.phase() == SessionGuest::Phase::kAsking) std::this_thread::sleep_for(kLookAtSocket);
}

/// @return whether it is in the session's communicator, or coming into it
bool NcclBring::join(Clock::time_point now) {
  const SessionAnswer& go = guest_.go();
  if (go.kept != 0 && client_.kept != go.kept) {
    flow_failed({Code::kUnavailable, "the communicator that was kept is gone"}, go.first, now);
    return false;
  }
  if (go.neighbours != 0 && !lane_.led_) {
    flow_failed({Code::kInvalid, "the source takes this engine for a leader"}, go.first, now);
    return false;
  }
  if (go.kept != 0) {
    group_ = client_.group;
  } else {
    lane_.drop_kept(client_, now);
    group_ = share_.address.endpoint + "#" + std::to_string(go.session);
    const transport::CommPlace seat{go.id, go.rank, go.size, go.session, go.blocks};
    if (Status s = gpu_.join(group_, seat, now); !s) {
      flow_failed(s, go.first, now);
      return false;
    }
  }
  leads_ = go.neighbours != 0;
  if (leads_) lane_.led_->begin({lane_.asked_, go.session, go.first, go.neighbours});
  return true;
}

void NcclBring::flow(Clock::time_point now) {
  const SessionAnswer& go = guest_.go();
  if (group_.empty() && !join(now)) return;
  if (!flow_) {
    const transport::Communicator* const communicator = gpu_.find(group_);
    if (communicator == nullptr) {
      // It failed; its quarantine may be over by now.
      return flow_failed(gpu_.status() ? Status(Code::kUnavailable, "the communicator failed")
                                       : Status(gpu_.status()),
                         go.first, now);
    }
    if (communicator->state() != transport::Communicator::State::kReady) {
      return std::this_thread::sleep_for(kLookAtFlow);
    }
    flow_ = std::make_unique<BucketFlow>(
        gpu_, std::vector<std::string>{group_},
        stream::nccl_steps(share_.address.payload_bytes, go.first, go.rank, go.size), end_, now);
  }
  switch (flow_->poll(now)) {
    case BucketFlow::State::kRunning: return std::this_thread::sleep_for(kLookAtFlow);
    case BucketFlow::State::kFailed: {
      const auto have = go.first + static_cast<std::uint32_t>(flow_->done());
      return flow_failed(Status(flow_->status()), have, now);
    }
    case BucketFlow::State::kDone: break;
  }
  if (go.keeps) {
    client_.kept = go.kept != 0 ? go.kept : go.session;
    client_.group = group_;
  } else {
    client_.kept = 0;
    gpu_.leave(group_, now);
  }
  group_.clear();
  flow_.reset();
  if (std::exchange(leads_, false)) lane_.led_->end();
  guest_.flow_ended(Status::ok(), 0, now);
}

/// The leader's stays open for the next version; and until copies that are queued are over.
void NcclBring::keep_ring() {
  if (aside_ && aside_->memory()) lane_.leaders_[guest_.go().board] = {aside_->memory(), true};
}

/// Out of the ring of this place's leader.
void NcclBring::flow_aside(Clock::time_point now) {
  const SessionAnswer& go = guest_.go();
  if (!aside_) {
    if (!go.keeps) lane_.drop_kept(client_, now);
    aside_ = std::make_unique<transport::NeighbourFlow>(
        gpu_, go.board, staging::BoardFlow{go.leader_ask, go.session, go.first, 0}, go.seat,
        stream::nccl_steps(share_.address.payload_bytes, go.first, 1, 0), end_, now);
  }
  switch (aside_->poll(now)) {
    case BucketFlow::State::kRunning: return std::this_thread::sleep_for(kLookAtFlow);
    case BucketFlow::State::kFailed: {
      const Status why = aside_->status();
      if (aside_->is_cut_off()) guest_.share_with_nobody();
      lane_.note_leader(aside_->is_cut_off(), why.message());
      return flow_failed(why, go.first + static_cast<std::uint32_t>(aside_->done()), now);
    }
    case BucketFlow::State::kDone: break;
  }
  lane_.note_leader(false, {});
  lane_.is_led_ = true;
  keep_ring();
  aside_.reset();
  guest_.flow_ended(Status::ok(), 0, now);
}

}  // namespace weightcast::subscriber
