#include "subscriber/nccl_lane.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "staging/object_name.hpp"
#include "staging/sweep.hpp"
#include "stream/nccl_identity.hpp"
#include "stream/nccl_steps.hpp"
#include "subscriber/nccl_bring.hpp"

namespace weightcast::subscriber {
namespace {

using transport::NcclGpu;

/// Of a leader with neighbours that do not move: a third of what its own flow may be silent.
constexpr auto kNeighbourPatience = std::chrono::seconds(1);
/// Leaders in a row whose memory could not be read; then this engine asks for ranks of its own.
constexpr int kMostCutOff = 3;

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
  led_.reset();
  leaders_.clear();
  gpu_.reset();
  if (copied_ != nullptr) cuda_->destroy_event(options_.device, copied_);
}

Status NcclLane::make_room(std::uint64_t payload_bytes) {
  const std::uint64_t needed = stream::nccl_bucket_bytes(payload_bytes);
  if (gpu_ && (gpu_->is_lost() || gpu_->options().bucket_bytes >= needed)) return Status::ok();
  for (auto& [owner, client] : clients_) client.kept = 0;
  if (led_) led_->end();
  gpu_.reset();
  transport::NcclOptions how = stream::nccl_options();
  how.bucket_bytes = needed;
  auto opened = NcclGpu::open(nccl_, cuda_, options_.device, how);
  if (!opened) return opened.status();
  gpu_ = std::move(*opened);
  base::log(LogLevel::kInfo, "nccl_buckets",
            {{"device", options_.device}, {"bytes", needed * how.buckets}});
  show_ring();
  return Status::ok();
}

std::string NcclLane::place_of(const NcclShare& share) const {
  if (!led_ || cut_off_ >= kMostCutOff) return {};
  return stream::nccl_place(identity_, options_.host, share.is_near);
}

/// To engines that this one may lead.
void NcclLane::show_ring() {
  if (cut_off_ >= kMostCutOff) return;
  Status status;
  if (!led_) {
    staging::sweep(options_.job);
    std::random_device random;
    const staging::ObjectOwner owner{options_.job, options_.policy,
                                     {base::unix_us(), random()}, 0,
                                     static_cast<std::uint64_t>(::getpid())};
    auto made = transport::LedRing::make(staging::owner_prefix(owner), kNeighbourPatience);
    status = made.status();
    if (made) led_ = std::move(*made);
  }
  if (led_) status = led_->show(gpu_->ring());
  if (status) return;
  led_.reset();
  share_with_nobody(status.message());
}

void NcclLane::share_with_nobody(const std::string& why) {
  cut_off_ = kMostCutOff;
  base::log(LogLevel::kInfo, "nccl_shares_nothing",
            {{"why", why}, {"next", "this engine takes a rank of its own in every communicator"}});
}

void NcclLane::note_leader(bool is_cut_off, const std::string& why) {
  cut_off_ = is_cut_off ? cut_off_ + 1 : 0;
  if (cut_off_ == kMostCutOff) share_with_nobody(why);
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
  if (Status s = make_room(share.address.payload_bytes); !s) return s;
  auto client = client_of(share.address);
  if (!client) return client.status();
  // It may have ended since.
  gpu_->poll(Clock::now());
  if ((*client)->kept != 0 && gpu_->find((*client)->group) == nullptr) (*client)->kept = 0;
  // An ask of an older attempt, or of an older life of this engine, is told from this one.
  asked_ = std::max(asked_ + 1, base::unix_us());
  return NcclBring(*this, share, **client, cancelled).run();
}

void NcclLane::settle() {
  for (auto& [owner, client] : clients_) {
    if (!client.is_used) drop_kept(client, Clock::now());
  }
  std::erase_if(clients_, [](const auto& it) { return !it.second.is_used; });
  for (auto& [owner, client] : clients_) client.is_used = false;
  std::erase_if(leaders_, [](const auto& it) { return !it.second.is_used; });
  for (auto& [board, leader] : leaders_) leader.is_used = false;
  if (!gpu_) return;
  if (Status s = gpu_->settle(Clock::now() + gpu_->options().leave); !s) {
    base::log(LogLevel::kWarn, "nccl_left_in_haste", {{"why", s.message()}});
  }
}

}  // namespace weightcast::subscriber
