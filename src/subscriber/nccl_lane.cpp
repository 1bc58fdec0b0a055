#include "subscriber/nccl_lane.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/failpoint.hpp"
#include "base/log.hpp"
#include "staging/object_name.hpp"
#include "stream/nccl_identity.hpp"
#include "stream/nccl_steps.hpp"
#include "subscriber/device_copies.hpp"
#include "transport/nccl/receiver.hpp"

namespace weightcast::subscriber {
namespace {

using transport::BucketFlow;
using transport::NcclDestination;
using transport::NcclGpu;
using transport::SessionAnswer;
using transport::SessionGuest;

/// Between looks at a flow, as transport::run() has it, and at the socket.
constexpr auto kLookAtFlow = std::chrono::microseconds(50);
constexpr auto kLookAtSocket = std::chrono::milliseconds(1);
/// An ask without an answer is lost, as one is that comes before there is a connection.
constexpr auto kAnswerTime = std::chrono::milliseconds(100);

/// Copies what of the bucket at `offset` of the payload belongs somewhere.
Status place(driver::Cuda& cuda, int device, const std::vector<NcclRun>& runs, std::uint64_t offset,
             std::span<const std::byte> bucket, driver::Stream stream) {
  const std::uint64_t end = offset + bucket.size();
  auto run = std::partition_point(runs.begin(), runs.end(), [&](const NcclRun& one) {
    return one.source + one.bytes <= offset;
  });
  std::vector<driver::CopyItem> items;
  for (; run != runs.end() && run->source < end; ++run) {
    const std::uint64_t from = std::max(run->source, offset);
    const std::uint64_t to = std::min(run->source + run->bytes, end);
    items.push_back({run->target + (from - run->source), bucket.data() + (from - offset), to - from});
    if (items.size() < DeviceCopies::kItems) continue;
    if (Status s = cuda.copy(device, items, stream); !s) return s;
    items.clear();
  }
  return items.empty() ? Status::ok() : cuda.copy(device, items, stream);
}

}  // namespace

NcclLane::NcclLane(std::shared_ptr<driver::Nccl> nccl, std::shared_ptr<driver::Cuda> cuda,
                   NcclLaneOptions options, std::string identity)
    : nccl_(std::move(nccl)),
      cuda_(std::move(cuda)),
      options_(std::move(options)),
      identity_(std::move(identity)) {}

Result<std::unique_ptr<NcclLane>> NcclLane::open(std::shared_ptr<driver::Nccl> nccl,
                                                 std::shared_ptr<driver::Cuda> cuda,
                                                 NcclLaneOptions options) {
  auto identity = stream::nccl_identity(*cuda, options.device);
  if (!identity) return identity.status();
  std::unique_ptr<NcclLane> lane(
      new NcclLane(std::move(nccl), std::move(cuda), std::move(options), std::move(*identity)));
  auto event = lane->cuda_->create_event(lane->options_.device, false);
  if (!event) return event.status();
  lane->copied_ = *event;
  return lane;
}

NcclLane::~NcclLane() {
  gpu_.reset();
  if (copied_ != nullptr) cuda_->destroy_event(options_.device, copied_);
}

Status NcclLane::make_room(std::uint64_t payload_bytes) {
  const std::uint64_t needed = stream::nccl_bucket_bytes(payload_bytes);
  if (gpu_ && (gpu_->is_lost() || gpu_->options().bucket_bytes >= needed)) return Status::ok();
  for (auto& [owner, client] : clients_) client.kept = 0;
  gpu_.reset();
  transport::NcclOptions how = stream::nccl_options();
  how.bucket_bytes = needed;
  auto opened = NcclGpu::open(nccl_, cuda_, options_.device, how);
  if (!opened) return opened.status();
  gpu_ = std::move(*opened);
  base::log(LogLevel::kInfo, "nccl_buckets",
            {{"device", options_.device}, {"bytes", needed * how.buckets}});
  return Status::ok();
}

Result<NcclLane::Client*> NcclLane::client_of(const transport::SegmentAddress& address) {
  Client& client = clients_[std::string(staging::prefix_of(address.object))];
  client.is_used = true;
  if (!client.to) {
    auto opened = transport::SessionClient::open(address, options_.keys);
    if (!opened) return opened.status();
    client.to = std::move(*opened);
  }
  return &client;
}

void NcclLane::drop_kept(Client& client, Clock::time_point now) {
  if (std::exchange(client.kept, 0) == 0) return;
  gpu_->drop(client.group, {Code::kCancelled, "its members have changed"}, now);
}

/// One communicator has to be free for the next.
bool NcclLane::may_keep(const Client& client) const {
  const auto others = std::count_if(clients_.begin(), clients_.end(), [&](const auto& it) {
    return it.second.kept != 0 && &it.second != &client;
  });
  return static_cast<std::uint32_t>(others) + 1 < gpu_->options().max_communicators;
}

Status NcclLane::bring(const NcclShare& share, const std::function<bool()>& cancelled) {
  is_refused_ = false;
  const transport::SegmentAddress& address = share.address;
  if (Status s = make_room(address.payload_bytes); !s) return s;
  auto found = client_of(address);
  if (!found) return found.status();
  Client& client = **found;
  NcclGpu& gpu = *gpu_;
  // It may have ended since.
  gpu.poll(Clock::now());
  if (client.kept != 0 && gpu.find(client.group) == nullptr) client.kept = 0;

  const std::uint64_t bucket_bytes = stream::nccl_bucket_bytes(address.payload_bytes);
  std::vector<NcclDestination> destinations(stream::nccl_buckets(address.payload_bytes));
  for (std::size_t i = 0; i < destinations.size(); ++i) {
    destinations[i] = [&, offset = i * bucket_bytes](std::span<const std::byte> bucket,
                                                           driver::Stream stream) {
      base::failpoint("engine.copying", address.version.number);
      return place(*cuda_, options_.device, share.runs, offset, bucket, stream);
    };
  }
  transport::NcclReceiver end(std::move(destinations), [&](std::uint32_t bucket) {
    const std::uint64_t offset = bucket * bucket_bytes;
    if (share.placed) share.placed(std::min(bucket_bytes, address.payload_bytes - offset));
  });

  // An ask of an older attempt, or of an older life of this engine, is told from this one.
  const auto stamp = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::system_clock::now().time_since_epoch());
  asked_ = std::max(asked_ + 1, static_cast<std::uint64_t>(stamp.count()));
  bool is_rested = false;
  bool awaits_answer = false;
  Clock::time_point asked_at{};
  SessionGuest guest(options_.session,
                     {.name = options_.name,
                      .incarnation = asked_,
                      .version = address.version,
                      .generation = address.generation,
                      .plan = stream::nccl_plan(address.payload_bytes),
                      .device = identity_,
                      .nccl_version = nccl_->version(),
                      .is_ready = false,
                      .kept = client.kept,
                      .may_keep = may_keep(client)},
                     Clock::now());
  std::string group;
  std::unique_ptr<BucketFlow> flow;
  const auto give_up = [&](Status why) {
    if (flow) {
      flow->cancel(why, Clock::now());
    } else if (!group.empty()) {
      gpu.fail({group}, why, Clock::now());
    }
    flow.reset();
    // Copies out of whole buckets wait for nobody.
    if (cuda_->record(options_.device, copied_, gpu.copy())) {
      if (Status s = wait_for_event(*cuda_, options_.device, copied_); !s) return s;
    }
    return why;
  };
  const auto flow_failed = [&](const Status& why, std::uint32_t have, Clock::time_point now) {
    base::log(LogLevel::kWarn, "nccl_transfer_failed",
              {{"source", address.endpoint},
               {"version", to_string(address.version)},
               {"buckets", have},
               {"why", why.message()}});
    flow.reset();
    group.clear();
    is_rested = false;
    drop_kept(client, now);
    guest.flow_ended(why, have, now);
  };

  for (;;) {
    const auto now = Clock::now();
    gpu.poll(now);
    if (gpu.is_lost()) return give_up(gpu.status());
    if (cancelled()) return give_up({Code::kCancelled, "the attempt was given up"});
    guest.tick(now);
    switch (guest.phase()) {
      case SessionGuest::Phase::kAsking: {
        if (client.kept != 0 && gpu.find(client.group) == nullptr) {
          client.kept = 0;
          guest.kept_lost();
        }
        const bool has_room =
            client.kept != 0 || gpu.communicators() < gpu.options().max_communicators;
        if (!is_rested && gpu.status() && has_room) {
          is_rested = true;
          guest.rested(now);
        }
        // An answer counts if it is one to the last ask.
        const bool may_ask = !awaits_answer || now - asked_at > kAnswerTime;
        if (const auto ask = may_ask ? guest.next_ask(now) : std::nullopt) {
          client.to->send(*ask, now);
          asked_at = now;
          awaits_answer = true;
        }
        while (auto answer = client.to->receive()) {
          awaits_answer = false;
          is_refused_ = is_refused_ || answer->kind == SessionAnswer::Kind::kRefuse;
          guest.answered(*answer, now);
        }
        if (guest.phase() == SessionGuest::Phase::kAsking) std::this_thread::sleep_for(kLookAtSocket);
        break;
      }
      case SessionGuest::Phase::kFlowing: {
        const SessionAnswer& go = guest.go();
        if (group.empty() && go.kept != 0) {
          if (client.kept != go.kept) {
            flow_failed({Code::kUnavailable, "the communicator that was kept is gone"}, go.first, now);
            break;
          }
          group = client.group;
        }
        if (group.empty()) {
          drop_kept(client, now);
          group = address.endpoint + "#" + std::to_string(go.session);
          const transport::CommPlace seat{go.id, go.rank, go.size, go.session, go.blocks};
          if (Status s = gpu.join(group, seat, now); !s) {
            flow_failed(s, go.first, now);
            break;
          }
        }
        if (!flow) {
          const transport::Communicator* const communicator = gpu.find(group);
          if (communicator == nullptr) {
            // It failed; its quarantine may be over by now.
            flow_failed(gpu.status() ? Status(Code::kUnavailable, "the communicator failed")
                                     : Status(gpu.status()),
                        go.first, now);
            break;
          }
          if (communicator->state() != transport::Communicator::State::kReady) {
            std::this_thread::sleep_for(kLookAtFlow);
            break;
          }
          flow = std::make_unique<BucketFlow>(
              gpu, std::vector<std::string>{group},
              stream::nccl_steps(address.payload_bytes, go.first, go.rank, go.size), end, now);
        }
        const BucketFlow::State state = flow->poll(now);
        if (state == BucketFlow::State::kRunning) {
          std::this_thread::sleep_for(kLookAtFlow);
        } else if (state == BucketFlow::State::kFailed) {
          const auto have = go.first + static_cast<std::uint32_t>(flow->done());
          flow_failed(Status(flow->status()), have, now);
        } else {
          if (go.keeps) {
            client.kept = go.kept != 0 ? go.kept : go.session;
            client.group = group;
          } else {
            client.kept = 0;
            gpu.leave(group, now);
          }
          group.clear();
          flow.reset();
          guest.flow_ended(Status::ok(), 0, now);
        }
        break;
      }
      case SessionGuest::Phase::kDone: return Status::ok();
      case SessionGuest::Phase::kFailed: return give_up(guest.status());
    }
  }
}

void NcclLane::settle() {
  for (auto& [owner, client] : clients_) {
    if (!client.is_used) drop_kept(client, Clock::now());
  }
  std::erase_if(clients_, [](const auto& it) { return !it.second.is_used; });
  for (auto& [owner, client] : clients_) client.is_used = false;
  if (!gpu_) return;
  if (Status s = gpu_->settle(Clock::now() + gpu_->options().leave); !s) {
    base::log(LogLevel::kWarn, "nccl_left_in_haste", {{"why", s.message()}});
  }
}

}  // namespace weightcast::subscriber
