// The stager's way from a manifest to bytes that can be switched to.
#include <algorithm>
#include <utility>

#include "base/failpoint.hpp"
#include "base/trace.hpp"
#include "subscriber/fetch.hpp"
#include "subscriber/stager.hpp"
#include "subscriber/verify.hpp"

namespace weightcast::subscriber {
namespace {

/// Of a configured budget, what buckets under way may take.
constexpr std::uint64_t kBucketShare = 16;
/// The applier's own leases are not ours to be told of: it is asked again this often.
constexpr auto kAskApplier = std::chrono::milliseconds(5);
constexpr auto kRoomWarning = std::chrono::seconds(2);
constexpr auto kRoomRetry = std::chrono::milliseconds(100);

Status given_up() { return Status(Code::kCancelled, "the attempt was given up"); }

}  // namespace

Status Stager::wait_for_applier(std::uint64_t op) {
  while (applier_ && !applier_->can_begin()) {
    if (cancelled(op)) return given_up();
    room_->wait(Clock::now() + kAskApplier);
  }
  return Status::ok();
}

Status Stager::wait_for_room(const Incoming& incoming) {
  const auto began = Clock::now();
  const base::TraceScope span("wait", "room", {.version = incoming.version.number});
  while (!room_->try_enter()) {
    if (cancelled(incoming.op)) return given_up();
    if (Clock::now() - began > kRoomWarning && room_warning_.allow(Clock::now())) {
      base::log(LogLevel::kWarn, "no_room_for_next_version",
                {{"what", "both images of this engine are held: end leases sooner, and clone() "
                          "tensors that must outlive theirs"}});
    }
    room_->wait(Clock::now() + kRoomRetry);
  }
  return Status::ok();
}

Status Stager::stage(const std::string& relay, Incoming& incoming) {
  if (cancelled(incoming.op)) return given_up();
  base::failpoint("engine.prepare", incoming.version.number);
  if (incoming.version < dirty_) {
    return Status(Code::kStale, "version " + to_string(dirty_) + " has begun to come in place: " +
                                    "only one at least as new can be served");
  }
  {
    const base::TraceScope span("wait", "applier", {.version = incoming.version.number});
    if (Status status = wait_for_applier(incoming.op); !status) return status;
  }
  if (Status status = settle(relay, incoming); !status) return status;
  say_sources(incoming, relay);
  Status status;
  if (applier_) {
    status = guarded("begin", [&] { return applier_->begin(incoming.version, incoming.infos); });
    if (!status) return status;
  }
  status = bring(incoming);
  if (status && cancelled(incoming.op)) status = given_up();
  if (status && applier_ && incoming.image) {
    const base::TraceScope span("applier", "place", {.version = incoming.version.number});
    status = guarded("place", [&] { return applier_->place(incoming.image); });
  }
  if (!status && applier_) applier_->rollback(incoming.version);
  return status;
}

Status Stager::bring(Incoming& incoming) {
  switch (incoming.activation) {
    case Activation::kView: return fill_view(incoming);
    case Activation::kFlip: return fill_copy(incoming);
    case Activation::kStaged: return stage_copy(incoming);
    default: return open_shares(incoming);  // serial: the bytes come with Switch
  }
}

// ---- which activation -----------------------------------------------------------------------

std::string Stager::why_no_view(const Incoming& incoming) const {
  if (room_->memory().device() >= 0) return "the engine is on a device";
  if (!options_.layout.empty()) return "a layout asks for tensors other than those published";
  for (const ShareSource& source : incoming.sources) {
    if (source.transport == TransportChoice::kTcp) return "bytes come over tcp";
    if (source.transport != TransportChoice::kShm) return "bytes come from a device's memory";
  }
  for (const plan::Share& share : incoming.manifest.shares) {
    for (const plan::ShareEntry& entry : share.entries) {
      if (entry.info.is_box()) return "tensor '" + entry.info.name + "' is sharded";
    }
  }
  return {};
}

std::uint32_t Stager::network_lanes(const Incoming& incoming) const {
  std::vector<std::string> endpoints;
  for (const ShareSource& source : incoming.sources) {
    if (source.transport == TransportChoice::kTcp) endpoints.push_back(source.address.endpoint);
  }
  std::sort(endpoints.begin(), endpoints.end());
  const auto end = std::unique(endpoints.begin(), endpoints.end());
  return static_cast<std::uint32_t>(end - endpoints.begin());
}

Status Stager::plan_for(Incoming& incoming) {
  const std::uint32_t lanes = network_lanes(incoming);
  std::string reason = "configured";
  bucket_bytes_ = options_.bucket_bytes;
  if (bucket_bytes_ == 0 && lanes == 0) {
    bucket_bytes_ = room_->memory().bucket_bytes();
    reason = "what is copied at a time";
  } else if (bucket_bytes_ == 0) {
    plan::BucketNeeds needs;
    needs.wanted_bytes = incoming.manifest.bytes();
    needs.budget_bytes = options_.memory_budget / kBucketShare;
    needs.under_way = sources_.credit() * lanes;
    needs.bytes_per_second = bytes_per_second_;
    const plan::BucketSize size = plan::size_buckets(needs);
    bucket_bytes_ = size.bytes;
    reason = size.reason;
  }
  auto planned = plan::plan_image(incoming.manifest, options_.layout, bucket_bytes_);
  if (!planned) return planned.status();
  incoming.plan = std::move(*planned);
  for (const plan::ImageTensor& tensor : incoming.plan.tensors) {
    incoming.infos.push_back(tensor.info);
  }
  base::log(LogLevel::kDebug, "image_planned",
            {{"version", to_string(incoming.version)},
             {"bytes", incoming.plan.image_bytes},
             {"buckets", incoming.plan.buckets.size()},
             {"bucket_bytes", bucket_bytes_},
             {"why", reason}});
  return Status::ok();
}

Status Stager::settle(const std::string& relay, Incoming& incoming) {
  auto sources = sources_.choose(incoming.version, incoming.manifest, relay);
  if (!sources) return sources.status();
  incoming.sources = std::move(*sources);

  ActivationNeeds needs;
  needs.wanted = options_.activation;
  needs.why_no_view = why_no_view(incoming);
  needs.fixed_addresses = fixed_addresses_;
  const auto may_view = [&] {
    return needs.why_no_view.empty() && !fixed_addresses_ && least_ == Activation::kView &&
           (options_.activation == Activation::kAuto || options_.activation == Activation::kView) &&
           activation_.value_or(Activation::kView) == Activation::kView;
  };
  const bool viewed = may_view();
  if (viewed) {
    for (const plan::Share& share : incoming.manifest.shares) {
      for (const plan::ShareEntry& entry : share.entries) incoming.infos.push_back(entry.info);
    }
  } else if (Status status = plan_for(incoming); !status) {
    return status;
  } else if (status = plan_without_nccl(relay, incoming); !status) {
    return status;
  }
  const bool fits = activation_ && incoming.plan.image_bytes <= image_bytes_ &&
                    (viewed || *activation_ != Activation::kView);
  if (fits) {
    incoming.activation = *activation_;
    return Status::ok();
  }
  needs.image_bytes = incoming.plan.image_bytes;
  // Those of a lane lie in host memory, which the budget of a device is not about.
  const std::uint32_t lanes = room_->memory().device() < 0 ? network_lanes(incoming) : 0;
  needs.bucket_bytes = bucket_bytes_ * sources_.credit() * lanes;
  auto budget = room_->memory().budget(options_.memory_budget, room_->taken());
  if (!budget) return budget.status();
  needs.budget = *budget;
  for (;;) {
    needs.least = std::max(least_, activation_.value_or(Activation::kView));
    needs.why_least = why_least_;
    const auto choice = choose_activation(needs);
    if (!choice) return choice.status();
    incoming.activation = choice->activation;
    if (Status status = allocate(*choice, needs.image_bytes); !status) {
      if (options_.activation != Activation::kAuto || choice->activation == Activation::kSerial ||
          status.code() != Code::kExhausted) {
        return status;
      }
      fall_from(choice->activation, status);
      continue;
    }
    take(*choice, incoming);
    if (choice->activation == Activation::kSerial && !joined_in_place_) {
      joined_in_place_ = true;
      return Status(Code::kCancelled, "joining again, as an engine of activation serial");
    }
    return Status::ok();
  }
}

Status Stager::allocate(const ActivationChoice& choice, std::uint64_t image_bytes) {
  switch (choice.activation) {
    case Activation::kFlip:
    case Activation::kStaged:
      // Both at the beginning, so that a shortage shows then. One that grows has one to let go.
      return room_->reserve(activation_ == choice.activation ? 1 : 2, image_bytes);
    case Activation::kSerial:
      // Where something is served from a buffer, that one is written to, or freed first.
      return room_->taken() == 0 ? room_->reserve(1, image_bytes) : Status::ok();
    default:
      return Status::ok();
  }
}

void Stager::fall_from(Activation activation, const Status& why) {
  if (options_.activation != Activation::kAuto || activation == Activation::kSerial) return;
  least_ = static_cast<Activation>(static_cast<int>(activation) + 1);
  why_least_ = std::string(activation_name(activation)) + " failed: " + why.to_string();
  image_bytes_ = 0;  // chosen anew with the next version
  base::log(LogLevel::kWarn, "activation_fell",
            {{"from", activation_name(activation)}, {"why", why.to_string()}});
}

void Stager::take(const ActivationChoice& choice, const Incoming& incoming) {
  activation_ = choice.activation;
  image_bytes_ = incoming.plan.image_bytes;
  base::log(LogLevel::kInfo, "activation_chosen",
            {{"activation", activation_name(choice.activation)},
             {"bytes", choice.bytes},
             {"why", choice.reason}});
  host_.happened({.kind = StageEvent::Kind::kChosen,
                  .activation = choice.activation,
                  .text = choice.reason});
}

// ---- the bytes ------------------------------------------------------------------------------

Status Stager::open_shares(Incoming& incoming) {
  incoming.shares.resize(incoming.sources.size());
  for (std::size_t i = 0; i < incoming.sources.size(); ++i) {
    const bool read = incoming.activation == Activation::kView || incoming.plan.share_bytes[i] != 0;
    if (!read || incoming.sources[i].transport == TransportChoice::kNccl) continue;
    auto opened = sources_.open(incoming.manifest.shares[i].rank, incoming.sources[i]);
    if (!opened) return opened.status();
    incoming.shares[i] = std::move(*opened);
  }
  return Status::ok();
}

Status Stager::fill_view(Incoming& incoming) {
  if (Status status = wait_for_room(incoming); !status) return status;
  incoming.image = std::make_shared<Image>(room_, incoming.version);
  if (Status status = open_shares(incoming); !status) return status;
  std::vector<std::span<std::byte>> payloads;
  for (std::size_t i = 0; i < incoming.shares.size(); ++i) {
    const plan::Share& share = incoming.manifest.shares[i];
    const std::span<std::byte> payload = incoming.shares[i].segment->view();
    if (payload.size() < share.payload_bytes) {
      return Status(Code::kMismatch, "this transport cannot show bytes in place; use activation flip");
    }
    if (options_.verify_view) {
      const base::TraceScope span("verify", "view",
                                  {.version = incoming.version.number,
                                   .bytes = static_cast<std::int64_t>(share.payload_bytes),
                                   .rank = share.rank});
      ShareVerifier verifier(share);
      verifier.add(0, payload.first(share.payload_bytes));
      if (Status status = verifier.check(); !status) return status;
    }
    base::failpoint("engine.copying", incoming.version.number);
    payloads.push_back(payload);
    incoming.image->hold_segment(std::move(incoming.shares[i].segment));
  }
  incoming.image->show(incoming.manifest, payloads);
  return Status::ok();
}

Result<std::shared_ptr<ImageBuffer>> Stager::buffer_for(Incoming& incoming) {
  if (ahead_ && continues(*ahead_, incoming.version, incoming.manifest, incoming.plan)) {
    incoming.there = std::move(ahead_->there);
    auto buffer = std::move(ahead_->buffer);
    ahead_.reset();
    return buffer;
  }
  ahead_.reset();
  auto buffer =
      room_->buffer(incoming.plan.image_bytes, [&] { return cancelled(incoming.op); });
  if (buffer.status().code() == Code::kExhausted) fall_from(incoming.activation, buffer.status());
  return buffer;
}

Status Stager::fill_copy(Incoming& incoming) {
  if (Status status = wait_for_room(incoming); !status) return status;
  incoming.image = std::make_shared<Image>(room_, incoming.version);
  auto buffer = buffer_for(incoming);
  if (!buffer) return buffer.status();
  if (Status status = open_shares(incoming); !status) return status;
  const auto bytes = (*buffer)->bytes().first(incoming.plan.image_bytes);
  if (Status status = fetch(incoming, bytes); !status) return status;
  incoming.image->fill(incoming.plan, std::move(*buffer));
  if (options_.layout.empty() && room_->memory().device() < 0) {
    incoming.image->offer(shares_within(incoming.manifest, incoming.plan, bytes));
  }
  return Status::ok();
}

Status Stager::stage_copy(Incoming& incoming) {
  auto buffer = buffer_for(incoming);
  if (!buffer) return buffer.status();
  if (Status status = open_shares(incoming); !status) return status;
  const auto bytes = (*buffer)->bytes().first(incoming.plan.image_bytes);
  if (Status status = fetch(incoming, bytes); !status) return status;
  incoming.staged = std::move(*buffer);
  return Status::ok();
}

Status Stager::fetch(Incoming& incoming, std::span<std::byte> image) {
  const auto began = Clock::now();
  Fetch what{incoming.version, incoming.manifest, incoming.plan, image,
             incoming.shares,  progress_,         {}};
  std::vector<char> by_nccl;
  if (Status status = fetch_by_nccl(incoming, what, by_nccl); !status) {
    incoming.shares.clear();
    return status;
  }
  std::vector<char> there = by_nccl;
  if (!incoming.there.empty()) {
    there.resize(incoming.there.size());
    for (std::size_t i = 0; i < there.size(); ++i) there[i] = there[i] | incoming.there[i];
  }
  if (!there.empty()) what.there = &there;
  const auto bring = [&] {
    return room_->memory().fetch(what, sources_.credit(), [&] { return cancelled(incoming.op); });
  };
  Status status = bring();
  if (status.code() == Code::kMismatch && !incoming.there.empty()) {
    // Read too early after all. Now the sources hold still.
    base::log(LogLevel::kWarn, "read_ahead_failed",
              {{"version", to_string(incoming.version)},
               {"why", status.to_string()},
               {"next", "copied again"}});
    what.there = by_nccl.empty() ? nullptr : &by_nccl;
    status = bring();
  }
  if (NcclLane* const nccl = sources_.nccl(); nccl != nullptr) nccl->settle();
  incoming.shares.clear();  // the sources may write there again
  if (!status) {
    sources_.drop_peer_lanes();
  } else if (network_lanes(incoming) != 0) {
    const std::chrono::duration<double> took = Clock::now() - began;
    bytes_per_second_ = static_cast<double>(image.size()) / std::max(took.count(), 1e-6);
  }
  return status;
}

}  // namespace weightcast::subscriber
